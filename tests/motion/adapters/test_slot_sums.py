"""Adapters in the places of a block: their answers are weighed and summed, and weight 0 is the model itself."""

import pytest
import torch
import torch.nn.functional as F
from lora_toys import call, mixed_lora
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.slot_sums import summed_slots
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError
from pack.motion.models.block_adapters import BlockAdapters, PairWeights, Whole
from torch import nn
from training_toys import tiny_dit, tiny_spec

SIZE = {"num_frames": 3, "grid": (2, 2)}
WIDTH = 16


class TextMLP(nn.Module):
    """A small real adapter: two layers in place of text attention, one matrix beside attention along the frames."""

    kind, layers = "text_mlp", {}

    def __init__(self, seed, blocks=(0, 1)):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shapes = (3, WIDTH), (WIDTH, 3), (WIDTH, WIDTH)
        drawn = [nn.Parameter(torch.randn(shape, generator=generator) / 4) for shape in shapes]
        self.down, self.up, self.temporal = drawn
        self.blocks = blocks

    @property
    def fits(self):
        return {f"transformer_blocks.{block}.attn2.to_q.weight": (WIDTH, WIDTH) for block in self.blocks}

    @property
    def slots(self):
        return BlockAdapters(instead_of_text=self.instead, temporal=self.beside)

    def instead(self, site):
        if site.around.block not in self.blocks:
            return None
        return F.gelu(site.attention.to_q(site.tokens) @ self.down.T) @ self.up.T

    def beside(self, site):
        return site.tokens @ self.temporal.T


class Halves(TextMLP):
    """Weighs pairs of tokens by scores of a projection of the tokens."""

    @property
    def slots(self):
        return BlockAdapters(attention_bias=self.pairs)

    def scores(self, tokens):
        return torch.sigmoid(tokens @ self.temporal[0])

    def pairs(self, site):
        score = self.scores(site.tokens)
        return PairWeights(torch.stack((score, 1 - score), -1), torch.stack((score, 1 - score), -1))


def run(dit, *entries):
    with AdapterStack(entries).attached(dit, sigma=0.5, **SIZE) as slots:
        return call(dit, adapters=slots)


def test_an_adapter_at_weight_1_acts_as_given_to_the_network_and_at_0_is_not_there():
    dit, one = tiny_dit(tiny_spec()), TextMLP(0)
    assert torch.equal(run(dit, StackEntry(one)), call(dit, adapters=one.slots))
    assert torch.equal(run(dit, StackEntry(one, 0.0)), call(dit))
    assert not torch.equal(run(dit, StackEntry(one)), call(dit))


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.2), (0.9, 0.6), (-0.5, 0.25)])
def test_answers_are_weighed_and_text_fills_up_to_1(weights):
    dit, adapters = tiny_dit(tiny_spec()), (TextMLP(0), TextMLP(1, blocks=(1,)))

    def instead(site):
        found = [(w, a.instead(site)) for w, a in zip(weights, adapters)]
        found = [(w, answer) for w, answer in found if answer is not None]
        rest = max(0.0, 1 - sum(w for w, _ in found))
        return sum(w * answer for w, answer in found) + rest * site.attention(site.tokens, site.around)

    def beside(site):
        return sum(w * a.beside(site) for w, a in zip(weights, adapters))

    truth = call(dit, adapters=BlockAdapters(instead_of_text=instead, temporal=beside))
    seen = run(dit, *(StackEntry(adapter, weight) for adapter, weight in zip(adapters, weights)))
    torch.testing.assert_close(seen, truth, atol=1e-6, rtol=1e-5)


def test_two_halves_of_one_adapter_are_the_adapter():
    dit = tiny_dit(tiny_spec())
    for adapter in (TextMLP(0), Halves(0)):
        halves = run(dit, StackEntry(adapter, 0.5), StackEntry(adapter, 0.5))
        torch.testing.assert_close(halves, run(dit, StackEntry(adapter)), atol=1e-6, rtol=1e-5)


def test_each_token_has_its_own_weight_in_a_block_and_text_fills_up_by_token():
    dit, one = tiny_dit(tiny_spec()), TextMLP(0)
    mask = torch.tensor([[1.0, 0.0], [0.25, 1.0]]).view(1, 2, 2)
    values = mask.view(1, 1, 4, 1)

    def instead(site):
        return values * one.instead(site) + (1 - values) * site.attention(site.tokens, site.around)

    truth = call(dit, adapters=BlockAdapters(instead_of_text=instead, temporal=lambda site: values * one.beside(site)))
    torch.testing.assert_close(run(dit, StackEntry(one, mask=mask)), truth, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weights", [(1.0,), (0.4,), (0.3, 0.5), (0.8, 0.9)])
def test_pairs_are_weighed_by_the_sum_of_factors_and_fill_up_with_1(weights):
    adapters = [Halves(seed) for seed in range(len(weights))]
    slots = summed_slots([(weight, adapter.slots) for weight, adapter in zip(weights, adapters)])
    tokens = torch.randn(2, 3, 4, WIDTH, generator=torch.Generator().manual_seed(0))

    class Site:
        pass

    site = Site()
    site.tokens = tokens
    found = slots.attention_bias(site)
    seen = found.query @ found.key.transpose(-1, -2)
    truth = torch.full_like(seen, max(0.0, 1 - sum(weights)))
    for weight, adapter in zip(weights, adapters):
        score = adapter.scores(tokens)
        for p in range(4):
            for j in range(4):
                same = score[..., p] * score[..., j] + (1 - score[..., p]) * (1 - score[..., j])
                truth[..., p, j] += weight * same
    torch.testing.assert_close(seen, truth, atol=1e-6, rtol=1e-5)
    assert found.query.shape[-1] == 2 * len(weights) + (sum(weights) < 1)


def test_a_negative_weight_of_pairs_is_refused():
    with pytest.raises(ConfigError, match="has weight -0.5; 0 or more"):
        run(tiny_dit(tiny_spec()), StackEntry(Halves(0), -0.5))


def test_loras_and_adapters_inside_blocks_act_together_during_a_run():
    dit, one, lora = tiny_dit(tiny_spec()), TextMLP(0), mixed_lora(tiny_dit(tiny_spec()))
    stack = AdapterStack((StackEntry(one, 0.6), StackEntry(lora, 0.5)))
    with stack.attached(dit, sigma=0.5, **SIZE) as slots:
            truth = call(dit, adapters=slots)
    with stack.during(dit):
        assert torch.equal(call(dit), truth)
        with pytest.raises(ConfigError, match="adapters are given to the network already"):
            call(dit, adapters=one.slots)
    assert not torch.equal(run(dit, StackEntry(one, 0.6)), truth)


def in_paper_form(dit, *entries):
    with AdapterStack(entries, form="paper").attached(dit, sigma=0.5, **SIZE) as slots:
        return call(dit, adapters=slots)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.2), (0.9, 0.6), (0.0, 0.0)])
def test_in_the_papers_form_nothing_fills_up_and_attention_along_the_frames_is_weighed_whole(weights):
    dit, adapters = tiny_dit(tiny_spec()), (TextMLP(0), TextMLP(1))

    def instead(site):
        return sum(w * a.instead(site) for w, a in zip(weights, adapters))

    def temporal(site):
        whole = sum(w * (site.result + a.beside(site)) for w, a in zip(weights, adapters))
        return whole - site.result

    truth = call(dit, adapters=BlockAdapters(instead_of_text=instead, temporal=temporal))
    entries = [StackEntry(adapter, weight) for adapter, weight in zip(adapters, weights)]
    seen = in_paper_form(dit, *entries)
    torch.testing.assert_close(seen, truth, atol=1e-6, rtol=1e-5)
    if sum(weights) == 1:
        torch.testing.assert_close(seen, run(dit, *entries), atol=1e-6, rtol=1e-5)
    else:
        assert (seen - run(dit, *entries)).abs().max() > 1e-3


class Replaces(TextMLP):
    """The same numbers, answered along the frames as a whole."""

    @property
    def slots(self):
        return BlockAdapters(instead_of_text=self.instead, temporal=lambda site: Whole(site.result + self.beside(site)))


@pytest.mark.parametrize("form", ["delta", "paper"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, 0.5), (0.3, 0.2), (0.9, 0.6), (-0.5, 0.25)])
def test_what_is_answered_as_a_whole_adds_up_as_what_is_added_does(weights, form):
    dit = tiny_dit(tiny_spec())
    runs = []
    for kinds in ((TextMLP, TextMLP), (Replaces, Replaces), (Replaces, TextMLP)):
        entries = tuple(StackEntry(kind(seed), weight) for seed, (kind, weight) in enumerate(zip(kinds, weights)))
        with AdapterStack(entries, form=form).attached(dit, sigma=0.5, **SIZE) as slots:
            runs.append(call(dit, adapters=slots))
    for seen in runs[1:]:
        torch.testing.assert_close(seen, runs[0], atol=1e-6, rtol=1e-5)


def test_where_a_mask_is_0_the_layers_own_answer_stands_to_the_last_bit():
    slots = BlockAdapters(temporal=lambda site: Whole(torch.full_like(site.result, 7.0)))
    weight = torch.tensor([[[0.0, 1.0, 0.25, 0.0]]])

    class Site:
        result = torch.randn(1, 3, 4, WIDTH, generator=torch.Generator().manual_seed(0))

    answer = summed_slots([(weight, slots)]).temporal(Site()).tokens
    assert torch.equal(answer[:, :, [0, 3]], Site.result[:, :, [0, 3]]) and (answer[:, :, 1] == 7).all()


@pytest.mark.parametrize(("weights", "touched", "times"), [
    ((1.0,), False, 1), ((0.5, 0.5), False, 2), ((0.5,), False, 2), ((1.0,), True, 2),
])  # fmt: skip
def test_the_layers_own_attention_is_computed_only_where_it_counts_or_is_watched(monkeypatch, weights, touched, times):
    """Mixes of one block: one an adapter, and the layer's own where weights do not come to 1 or a hook listens."""
    dit, mixed = tiny_dit(tiny_spec()), []
    for block in dit.transformer_blocks:
        layer, mix = block.attn_temporal, block.attn_temporal.mix
        monkeypatch.setattr(layer, "mix", lambda *args, mix=mix: mixed.append(1) or mix(*args))
    if touched:
        for block in dit.transformer_blocks:
            block.attn_temporal.register_forward_hook(lambda *seen: None)
    adapters = [MIVA(dit, MIVAConfig(rank=2, parts=("tsa",)), seed=seed) for seed in range(len(weights))]
    run(dit, *map(StackEntry, adapters, weights))
    assert len(mixed) == times * len(dit.transformer_blocks)


def test_another_form_is_refused():
    with pytest.raises(ConfigError, match="form is 'sum'; it must be one of: delta, paper"):
        AdapterStack((), form="sum")
