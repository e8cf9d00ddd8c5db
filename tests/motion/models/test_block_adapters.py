"""Adapters inside blocks: nothing changes without them, zeros change no bit, formulas hold against float64 loops.

The truth stands in forward hooks on whole modules: they see a layer's tokens and answer, and know nothing of adapters.
"""

import pytest
import torch
from pack.kernels.errors import ShapeError
from pack.kernels.spatial_state import read_spatial_state
from pack.motion.errors import ConfigError
from pack.motion.models.block_adapters import BlockAdapters, PairWeights, weigh_pairs
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video import attentions, blocks
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.sana_video.network import SanaVideoConfig, SanaVideoDiT
from torch import nn
from torch.utils.checkpoint import checkpoint

TINY = LinearVideoDiTConfig(
    in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
    caption_channels=12,
)  # fmt: skip
WIDTH = 16
OPERATORS = ("gate_norm_modulate", "glu_depthwise", "spatial_linear_attention", "temporal_cosine_attention",
             "spatial_linear_attention_with_state", "spatial_linear_state")  # fmt: skip


def build(dtype=torch.float64, **more):
    torch.manual_seed(0)
    return LinearVideoDiT(TINY, dtype=dtype, **more).eval()


def draw(b=2, t=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(b, 4, t, 2, 3, generator=generator).to(dtype)
    return latents, torch.full((b,), 500.0), Conditions(torch.randn(b, 3, 12, generator=generator).to(dtype))


def zeros(site):
    return torch.zeros_like(site.tokens)


def ones(site):
    each = site.tokens.new_ones(*site.tokens.shape[:3], 1)
    return PairWeights(each, each)


def weight(seed, rows=WIDTH, columns=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / columns**0.5


def pairwise(query, key, value, factor=1.0):
    """ReLU linear attention of one frame over the matrix of its pairs: (n, nh, dh) each, factor (n, n) a pair."""
    pairs = torch.einsum("phd,jhd->hpj", query.clamp(min=0), key.clamp(min=0)) * factor
    return torch.einsum("hpj,jhd->phd", pairs / (pairs.sum(-1, keepdim=True) + 1e-15), value)


def crossed(x, attention, query_weight, out_weight):
    """Cross-frame attention as its definition says: each frame's queries meet frame 1 and the frame before, each half.

    x (b, t, n, d); query weight of its own, keys and values of the layer.
    """
    heads = (-1, attention.head_dim)
    queries = attention.norm_q(x @ query_weight.T) if attention.qk_norm else x @ query_weight.T
    key = attention.to_k(x)
    key, value = attention.norm_k(key) if attention.qk_norm else key, attention.to_v(x)
    out = torch.zeros_like(x)
    for sample in range(len(x)):
        for frame in range(x.shape[1]):
            for other in (0, max(frame - 1, 0)):
                places = (queries[sample, frame], key[sample, other], value[sample, other])
                out[sample, frame] += 0.5 * pairwise(*(y.unflatten(-1, heads) for y in places)).flatten(-2)
    return out @ out_weight.T


def cross_frame(site, query_weight, out_weight):
    """The same by reading states that the layer has summed already."""
    b, t = site.tokens.shape[:2]
    query = site.tokens.flatten(0, 1) @ query_weight.T
    query = site.attention.norm_q(query) if site.attention.qk_norm else query
    query = query.unflatten(-1, (-1, site.attention.head_dim))
    sums = site.state.sums.unflatten(0, (b, t))
    first = sums[:, :1].expand_as(sums)
    before = torch.cat((sums[:, :1], sums[:, :-1]), dim=1)
    out = 0
    for picked in (first, before):
        state = site.state._replace(sums=picked.flatten(0, 1))
        out = out + 0.5 * read_spatial_state(query, state, kernels=site.around.kernels)
    return out.flatten(-2).unflatten(0, (b, t)) @ out_weight.T


def hook(model, name, change):
    """Let change(module, tokens, out) stand for the answer of `name` in every block."""
    for block in model.transformer_blocks:
        block.get_submodule(name).register_forward_hook(lambda module, args, out: change(module, args[0], out))
    return model


def recorded(monkeypatch):
    """The operators that blocks call, by name, in order."""
    calls = []
    for module in (blocks, attentions):
        for name in OPERATORS:
            if hasattr(module, name):
                original = getattr(module, name)

                def call(*args, original=original, name=name, **more):
                    calls.append(name)
                    return original(*args, **more)

                monkeypatch.setattr(module, name, call)
    return calls


BLOCK = ["gate_norm_modulate", "spatial_linear_attention", "gate_norm_modulate", "temporal_cosine_attention",
         "gate_norm_modulate", "gate_norm_modulate", "glu_depthwise"]  # fmt: skip


@pytest.mark.parametrize("given", [{}, {"adapters": None}, {"adapters": BlockAdapters()}])
@torch.no_grad()
def test_without_an_adapter_a_block_calls_the_same_operators_in_the_same_order(monkeypatch, given):
    calls = recorded(monkeypatch)
    build()(*draw(), **given)
    assert calls == BLOCK * TINY.num_layers + ["gate_norm_modulate"]


@torch.no_grad()
def test_an_adapter_beside_attention_adds_no_pass_over_the_tokens(monkeypatch):
    calls = recorded(monkeypatch)
    build()(*draw(), adapters=BlockAdapters(beside_self_attention=zeros, temporal=zeros, instead_of_text=zeros))
    kept = ["spatial_linear_attention_with_state" if name == "spatial_linear_attention" else name for name in BLOCK]
    assert calls == kept * TINY.num_layers + ["gate_norm_modulate"]


@pytest.mark.parametrize("slot, adapter", [
    ("beside_self_attention", zeros), ("temporal", zeros), ("attention_bias", ones),
    ("instead_of_text", lambda site: None), ("beside_self_attention", lambda site: None),
    ("temporal", lambda site: None), ("attention_bias", lambda site: None),
])  # fmt: skip
@pytest.mark.parametrize("grad", [False, True])
def test_zeros_beside_ones_as_weights_and_none_change_no_bit(slot, adapter, grad):
    model, given, asked = build(torch.float32), draw(dtype=torch.float32), []

    def watched(site):
        asked.append(site.around.block)
        return adapter(site)

    with torch.set_grad_enabled(grad):
        assert torch.equal(model(*given), model(*given, adapters=BlockAdapters(**{slot: watched})))
    assert asked == [0, 1]


def test_the_layers_own_answer_in_place_of_text_changes_no_bit_under_gradients():
    model, given = build(torch.float32), draw(dtype=torch.float32)
    same = BlockAdapters(instead_of_text=lambda site: site.attention(site.tokens, site.around))
    assert torch.equal(model(*given), model(*given, adapters=same))


@torch.no_grad()
def test_zeros_instead_of_text_are_a_model_whose_text_says_nothing():
    model, silent, given = build(), build(), draw()
    for block in silent.transformer_blocks:
        for value in block.attn2.to_out[0].parameters():
            value.zero_()
    out = model(*given, adapters=BlockAdapters(instead_of_text=zeros))
    assert torch.equal(out, silent(*given)) and not torch.allclose(out, model(*given))


@pytest.mark.parametrize("touched", [False, True])
@torch.no_grad()
def test_cross_frame_attention_by_states_equals_the_pairwise_loop(touched):
    """Also where the layer is hooked, and its parts are therefore computed twice."""
    query_weight, out_weight, given = weight(1), weight(2), draw()
    truth = hook(build(), "attn1", lambda layer, x, out: out + crossed(x, layer, query_weight, out_weight))
    model = hook(build(), "attn1", lambda layer, x, out: None) if touched else build()
    ours = BlockAdapters(beside_self_attention=lambda site: cross_frame(site, query_weight, out_weight))
    out, expected = model(*given, adapters=ours), truth(*given)
    assert (out - expected).abs().max() <= 1e-10 and (out - model(*given)).abs().max() >= 1e-3


@torch.no_grad()
def test_what_an_attention_tells_is_what_its_layers_make_of_its_tokens():
    seen = []
    model = hook(build(), "attn1", lambda layer, x, out: None)
    handled = BlockAdapters(beside_self_attention=seen.append, temporal=seen.append)
    for network in (build(), model):
        seen.clear()
        network(*draw(), adapters=handled)
        assert len(seen) == 4
        for site in seen:
            x = site.tokens.flatten(0, 1)
            q, k, v = (y.reshape(given.shape) for y, given in zip(site.attention.project(x), (site.query, site.key,
                                                                                              site.value)))
            assert torch.equal(q, site.query) and torch.equal(k, site.key) and torch.equal(v, site.value)
            assert torch.equal(site.unnormed_query, site.attention.to_q(x))
            assert torch.equal(site.result, site.attention(site.tokens, site.around))
            assert site.around.embedding.shape == (2, 1, WIDTH)
        assert [site.state is None for site in seen] == [False, True] * 2


@torch.no_grad()
def test_an_adapter_along_the_frames_may_replace_what_it_stands_beside():
    """Twice the layer's answer, less one of it, is the layer with doubled weights on its way out."""
    model, changed, given = build(), build(), draw()
    for block in changed.transformer_blocks:
        block.attn_temporal.to_out[0].weight *= 2
        block.attn_temporal.to_out[0].bias *= 2
    ours = BlockAdapters(temporal=lambda site: 2 * site.attention(site.tokens, site.around) - site.result)
    assert (model(*given, adapters=ours) - changed(*given)).abs().max() <= 1e-10


@torch.no_grad()
def test_a_small_network_instead_of_text_acts_as_its_formula_says():
    down, up, given = weight(3, 5), weight(4, columns=5), draw()

    def formula(layer, x):
        query = layer.norm_q(layer.to_q(x)) if layer.qk_norm else layer.to_q(x)
        return nn.functional.gelu(nn.functional.layer_norm(query @ down.T, (5,))) @ up.T

    truth = hook(build(), "attn2", lambda layer, x, out: formula(layer, x))
    ours = BlockAdapters(instead_of_text=lambda site: formula(site.attention, site.tokens))
    out = build()(*given, adapters=ours)
    assert (out - truth(*given)).abs().max() <= 1e-10
    other_text = (*given[:2], Conditions(given[2].context + 1))
    assert torch.equal(out, build()(*other_text, adapters=ours)), "text has no effect any more"


@pytest.mark.parametrize("touched", [False, True])
@torch.no_grad()
def test_a_mask_bias_is_the_factor_that_softmax_would_add_as_a_logarithm(touched):
    """exp(log(s_p s_j + (1 - s_p)(1 - s_j) + e)) on every pair."""
    scores, floor, given = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(5)).double(), 1e-4, draw()

    def bias(site):
        asking = torch.stack((scores + floor, 1 - scores + floor), -1)
        return PairWeights(asking, torch.stack((scores, 1 - scores), -1))

    def weighted(layer, x, out):
        mixed = torch.zeros_like(x)
        for sample in range(2):
            for frame in range(3):
                s = scores[sample, frame]
                parts = layer.project(x[sample, frame].unsqueeze(0))
                factor = torch.exp(torch.log(s[:, None] * s + (1 - s[:, None]) * (1 - s) + floor))
                mixed[sample, frame] = pairwise(*(y[0] for y in parts), factor).flatten(-2)
        return layer.to_out[0](mixed)

    truth, asked = hook(build(), "attn1", weighted)(*given), []
    model = hook(build(), "attn1", lambda layer, x, out: None) if touched else build()
    out = model(*given, adapters=BlockAdapters(attention_bias=bias))
    assert (out - truth).abs().max() <= 1e-10 and (out - build()(*given)).abs().max() >= 1e-4
    both = model(*given, adapters=BlockAdapters(attention_bias=bias, beside_self_attention=asked.append))
    assert (both - truth).abs().max() <= 1e-10
    plain = asked[0].attention.project(asked[0].tokens.flatten(0, 1))
    assert torch.equal(asked[0].key, plain[1]) and asked[0].state.sums.shape[-1] == 8


def test_pair_weights_of_other_tokens_are_refused():
    q, few = torch.zeros(6, 5, 2, 8), torch.ones(2, 3, 4, 1)
    with pytest.raises(ShapeError, match="pair weights are .2, 3, 4, 1. .* b·t = 6 and n = 5"):
        weigh_pairs(q, q, q, PairWeights(few, few))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_reach_adapters_with_and_without_checkpoints(checkpointed):
    """All four places; the truth differentiates hooks."""
    given, scores = draw(), torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(5)).double()
    parts = {name: weight(seed).requires_grad_() for seed, name in enumerate(("query", "out", "time", "text", "mask"))}
    run = (lambda index, call, x: checkpoint(call, x, use_reentrant=False)) if checkpointed else None
    ours = BlockAdapters(
        beside_self_attention=lambda site: cross_frame(site, parts["query"], parts["out"]),
        temporal=lambda site: site.tokens @ parts["time"].T,
        instead_of_text=lambda site: site.tokens @ parts["text"].T,
        attention_bias=lambda site: PairWeights(*factors()),
    )

    def factors():
        asked = torch.stack((scores, 1 - scores), -1)
        return asked * torch.cat((torch.ones(1), parts["mask"][0, :1].square())), asked

    def weighted(layer, x, out):
        asking, asked = factors()
        mixed = torch.stack([
            pairwise(*(y[0] for y in layer.project(frame[None])), a @ b.T).flatten(-2)
            for frame, a, b in zip(x.flatten(0, 1), asking.flatten(0, 1), asked.flatten(0, 1))
        ])  # fmt: skip
        return layer.to_out[0](mixed.reshape(x.shape)) + crossed(x, layer, parts["query"], parts["out"])

    truth = hook(build(), "attn1", weighted)
    hook(truth, "attn_temporal", lambda layer, x, out: out + x @ parts["time"].T)
    hook(truth, "attn2", lambda layer, x, out: x @ parts["text"].T)
    leaves = list(parts.values())
    grads = torch.autograd.grad(build()(*given, adapters=ours, run_block=run).square().sum(), leaves)
    expected = torch.autograd.grad(truth(*given).square().sum(), leaves)
    for name, got, exact in zip(parts, grads, expected):
        assert (got - exact).norm() <= 1e-9 * exact.norm() and exact.norm() > 0, name


def test_sana_video_refuses_adapters_by_name():
    config = SanaVideoConfig(
        in_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=12, num_cross_attention_heads=2,
        caption_channels=12,
    )  # fmt: skip
    model = SanaVideoDiT(config)
    with pytest.raises(ConfigError, match="SANA-Video takes no adapters in its blocks: .* use a LinearVideo model"):
        model(*draw(dtype=torch.float32), adapters=BlockAdapters())
