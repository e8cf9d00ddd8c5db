"""M-MIVA in a Wan block: Eq. 3 against dense float64 loops, what the ground hears, streams of masks, and its file."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pack.motion.adapters.cross_frame import CrossFrameReads, FrameWeights
from pack.motion.adapters.miva import MIVA, READER, MIVAConfig
from pack.motion.adapters.score_reader import fit_reader, read_scores
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter, read_adapter, save_adapter
from pack.motion.io.files.safetensors import read_header
from pack.motion.models.block_adapters import AttentionSite
from pack.motion.models.conditions import Conditions
from pack.motion.models.subject_masks import EPSILON, SubjectMasks
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.network import WanDiT
from tiny_wan import VARIANTS, apart, fill
from training_toys import tiny_dit, tiny_spec

CONFIG = VARIANTS["text"]
B, T, N, HEADS, DH = 2, 4, 5, 2, 6
GRID, LATENTS = (2, 2), (3, 4, 4)  # tokens of a frame; frames, rows and columns of latents


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn(dit, seed=0, **settings):
    miva = MIVA(dit, MIVAConfig(rank=2, masked=True, **settings), seed=seed)
    for number, value in enumerate(miva.parameters().values()):
        value.data.add_(randn(*value.shape, seed=number + seed, dtype=torch.float32) / 4)
    miva.reader.copy_(randn(len(miva.reader), seed=9, dtype=torch.float32))
    return miva


def asked(dit, *entries, masks=None, seed=1, form="delta"):
    latents = randn(1, CONFIG.in_channels, *LATENTS, seed=seed, dtype=torch.float32)
    context = randn(1, 5, CONFIG.caption_channels, seed=2, dtype=torch.float32)
    with torch.no_grad(), AdapterStack(entries, temporal_ratio=4, form=form).during(dit):
        return dit(latents, torch.tensor([700.0]), Conditions(context, masks=masks))


def scores(value=None, seed=4, b=1):
    t, n = LATENTS[0], GRID[0] * GRID[1]
    if value is not None:
        return torch.full((b, t, n), float(value))
    return torch.rand(b, t, n, generator=torch.Generator().manual_seed(seed))


def dense(query, key, value, s, lam, mode):
    """Frame by frame, token by token, head by head, in float64."""
    out = torch.zeros_like(query)

    def read(b, i, p, head, frames, factors):
        weights, found = [], []
        for j, factor in zip(frames, factors):
            for q in range(N):
                pair = s[b, i, p] * s[b, j, q] + (1 - s[b, i, p]) * (1 - s[b, j, q]) + EPSILON
                score = query[b, i, p, head] @ key[b, j, q, head] / DH**0.5 + torch.log(pair)
                weights.append(score.exp())
                found.append(factor * value[b, j, q, head])
        return sum(w * v for w, v in zip(weights, found)) / sum(weights)

    for b in range(B):
        for i in range(T):
            one, two = lam[b].tolist()
            for p in range(N):
                for head in range(HEADS):
                    first = read(b, i, p, head, [0], [1.0])
                    if i < 2:
                        answer = first / (2 if mode == "joint" else 1)
                    elif mode == "joint":
                        answer = read(b, i, p, head, [0, i - 1], [one, two])
                    else:
                        answer = one * first + two * read(b, i, p, head, [i - 1], [1.0])
                    out[b, i, p, head] = answer
    return out


@pytest.mark.parametrize("kind", ["soft", "binary"])
@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_reads_are_those_of_equation_3(mode, kind):
    width = HEADS * DH
    reads = CrossFrameReads(width, width, 3, mode=mode, tau=0.5).double()
    for number, value in enumerate(reads.parameters()):
        value.data.copy_(randn(*value.shape, seed=number) / 2)
    s = torch.rand(B, T, N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    s = s.round() if kind == "binary" else s
    tokens, embedding = randn(B, T, N, width, seed=11), randn(B, 1, width, seed=12)
    unnormed, key, value = (randn(B * T, N, width, seed=20 + n) for n in range(3))
    key, value = (part.unflatten(-1, (HEADS, DH)) for part in (key, value))
    around = SimpleNamespace(embedding=embedding, grid=(1, N), kernels="torch", block=0, masks=None)
    site = AttentionSite(tokens, unnormed, unnormed.unflatten(-1, (HEADS, DH)), key, value, None, tokens,
                         SimpleNamespace(), around)  # fmt: skip
    found = reads(site, masks=SubjectMasks(s))
    query = (unnormed + reads.q(tokens).reshape(B * T, N, width)).unflatten(-1, (HEADS, DH))
    lam = reads.lam(embedding)[:, 0]
    parts = (part.detach().unflatten(0, (B, T)) for part in (query, key, value))
    expected = reads.o(dense(*parts, s, lam.detach(), mode).flatten(3))
    assert apart(found, expected) < 1e-12
    assert apart(reads(site), expected) > 1e-3, "the masks are what is tested"


def test_a_token_that_is_all_subject_hardly_meets_the_ground():
    table = SubjectMasks(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])).of_first(torch.float64)
    assert table.shape == (1, 6, 2)
    assert abs(float(table[0, 0, 0])) < 2e-4 and abs(float(table[0, 0, 1]) - math.log(1e-4)) < 1e-6
    assert abs(float(table[0, 4, 0]) - math.log(1e-4)) < 1e-6, "frame 3 turns it round"


def test_where_all_is_subject_a_masked_adapter_is_a_plain_one():
    dit = fill(WanDiT(CONFIG))
    masked, plain = drawn(dit), MIVA(dit, MIVAConfig(rank=2))
    for name, value in plain.parameters().items():
        value.data.copy_(masked.parameters()[name])
    expected = asked(dit, StackEntry(plain))
    assert torch.equal(asked(dit, StackEntry(masked)), expected)
    assert apart(asked(dit, StackEntry(masked), masks=SubjectMasks(scores(1))), expected) < 1e-5
    assert apart(asked(dit, StackEntry(masked), masks=SubjectMasks(scores())), expected) > 1e-3
    assert torch.equal(asked(dit, StackEntry(plain), masks=SubjectMasks(scores())), expected), "it knows no masks"


def test_on_the_ground_the_other_network_answers_instead_of_text():
    dit = fill(WanDiT(CONFIG))
    masked, turned = drawn(dit), drawn(dit)
    for block in turned.blocks:
        block.ca, block.ca_bg = block.ca_bg, block.ca
    found = asked(dit, StackEntry(masked), masks=SubjectMasks(scores(0)))
    assert apart(found, asked(dit, StackEntry(turned), masks=SubjectMasks(scores(1)))) < 1e-5
    assert apart(found, asked(dit, StackEntry(masked), masks=SubjectMasks(scores(1)))) > 1e-3


def test_scores_also_weigh_what_is_read_of_other_frames():
    dit = fill(WanDiT(CONFIG))
    masked = drawn(dit)
    for block in masked.blocks:
        block.ca_bg.load_state_dict(block.ca.state_dict())
    plain = asked(dit, StackEntry(masked))
    assert apart(asked(dit, StackEntry(masked), masks=SubjectMasks(scores())), plain) > 1e-4


def test_videos_of_masks_have_reads_of_their_own_and_share_the_rest():
    dit = fill(WanDiT(CONFIG))
    masked, shown = drawn(dit), SubjectMasks()
    before = asked(dit, StackEntry(masked), masks=shown)
    for block in masked.blocks:
        block.cfa.q.up.data.mul_(2), block.ca_bg.up.data.mul_(2)
    assert torch.equal(asked(dit, StackEntry(masked), masks=shown), before)
    for part in ("cfa_m.o.up", "ca.up", "cfa.lam.weight"):
        other = drawn(dit)
        for block in other.blocks:
            block.get_parameter(part).data.mul_(3)
        assert not torch.equal(asked(dit, StackEntry(other), masks=shown), before)


@pytest.mark.parametrize("masks", [None, SubjectMasks(), SubjectMasks(scores())])
def test_weight_0_is_the_model_bit_for_bit_whatever_is_told_of_masks(masks):
    dit = fill(WanDiT(CONFIG))
    assert torch.equal(asked(dit, StackEntry(drawn(dit), 0.0), masks=masks), asked(dit))


def test_a_fresh_one_adds_nothing_but_takes_the_text():
    dit = fill(WanDiT(CONFIG))
    fresh = StackEntry(MIVA(dit, MIVAConfig(rank=2, masked=True)))
    plain = asked(dit, StackEntry(MIVA(dit, MIVAConfig(rank=2))))
    for masks in (SubjectMasks(), SubjectMasks(scores())):
        assert torch.equal(asked(dit, fresh, masks=masks), plain)


def test_copies_of_one_adapter_at_shares_of_a_weight_are_the_adapter():
    """Acceptance test 5, with masks."""
    dit = fill(WanDiT(CONFIG))
    one, masks = drawn(dit), SubjectMasks(scores())
    copies = [StackEntry(one, part) for part in (0.25, 0.35, 0.4)]
    assert apart(asked(dit, *copies, masks=masks), asked(dit, StackEntry(one), masks=masks)) < 1e-5


def test_numbers_beside_wan_of_1_3b_are_twice_those_of_a_plain_one():
    """35.5 million, and 23.6 and 11.8 more for masks."""
    miva = MIVA(WanDiT(PUBLISHED["T2V 1.3B"], device="meta"), MIVAConfig(rank=128, masked=True))
    counts = {"cfa_m": 0, "ca_bg": 0, "all": 0}
    for name, value in miva.parameters().items():
        counts["all"] += value.numel()
        for part in ("cfa_m", "ca_bg"):
            counts[part] += value.numel() if f".{part}." in name else 0
    assert (counts["cfa_m"], counts["ca_bg"]) == (23_592_960, 11_804_160)
    assert counts["all"] == 35_489_340 + 23_592_960 + 11_804_160


def test_what_was_saved_acts_as_before_and_files_without_masks_say_nothing_of_them(tmp_path):
    dit = fill(WanDiT(CONFIG))
    masked, path, masks = drawn(dit), tmp_path / "bird.safetensors", SubjectMasks(scores())
    save_adapter(path, masked)
    again = load_adapter(path, fill(WanDiT(CONFIG)))
    assert read_adapter(path).config.masked and READER in read_header(path).tensors
    for told in (masks, SubjectMasks(), None):
        assert torch.equal(asked(dit, StackEntry(again), masks=told), asked(dit, StackEntry(masked), masks=told))
    assert torch.equal(again.reader, masked.reader)
    save_adapter(path, MIVA(dit, MIVAConfig(rank=2)))
    assert "masked" not in json.loads(read_header(path).metadata["adapter_config"])
    assert not read_adapter(path).config.masked


@pytest.mark.parametrize(("network", "what"), [
    (lambda: WanDiT(replace(CONFIG, concat_channels=8)), "this is: Wan image to video"),
    (lambda: tiny_dit(tiny_spec()), "this is: linear video model"),
])  # fmt: skip
def test_other_networks_are_refused_by_name(network, what):
    with pytest.raises(ConfigError, match=f"text to video .16 channels.*{what}"):
        MIVA(network(), MIVAConfig(rank=2, masked=True))


def test_a_masked_one_without_a_part_that_masks_need_is_refused():
    with pytest.raises(ConfigError, match="a masked adapter has the parts cfa and ca; parts is cfa"):
        MIVAConfig(masked=True, parts=("cfa",))


def planted(seed, share=0.4, noise=0.0):
    """Latents whose cells say their token's score by a straight line, and the scores."""
    t, h, w, c = 3, 6, 8, 7
    truth = (torch.rand(t, h // 2, w // 2, generator=torch.Generator().manual_seed(seed)) < share).double()
    cells = truth.repeat_interleave(2, 1).repeat_interleave(2, 2)
    channels = randn(c, seed=99).view(c, 1, 1, 1) * (cells - 0.3) + noise * randn(c, t, h, w, seed=seed + 1)
    return channels, truth


def test_a_line_that_is_there_is_found_and_reads_other_masks():
    reader, error = fit_reader([planted(1), planted(2)], 2)
    latents, truth = planted(3)
    assert error < 1e-3 and (read_scores(reader, latents.unsqueeze(0), 2)[0] - truth.flatten(1)).abs().max() < 1e-2
    noisy, error = fit_reader([planted(n, noise=0.5) for n in range(20)], 2)
    latents, truth = planted(77, noise=0.5)
    found = read_scores(noisy, latents.unsqueeze(0), 2)
    assert found.min() >= 0 and found.max() <= 1 and (found[0] - truth.flatten(1)).abs().mean() < 0.15 and error < 0.15


def test_the_mean_of_two_estimates_reads_as_the_mean_of_what_they_read():
    reader, _ = fit_reader([planted(n) for n in range(4)], 2)
    one, two = (planted(n)[0].unsqueeze(0) for n in (5, 6))
    halves = (read_scores(reader, one, 2) + read_scores(reader, two, 2)) / 2
    assert (read_scores(reader, (one + two) / 2, 2) - halves).abs().max() < 1e-2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_masks_that_are_all_black_or_all_white_are_refused(share):
    with pytest.raises(ConfigError, match=f"white on {100 * share:g} % of their area; white on the subject"):
        fit_reader([planted(1, share)], 2)


def test_lam_is_shared():
    reads = CrossFrameReads(12, 12, 2, mode="separate", tau=0.2, has_lam=False)
    assert reads.lam is None and not [name for name, _ in reads.named_parameters() if "lam" in name]
    assert isinstance(CrossFrameReads(12, 12, 2, mode="separate", tau=0.2).lam, FrameWeights)
