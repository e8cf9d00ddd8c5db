"""MIVA beside our own Wan: its size is the paper's, what adapters share is computed once, and 0 is the model."""

import torch
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.network import WanDiT
from tiny_wan import VARIANTS, fill

CONFIG = VARIANTS["text"]


def drawn(dit, seed=0):
    miva = MIVA(dit, MIVAConfig(rank=2), seed=seed)
    for number, value in enumerate(miva.parameters().values()):
        value.data.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(number + seed)) / 4)
    return miva


def asked(dit, *entries):
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(1, CONFIG.in_channels, 3, 4, 4, generator=draw)
    told = Conditions(torch.randn(1, 5, CONFIG.caption_channels, generator=draw))
    with torch.no_grad(), AdapterStack(entries, temporal_ratio=4).during(dit):
        return dit(latents, torch.tensor([700.0]), told)


def test_numbers_beside_wan_of_1_3b_are_those_of_the_paper():
    """23.6, 0.09 and 11.8 million: 35.5 in all."""
    miva = MIVA(WanDiT(PUBLISHED["T2V 1.3B"], device="meta"), MIVAConfig(rank=128))
    counts = {"cfa.q": 0, "cfa.o": 0, "cfa.lam": 0, "ca": 0}
    for name, value in miva.parameters().items():
        counts[next(part for part in counts if f".{part}." in name)] += value.numel()
    assert counts["cfa.q"] + counts["cfa.o"] == 23_592_960
    assert (counts["cfa.lam"], counts["ca"]) == (92_220, 11_804_160) and sum(counts.values()) == 35_489_340


def test_two_adapters_have_the_text_attentions_queries_made_once():
    dit = fill(WanDiT(CONFIG))
    one, two = drawn(dit), drawn(dit, seed=5)
    expected = asked(dit, StackEntry(one, 0.5), StackEntry(two, 0.5))
    calls = []
    for block in dit.blocks:
        block.cross_attn.q.register_forward_hook(lambda *given: calls.append(1))
    assert torch.equal(asked(dit, StackEntry(one, 0.5), StackEntry(two, 0.5)), expected)
    assert len(calls) == len(dit.blocks)
    assert not torch.equal(expected, asked(dit, StackEntry(one)))


def test_the_order_of_a_stack_does_not_matter_and_weight_0_is_the_model():
    dit = fill(WanDiT(CONFIG))
    one, two = StackEntry(drawn(dit), 0.4), StackEntry(drawn(dit, seed=5), 0.6)
    torch.testing.assert_close(asked(dit, one, two), asked(dit, two, one))
    assert torch.equal(asked(dit, StackEntry(one.adapter, 0.0)), asked(dit))
    copies = [StackEntry(one.adapter, part) for part in (0.25, 0.35, 0.4)]
    torch.testing.assert_close(asked(dit, *copies), asked(dit, StackEntry(one.adapter)))
