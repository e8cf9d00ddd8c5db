"""MIVA on the linear video DiT: its formulas against plain ones, its sizes, and how several add up."""

import pytest
import torch
import torch.nn.functional as F
from lora_toys import call
from pack.motion.adapters.miva import MIVA, MIVABlock, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.models.block_adapters import BlockAdapters
from pack.motion.models.linear_video.architecture import LINEAR_VIDEO
from pack.motion.models.wan.architecture import WAN
from pack.motion.models.wan.network import WanDiT
from tiny_wan import VARIANTS, fill, given
from training_toys import tiny_dit, tiny_spec

WIDTH, HEADS = 16, 2


def filled(dit, seed=0, **settings):
    """A trained-looking adapter: every number drawn."""
    adapter = MIVA(dit, MIVAConfig(rank=3, **settings), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in adapter.parameters().values():
            value.add_(torch.randn(value.shape, generator=generator) / 3)
    return adapter


@pytest.fixture
def dit():
    return tiny_dit(tiny_spec(qk_norm=True)).double()


def stacked(dit, *entries):
    with AdapterStack(entries).during(dit):
        return call(dit, torch.float64)


class Heard:
    """Keeps what a place was told, and answers nothing."""

    def __init__(self):
        self.sites = []

    def __call__(self, site):
        self.sites.append(site)


def site_of(dit, place):
    """What the first block's place is told in a call."""
    heard = Heard()
    call(dit, torch.float64, adapters=BlockAdapters(**{place: heard}))
    return heard.sites[0]


def linear_read(query, key, value):
    """relu(q) (relu(k)^T v) / relu(q) · sum relu(k), by frames: (n, nh, dh) each."""
    q, k = query.relu().transpose(0, 1), key.relu().transpose(0, 1)
    weights = q @ k.transpose(-1, -2)
    return ((weights @ value.transpose(0, 1)) / (weights.sum(-1, keepdim=True) + 1e-15)).transpose(0, 1)


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_cross_frame_reads_are_those_of_equation_2(dit, mode):
    """Frame by frame and pair by pair, in float64; the joint form as one attention over both frames' keys."""
    cfa = filled(dit, mode=mode).blocks[0].cfa.double()
    site = site_of(dit, "beside_self_attention")
    b, t, n, d = site.tokens.shape
    query = F.rms_norm(site.unnormed_query + cfa.q(site.tokens).reshape(b * t, n, d), (d,), dit.transformer_blocks[0]
                       .attn1.norm_q.weight, 1e-5).reshape(b, t, n, HEADS, -1)  # fmt: skip
    key, value = (part.reshape(b, t, n, HEADS, -1) for part in (site.key, site.value))
    e = site.around.embedding
    lam = (((F.silu(e) @ cfa.lam.weight.T) + cfa.lam.bias) / 0.2).softmax(-1).expand(b, t, 2)
    expected = torch.empty_like(query)
    for row in range(b):
        for i in range(t):
            first, before = (row, 0), (row, max(i - 1, 0))
            l1, l2 = lam[row, i]
            if mode == "separate":
                expected[row, i] = (l1 * linear_read(query[row, i], key[first], value[first])
                                    + l2 * linear_read(query[row, i], key[before], value[before]))  # fmt: skip
            else:
                expected[row, i] = linear_read(
                    query[row, i], torch.cat((key[first], key[before])),
                    torch.cat((l1 * value[first], l2 * value[before])),
                )  # fmt: skip
    answer = cfa(site)
    torch.testing.assert_close(answer, cfa.o(expected.reshape(b, t, n, d)), rtol=1e-10, atol=1e-12)
    assert answer.abs().max() > 1e-3


def test_the_joint_form_is_p_of_the_first_and_the_rest_of_the_one_before(dit):
    """With p the share of frame 1's keys: p·λ1·A_1 + (1 - p)·λ2·A_before, and half of A where both are frame 1."""
    joint, apart = (filled(dit, mode=mode).blocks[0].cfa.double() for mode in ("joint", "separate"))
    for part in (joint, apart):
        part.o.up.data, part.o.down.data = (torch.eye(WIDTH, dtype=torch.float64) for _ in range(2))
    site = site_of(dit, "beside_self_attention")
    torch.testing.assert_close(joint(site)[:, :2], apart(site)[:, :2] / 2, rtol=1e-10, atol=1e-12)


def wan_called(**options):
    """A tiny Wan in float64 with three latent frames, and its answer."""
    network = fill(WanDiT(VARIANTS["text"])).double()
    latents, timestep, told = given(VARIANTS["text"], torch.float64)
    return network, network(latents, timestep, told, **options)


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_in_wan_the_reads_are_softmax_without_places(mode):
    """The whole score matrix of every pair of frames, in float64."""
    heard = Heard()
    network, _ = wan_called(adapters=BlockAdapters(beside_self_attention=heard))
    cfa = filled(network, mode=mode).blocks[0].cfa.double()
    site, attention = heard.sites[0], network.blocks[0].self_attn
    b, t, n, d = site.tokens.shape
    heads = (b, t, n, attention.num_heads, -1)
    norm = lambda x, layer: F.rms_norm(x, (d,), layer.weight, layer.eps).reshape(heads)  # noqa: E731
    query = norm(attention.q(site.tokens) + cfa.q(site.tokens), attention.norm_q)
    key, value = norm(attention.k(site.tokens), attention.norm_k), attention.v(site.tokens).reshape(heads)
    lam = ((F.silu(site.around.embedding) @ cfa.lam.weight.T + cfa.lam.bias) / 0.2).softmax(-1).expand(b, t, 2)

    def read(q, k, v):
        scores = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
        return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)

    expected = torch.empty_like(query)
    for row in range(b):
        for i in range(t):
            one, two, (l1, l2) = (row, 0), (row, max(i - 1, 0)), lam[row, i]
            if mode == "separate":
                expected[row, i] = sum(
                    weight * read(query[row, i], key[j], value[j]) for weight, j in ((l1, one), (l2, two))
                )
            else:
                values = torch.cat((l1 * value[one], l2 * value[two]))
                expected[row, i] = read(query[row, i], torch.cat((key[one], key[two])), values)
    torch.testing.assert_close(cfa(site), cfa.o(expected.reshape(b, t, n, d)), rtol=1e-9, atol=1e-11)


def test_in_wan_a_fresh_adapter_without_the_prompt_part_changes_nothing():
    network, plain = wan_called()
    latents, timestep, told = given(VARIANTS["text"], torch.float64)
    for parts, same in ((("cfa",), True), (("cfa", "ca"), False)):
        with MIVA(network, MIVAConfig(rank=2, parts=parts)).attached():
            assert torch.equal(network(latents, timestep, told), plain) == same
    assert torch.equal(network(latents, timestep, told), plain)


def test_the_prompt_stands_in_place_of_the_text(dit):
    ca = filled(dit).blocks[0].ca.double()
    site = site_of(dit, "instead_of_text")
    attention = dit.transformer_blocks[0].attn2
    query = F.rms_norm(site.tokens @ attention.to_q.weight.T + attention.to_q.bias, (WIDTH,), attention.norm_q.weight,
                       1e-5)  # fmt: skip
    hidden = F.gelu(F.layer_norm(query @ ca.down.T, (3,), ca.norm.weight, ca.norm.bias))
    torch.testing.assert_close(ca(site), hidden @ ca.up.T, rtol=1e-10, atol=1e-12)


def test_a_temporal_lora_alone_at_weight_1_is_the_lora_in_the_layers(dit):
    """Against the same differences added into the weights of a copy."""
    adapter = filled(dit, parts=("tsa",), alpha=1.5)
    changed = tiny_dit(tiny_spec(qk_norm=True)).double()
    for block, mine in zip(changed.transformer_blocks, adapter.blocks):
        layers = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
        for part, name in layers.items():
            low = getattr(mine.tsa, part)
            with torch.no_grad():
                block.attn_temporal.get_submodule(name).weight += (1.5 / 3) * (low.up @ low.down).double()
    adapter.blocks.double()
    torch.testing.assert_close(stacked(dit, StackEntry(adapter)), call(changed, torch.float64), rtol=1e-6, atol=1e-7)


def test_a_fresh_adapter_is_the_network_without_its_text(dit):
    silent = tiny_dit(tiny_spec(qk_norm=True)).double()
    for block in silent.transformer_blocks:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
        torch.nn.init.zeros_(block.attn2.to_out[0].bias)
    fresh = stacked(dit, StackEntry(MIVA(dit, MIVAConfig(rank=3))))
    torch.testing.assert_close(fresh, call(silent, torch.float64), rtol=1e-9, atol=1e-11)
    assert torch.equal(stacked(dit, StackEntry(MIVA(dit, MIVAConfig(rank=3, parts=("cfa", "tsa"))))),
                       call(dit, torch.float64))  # fmt: skip


def test_weight_0_is_the_model_bit_for_bit_and_leaves_nothing_behind(dit):
    plain, adapter = call(dit, torch.float64), filled(dit)
    assert torch.equal(stacked(dit, StackEntry(adapter, 0.0)), plain)
    assert not torch.equal(stacked(dit, StackEntry(adapter)), plain)
    assert torch.equal(call(dit, torch.float64), plain)


def test_copies_of_one_adapter_count_as_one_of_their_sum(dit):
    adapter = filled(dit)
    many = stacked(dit, *(StackEntry(adapter, weight) for weight in (0.5, 0.2, 0.3)))
    torch.testing.assert_close(many, stacked(dit, StackEntry(adapter)), rtol=1e-5, atol=1e-6)


def test_the_order_of_a_stack_changes_nothing(dit):
    one, two = filled(dit), filled(dit, seed=1)
    there = stacked(dit, StackEntry(one, 0.4), StackEntry(two, 0.6))
    torch.testing.assert_close(there, stacked(dit, StackEntry(two, 0.6), StackEntry(one, 0.4)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("row", "width", "blocks", "rank", "count"),
    [(WAN, 1536, 30, 128, 35_489_340), (LINEAR_VIDEO, 128, 6, 11, 119_952)], ids=["Wan 1.3B", "motionblocks-tiny"],
)  # fmt: skip
def test_parameters_are_as_many_as_the_published_ones(row, width, blocks, rank, count):
    """35.5 million in the paper's table, 3 % of Wan 1.3B; 5 % of motionblocks-tiny."""
    made = MIVABlock(width, MIVAConfig(rank=rank), row.adapters, "meta")
    assert blocks * sum(value.numel() for value in made.parameters()) == count


def test_a_file_of_another_size_is_refused_and_nothing_is_taken(dit):
    adapter = filled(dit)
    before = {name: value.clone() for name, value in adapter.tensors().items()}
    other = MIVA(dit, MIVAConfig(rank=4)).tensors()
    with pytest.raises(CheckpointError, match="of another size, such as .blocks.0"):
        adapter.fill(other, "sway.safetensors")
    assert all(torch.equal(before[name], value) for name, value in adapter.tensors().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"mode": "both"}, "must be one of separate, joint"), ({"tau": 0.0}, "tau is 0.0"),
     ({"parts": ("cfa", "cab")}, "no part 'cab'"), ({"alpha": float("nan")}, "alpha nan")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        MIVAConfig(**settings)
