"""Adapters inside Wan's blocks: zeros change no bit, and formulas hold against float64 loops.

The truth stands in forward hooks on whole modules: they see a layer's tokens and answer, and know nothing of adapters.
"""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.block_adapters import BlockAdapters, PairWeights
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.pair_weights import weighed_softmax
from pack.motion.models.wan.rotary import turned
from tiny_wan import FRAMES, HEIGHT, VARIANTS, apart, fill, given
from tiny_wan import WIDTH as CELLS
from torch.utils.checkpoint import checkpoint
from wan_adapters import CrossFrame, PairBias, TextMLP

CONFIG = VARIANTS["text"]
WIDTH, HEADS = CONFIG.width, CONFIG.num_attention_heads
GRID = (HEIGHT // 2, CELLS // 2)
N = GRID[0] * GRID[1]
KIND = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _without_gradients(request):
    with torch.set_grad_enabled("gradients" in request.function.__name__):
        yield


@functools.cache
def drawn():
    return fill(WanDiT(CONFIG, dtype=torch.float64))


def build():
    return copy.deepcopy(drawn())


def inputs():
    return given(CONFIG, torch.float64)


def hooked(part, truth):
    """A network whose blocks answer truth(number of the block, module, args, output) for this part of them."""
    model = build()
    for number, block in enumerate(model.blocks):
        block.get_submodule(part).register_forward_hook(
            lambda module, args, out, number=number: truth(number, module, args, out)
        )
    return model


def pairwise(query, key, value, factor=1.0):
    """Softmax attention over the matrix of its pairs: (n, nh, dh), (m, nh, dh) twice; factor (n, m) a pair."""
    scores = torch.einsum("phd,jhd->hpj", query, key) / query.shape[-1] ** 0.5
    pairs = scores.exp() * factor
    return torch.einsum("hpj,jhd->phd", pairs / pairs.sum(-1, keepdim=True), value)


def crossed(adapter):
    """What a CrossFrame adds, frame by frame, from the layers alone."""

    def truth(number, layer, args, out):
        down, up, last = (adapter.weights[f"{number}.{name}"] for name in ("down", "up", "out"))
        more = torch.zeros_like(out)
        for sample, x in enumerate(args[0].unflatten(1, (FRAMES, N))):
            for frame in range(FRAMES):
                asking = x[frame] @ layer.q.weight.T + layer.q.bias + x[frame] @ down.T @ up.T
                for other in (0, max(frame - 1, 0)):
                    parts = layer.norm_q(asking), layer.norm_k(layer.k(x[other])), layer.v(x[other])
                    mixed = pairwise(*(part.unflatten(-1, (HEADS, -1)) for part in parts)).flatten(-2)
                    more[sample, frame * N : (frame + 1) * N] += 0.5 * mixed @ last.T
        return out + more

    return truth


def weighed(adapter):
    """Self-attention whose pairs of tokens, of all frames, count as often as a PairBias says."""

    def truth(number, layer, args, out):
        (x, rotary), mixed = args, torch.zeros_like(out)
        parts = [turned(layer.norm_q(layer.q(x)), rotary, HEADS), turned(layer.norm_k(layer.k(x)), rotary, HEADS)]
        for sample in range(len(x)):
            s = torch.sigmoid(3 * x[sample] @ adapter.weights[f"{number}.score"][0])
            factor = torch.exp(torch.log(s[:, None] * s + (1 - s[:, None]) * (1 - s) + adapter.floor))
            given = [part[sample].unflatten(-1, (HEADS, -1)) for part in (*parts, layer.v(x))]
            mixed[sample] = pairwise(*given, factor).flatten(-2)
        return layer.o(mixed)

    return truth


def read(adapter):
    """A TextMLP's answer instead of what the text attention said."""

    def truth(number, layer, args, out):
        down, up = (adapter.weights[f"{number}.{name}"] for name in ("down", "up"))
        middle = layer.norm_q(layer.q(args[0])) @ down.T
        centred = middle - middle.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return 0.5 * scaled * (1 + torch.erf(scaled / 2**0.5)) @ up.T

    return truth


PLACES = [("self_attn", CrossFrame(WIDTH, **KIND), crossed), ("self_attn", PairBias(WIDTH, **KIND), weighed),
          ("cross_attn", TextMLP(WIDTH, **KIND), read)]  # fmt: skip
each_place = pytest.mark.parametrize("part, adapter, truth", PLACES, ids=["beside", "bias", "text"])


@each_place
def test_each_place_holds_the_formula(part, adapter, truth):
    out = build()(*inputs(), adapters=adapter.slots)
    assert apart(out, hooked(part, truth(adapter))(*inputs())) <= 1e-9
    assert apart(out, build()(*inputs())) > 1e-3


def test_adapters_in_all_places_at_once_are_the_formulas_at_once():
    slots = BlockAdapters(*(adapter.slots.beside_self_attention for _, adapter, _ in PLACES[:1]),
                          instead_of_text=PLACES[2][1].slots.instead_of_text,
                          attention_bias=PLACES[1][1].slots.attention_bias)  # fmt: skip
    truth = build()
    beside, bias, text = (make(adapter) for _, adapter, make in PLACES)
    for number, block in enumerate(truth.blocks):
        block.self_attn.register_forward_hook(lambda module, args, out, number=number: beside(
            number, module, args, bias(number, module, args, out)))  # fmt: skip
        block.cross_attn.register_forward_hook(lambda module, args, out, number=number: text(number, module, args, out))
    assert apart(build()(*inputs(), adapters=slots), truth(*inputs())) <= 1e-9


@pytest.mark.parametrize("slots", [
    BlockAdapters(), CrossFrame(WIDTH, fresh=True, **KIND).slots,
    BlockAdapters(lambda site: None, lambda site: None, None, lambda site: None),
    BlockAdapters(instead_of_text=lambda site: site.attention(site.tokens, site.around)),
], ids=["none", "fresh", "silent", "own"])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_that_do_nothing_change_no_bit(slots, dtype):
    config = VARIANTS["image"]
    model, (latents, timestep, told) = fill(WanDiT(config, dtype=dtype)), given(config, dtype)
    out = model(latents, timestep, told, adapters=slots)
    assert torch.equal(out, model(latents, timestep, told))


def test_what_adapters_are_told_is_what_the_layers_made():
    seen = {"beside": [], "text": [], "bias": []}
    model = build()
    model(*inputs(), adapters=BlockAdapters(
        lambda site: seen["beside"].append(site), lambda site: seen["text"].append(site), None,
        lambda site: seen["bias"].append(site),
    ))  # fmt: skip
    assert [len(sites) for sites in seen.values()] == [2, 2, 2]
    heard = {}
    for block in model.blocks:
        for part in (block.self_attn, block.cross_attn):
            part.register_forward_hook(lambda module, args, out: heard.update({module: (args[0], out)}))
    model(*inputs())
    for number, block in enumerate(model.blocks):
        tokens, out = heard[block.self_attn]
        beside, bias, text = (seen[name][number] for name in ("beside", "bias", "text"))
        around, b = beside.around, len(tokens)
        assert (around.block, around.grid, around.embedding.shape) == (number, GRID, (b, 1, WIDTH))
        assert beside.tokens.shape == (b, FRAMES, N, WIDTH) and torch.equal(beside.tokens.flatten(1, 2), tokens)
        assert torch.equal(bias.tokens, beside.tokens) and torch.equal(beside.result.flatten(1, 2), out)
        layer, frames = block.self_attn, tokens.unflatten(1, (FRAMES, N)).flatten(0, 1)
        assert apart(beside.unnormed_query, layer.q(frames)) <= 1e-12 and beside.state is None
        made = layer.norm_q(layer.q(frames)), layer.norm_k(layer.k(frames)), layer.v(frames)
        for given_part, own in zip((beside.query, beside.key, beside.value), made):
            assert given_part.shape == (b * FRAMES, N, HEADS, WIDTH // HEADS)
            assert apart(given_part.flatten(-2), own) <= 1e-12
        assert turned(layer.norm_k(layer.k(tokens)), around.rotary, HEADS).shape == tokens.shape
        tokens, out = heard[block.cross_attn]
        assert torch.equal(text.tokens.flatten(1, 2), tokens)
        assert torch.equal(text.attention(text.tokens, text.around).flatten(1, 2), out)
        assert text.attention.norm_q is block.cross_attn.norm_q


def test_a_hooked_attention_is_called_and_an_adapter_stands_beside_its_answer():
    part, adapter, truth = PLACES[0]
    model, both = build(), hooked(part, lambda number, module, args, out: 3 * out)
    for block in model.blocks:
        block.self_attn.register_forward_hook(lambda module, args, out: 3 * out)
    add = truth(adapter)
    for number, block in enumerate(both.blocks):
        block.self_attn.register_forward_hook(lambda module, args, out, number=number: add(number, module, args, out))
    assert apart(model(*inputs(), adapters=adapter.slots), both(*inputs())) <= 1e-9
    with pytest.raises(ConfigError, match="another node has replaced that: remove"):
        model(*inputs(), adapters=PLACES[1][1].slots)


def test_a_place_along_the_frames_is_refused():
    with pytest.raises(ConfigError, match="one attention for space and time; use a LinearVideo model"):
        build()(*inputs(), adapters=BlockAdapters(temporal=lambda site: None))


def test_pair_weights_of_other_tokens_are_refused():
    q, few = torch.zeros(2, 6, 8), torch.ones(2, 3, 4, 1)
    with pytest.raises(ShapeError, match=r"pair weights are \(2, 3, 4, 1\) .* b = 2 and t·n = 6"):
        weighed_softmax(q, q, q, PairWeights(few, few), 2, None)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_weighed_softmax_counts_each_pair_as_often_as_it_is_told(ranks):
    generator = torch.Generator().manual_seed(ranks)
    query, key, value = (torch.randn(2, 6, 2 * 10, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = PairWeights(*(torch.rand(2, 3, 2, ranks, generator=generator, dtype=torch.float64) for _ in range(2)))
    weights.key[:, 1] = 0  # two tokens that nobody sees
    weights.query[:, 0, :, 1:] = 0

    def attend(q, k, v):
        assert q.shape[-1] % 16 == 0 and k.shape == v.shape == (2, ranks * 6, q.shape[-1])
        heads = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

    out = weighed_softmax(query, key, value, weights, 2, attend)
    for sample in range(2):
        asking, asked = (part[sample].flatten(0, 1) for part in weights)
        parts = [part[sample].unflatten(-1, (2, -1)) for part in (query, key, value)]
        assert apart(out[sample], pairwise(*parts, asking @ asked.T).flatten(-2)) <= 1e-10


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_reach_adapters_in_every_place(checkpointed):
    run = (lambda index, call, x: checkpoint(call, x, use_reentrant=False)) if checkpointed else None
    for part, adapter, truth in PLACES:
        leaves = list(adapter.weights.values())
        model = build().requires_grad_(False)
        out = model(*inputs(), adapters=adapter.slots, run_block=run)
        found = torch.autograd.grad(out.square().mean(), leaves)
        exact = torch.autograd.grad(hooked(part, truth(adapter))(*inputs()).square().mean(), leaves)
        for got, expected in zip(found, exact):
            assert expected.norm() > 0 and (got - expected).norm() <= 1e-6 * expected.norm(), part


def test_a_stack_weighs_adapters_inside_the_blocks_of_wan():
    model, plain = build(), build()(*inputs())
    adapter = TextMLP(WIDTH, **KIND)
    whole = model(*inputs(), adapters=adapter.slots)
    with AdapterStack((StackEntry(adapter),), temporal_ratio=4).during(model):
        assert torch.equal(model(*inputs()), whole)
    with AdapterStack((StackEntry(adapter, weight=0.0),), temporal_ratio=4).during(model):
        assert torch.equal(model(*inputs()), plain)
    half = AdapterStack((StackEntry(adapter, weight=0.5),), temporal_ratio=4)
    mixed = hooked("cross_attn", lambda *given: 0.5 * read(adapter)(*given) + given[-1] / 2)
    with half.during(model):
        assert apart(model(*inputs()), mixed(*inputs())) <= 1e-9


def test_a_stack_weighs_each_token_of_wans_layers_and_blocks():
    """Mask and frame curve on a cross-frame adapter; a token of weight 0 hears nothing of it."""
    adapter, model, seen = CrossFrame(WIDTH, blocks=(1,), **KIND), build(), {}
    mask = torch.zeros(1, *GRID)
    mask[:, 0, 0] = 1
    stack = AdapterStack((StackEntry(adapter, frame_curve="0:0, 1:1", mask=mask),), temporal_ratio=4)
    weight = stack.weights(0.5, 9, GRID)[0][0].double()
    assert weight.shape == (FRAMES, N) and weight[:, 1:].abs().max() == 0 and 0 < weight[1, 0] < weight[2, 0]

    def truth(number, layer, args, out):
        if number == 0:
            return out
        more = crossed(adapter)(number, layer, args, out) - out
        seen["more"] = more
        return out + more * weight.flatten()[None, :, None]

    with stack.during(model):
        found = model(*inputs())
    assert apart(found, hooked("self_attn", truth)(*inputs())) <= 1e-6 and seen["more"].abs().max() > 1e-3
