"""Motion adapters on the host's own Wan: doing nothing they change no bit, in whichever company.

Those that act mean what they mean in our own network.
"""

import functools
from types import SimpleNamespace

import comfy.sd
import pytest
import tiny_native_wan as tiny
import torch
from comfy.model_patcher import ModelPatcher, set_model_options_patch_replace
from comfy.samplers import calc_cond_batch
from pack.motion.adapters.lora import LoRA
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from pack.nodes.models.native_wan_adapters import attach
from tiny_wan import apart
from wan_adapters import CrossFrame, PairBias, TextMLP

WIDTH = 256
HAS_PATCHES = hasattr(ModelPatcher, "set_model_rope_options")  # hosts since 0.10, whose Wan calls them


def stack(*adapters, **entry):
    return AdapterStack(tuple(StackEntry(adapter, **entry) for adapter in adapters))


def fresh():
    """A stack whose adapters stand in the blocks and add zeros: the blocks are run from their layers."""
    return stack(CrossFrame(WIDTH, fresh=True))


def acting():
    return stack(CrossFrame(WIDTH), TextMLP(WIDTH, blocks=(1,)))


put = functools.partial(attach, clean_first_frame=False)


@functools.cache
def base(kind="text"):
    return tiny.native(kind)


def difference(one, other):
    return (one - other).abs().max().item()


def lora_on(model, seed=9):
    """The model with a LoRA of core's beside q of self-attention, ffn.0 and the text's k."""
    state = {}
    for name, inside, outside in (("self_attn.q", WIDTH, WIDTH), ("ffn.0", WIDTH, 512), ("cross_attn.k", WIDTH, WIDTH)):
        key = f"diffusion_model.blocks.0.{name}"
        state |= {f"{key}.lora_down.weight": tiny.randn(4, inside, seed=seed) / 16,
                  f"{key}.lora_up.weight": tiny.randn(outside, 4, seed=seed + 1)}  # fmt: skip
    return comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)[0]


def compiled(model):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    copy = model.clone()
    set_torch_compile_wrapper(model=copy, backend="aot_eager", options=None)
    return copy


def turned_around(model):
    """The model with another pack's patch on the first block's self-attention."""
    copy, key = model.clone(), "diffusion_model.blocks.0.self_attn.forward"
    before = model.get_model_object(key)
    copy.add_object_patch(key, lambda x, *args, **more: 1.5 * before(x, *args, **more))
    return copy


def doubling(model):
    """The model with another pack's patch around block 0, which calls what it is given as the original block."""
    copy = model.clone()

    def double(args, extra):
        out = extra["original_block"](args)
        return {"img": 2 * out["img"]}

    copy.set_model_patch_replace(double, "dit", "double_block", 0)
    return copy


def with_host_patches(model, calls):
    """The model with the patches that newer hosts call inside and behind blocks."""
    copy = model.clone()

    def listening(name):
        def patch(given):
            heard = given.get("q", given["x"])
            calls.append((name, heard.shape, heard.sum().item(), given["x"].sum().item()))
            return {"img": 1.01 * given["img"]} if name == "double_block" else 1.01 * given["x"]

        return patch

    for name in ("attn1_patch", "attn2_patch", "double_block"):
        copy.set_model_patch(listening(name), name)
    return copy


def easy_cached(core, model):
    return core("EasyCache", model=model, reuse_threshold=3.0, start_percent=0.15, end_percent=0.95, verbose=False)[0]


def layer_guided(core, model):
    return core("SkipLayerGuidanceDiT", model=model, scale=3.0, start_percent=0.0, end_percent=1.0, double_layers="1",
                single_layers="")[0]  # fmt: skip


COMPANY = {
    "nobody": lambda core, model: model,
    "core LoRA": lambda core, model: lora_on(model),
    "torch.compile": lambda core, model: compiled(model),
    "EasyCache": easy_cached,
    "SkipLayerGuidanceDiT": layer_guided,
    "ModelMergeSimple": lambda core, model: core("ModelMergeSimple", model1=model, model2=other(), ratio=0.5)[0],
    "object patch on self_attn": lambda core, model: turned_around(model),
}
if hasattr(ModelPatcher, "set_model_optimized_attention"):  # newer hosts
    COMPANY["ModelAttentionBackend"] = lambda core, model: core(
        "ModelAttentionBackend", model=model, attention="pytorch attention")[0]  # fmt: skip
SAME_BITS = ("nobody", "torch.compile")  # company that changes nothing by itself
orders = pytest.mark.parametrize("first", ["company", "adapters"])


@functools.cache
def other():
    return tiny.native(seed=8)


def joined(core, name, first, stack):
    """The base in this company with a stack."""
    join = COMPANY[name]
    return put(join(core, base()), stack) if first == "company" else join(core, put(base(), stack))


@orders
@pytest.mark.parametrize("name", COMPANY)
def test_adapters_that_do_nothing_change_no_bit_in_company(core, figure, name, first):
    steps = 8 if name == "EasyCache" else 2
    out = tiny.sample(core, joined(core, name, first, fresh()), steps=steps)
    plain = tiny.sample(core, base() if name == "torch.compile" else COMPANY[name](core, base()), steps=steps)
    figure(f"adapters that do nothing, with {name}, {first} first: largest difference", difference(out, plain))
    assert torch.equal(out, plain)
    assert torch.equal(plain, tiny.sample(core, base(), steps=steps)) == (name in SAME_BITS)


@pytest.mark.parametrize("name", [name for name in COMPANY if name != "nobody"])
def test_the_order_of_company_and_acting_adapters_does_not_matter(core, figure, name):
    acts = stack(CrossFrame(WIDTH), TextMLP(WIDTH, blocks=(1,)), step_curve="0:0.2, 1:1")
    one, two = (tiny.sample(core, joined(core, name, first, acts), steps=4) for first in ("company", "adapters"))
    figure(f"adapters that act, with {name}: largest difference between the orders", difference(one, two))
    assert torch.equal(one, two)
    assert difference(one, tiny.sample(core, COMPANY[name](core, base()) if name != "torch.compile" else base(),
                                       steps=4)) > 1e-3  # fmt: skip
    if name in SAME_BITS:
        assert torch.equal(one, tiny.sample(core, put(base(), acts), steps=4))


@pytest.mark.parametrize("made", ["empty", "weight 0", "fresh"])
@pytest.mark.parametrize("kind", ["text", "image", "expert"])
def test_a_stack_that_does_nothing_changes_no_bit_on_any_kind_of_wan(core, figure, kind, made):
    stacks = {"empty": stack(), "weight 0": stack(CrossFrame(WIDTH), TextMLP(WIDTH), weight=0.0), "fresh": fresh()}
    seen = {}
    if kind != "text":
        seen = {"concat_latent_image": tiny.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE),
                "concat_mask": torch.ones(1, 1, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}  # fmt: skip
    if kind == "image":
        seen["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=tiny.randn(1, 9, 1280))
    prompts = {"positive": tiny.prompt(1, **seen), "negative": tiny.prompt(2, **seen)}
    plain = tiny.sample(core, base(kind), **prompts)
    out = tiny.sample(core, put(base(kind), stacks[made]), **prompts)
    figure(f"{made} stack, {kind}: largest difference", difference(out, plain))
    assert torch.equal(out, plain) and plain.std() > 0.1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_adapters_that_do_nothing_change_no_bit_of_small_number_types(core, figure, dtype):
    model = tiny.native(dtype=dtype)
    assert model.model.diffusion_model.blocks[0].self_attn.q.weight.dtype == dtype
    plain = tiny.sample(core, lora_on(model))
    out = tiny.sample(core, put(lora_on(model), fresh()))
    figure(f"adapters that do nothing, {dtype}: largest difference", difference(out, plain))
    assert torch.equal(out, plain)
    assert difference(tiny.sample(core, put(lora_on(model), acting())), plain) > 1e-3


def inputs(rows=2, kind="text"):
    """One call of the host's network: latents, timesteps, text, and CLIP vision tokens where it reads them."""
    channels = tiny.config(kind).in_channels + tiny.config(kind).concat_channels
    given = [tiny.randn(rows, channels, tiny.FRAMES, tiny.SIDE, tiny.SIDE, seed=4), torch.tensor([700.0] * rows)]
    given.append(tiny.randn(rows, 5, tiny.TEXT, seed=6))
    return (*given, tiny.randn(rows, 9, 1280, seed=7)) if kind == "image" else (*given, None)


def asked(model, given):
    """The velocity of one call with all that stands on a MODEL, as sampling calls it."""
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    x, t, context, clip = given
    return model.model.diffusion_model(x, t, context, clip_fea=clip, transformer_options=options)


def own_network(kind="text"):
    own = WanDiT(tiny.config(kind))
    own.load_state_dict(tiny.weights(kind))
    return own.eval()


def drawn_miva(own):
    miva = MIVA(own, MIVAConfig(rank=4))
    for number, value in enumerate(miva.parameters().values()):
        value.data.add_(tiny.randn(*value.shape, seed=number) / 8)
    return miva


ADAPTERS = {
    "beside": [CrossFrame(WIDTH)], "text": [TextMLP(WIDTH)], "bias": [PairBias(WIDTH)],
    "all": [CrossFrame(WIDTH), TextMLP(WIDTH, blocks=(1,)), PairBias(WIDTH, blocks=(0,)), CrossFrame(WIDTH, seed=7)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", [*ADAPTERS, "LoRA", "MIVA"])
def test_adapters_mean_the_same_on_the_hosts_wan_and_in_our_own(figure, name, kind):
    own = own_network(kind)
    mask = torch.rand(tiny.GRID, generator=torch.Generator().manual_seed(1))
    curves = {"weight": 0.4, "frame_curve": "0:1, 1:0.5", "mask": mask, "step_curve": "0:0.7, 1:1"}
    adapters = ADAPTERS.get(name) or [{"LoRA": drawn_lora, "MIVA": drawn_miva}[name](own)]
    acts = AdapterStack(tuple(StackEntry(adapter, **curves) for adapter in adapters), shift=3.0, temporal_ratio=4)
    x, t, context, clip = given = inputs(kind=kind)
    told = Conditions(context, image_tokens=clip, concat_latents=x[:, 16:] if kind == "image" else None)
    with acts.during(own):
        expected = own(x[:, :16], t, told)
    found = asked(put(base(kind), acts), given)
    figure(f"{name} on {kind} to video: difference from our own network, relative", apart(found, expected))
    assert apart(found, expected) <= 5e-6 and apart(expected, own(x[:, :16], t, told)) > 1e-3


def drawn_lora(network):
    lora = LoRA(network, targets=("self_attn", "cross_attn", "ffn"), rank=2, alpha=2.0)
    for number, value in enumerate(lora.parameters().values()):
        value.data.copy_(tiny.randn(*value.shape, seed=number) / 8)
    return lora


def test_a_partly_loaded_base_gives_the_same_bits(figure):
    results = {}
    for name, made in (("plain", lora_on(base())), ("fresh", put(lora_on(base()), fresh())),
                       ("acting", put(lora_on(base()), acting()))):  # fmt: skip
        for memory in (0, 1):
            try:
                made.patch_model(torch.device("cpu"), lowvram_model_memory=memory)
                assert bool(made.model.model_lowvram) == bool(memory)
                results[name, memory] = asked(made, inputs())
            finally:
                made.unpatch_model(torch.device("cpu"))
    figure("adapters that do nothing, partial load: largest difference",
           difference(results["fresh", 1], results["plain", 1]))  # fmt: skip
    assert torch.equal(results["fresh", 1], results["plain", 1])
    assert apart(results["acting", 1], results["acting", 0]) <= 1e-5
    assert apart(results["acting", 1], results["plain", 1]) > 1e-3


@pytest.mark.parametrize("acts", [False, True])
def test_a_block_patch_of_before_stands_around_our_block(core, figure, acts):
    made = acting() if acts else fresh()
    out = tiny.sample(core, put(doubling(base()), made))
    if not acts:
        plain = tiny.sample(core, doubling(base()))
        figure("adapters that do nothing, with a block patch of before: largest difference", difference(out, plain))
        assert torch.equal(out, plain)
    found, own = asked(put(doubling(base()), made), inputs()), own_network()
    with AdapterStack(made.entries, temporal_ratio=4).during(own):
        x, t, context, _ = inputs()
        own.blocks[0].register_forward_hook(lambda module, args, block: 2 * block)
        expected = own(x, t, Conditions(context))
    assert apart(found, expected) <= 5e-6
    assert difference(out, tiny.sample(core, put(base(), made))) > 1e-3


def test_a_replaced_self_attention_is_called_and_adapters_stand_beside_its_answer(core):
    model, own = put(turned_around(base()), stack(CrossFrame(WIDTH))), own_network()
    try:
        model.patch_model(torch.device("cpu"))
        found = asked(model, inputs())
    finally:
        model.unpatch_model(torch.device("cpu"))
    x, t, context, _ = inputs()
    own.blocks[0].self_attn.register_forward_hook(lambda module, args, out: 1.5 * out)
    with stack(CrossFrame(WIDTH)).during(own):
        assert apart(found, own(x, t, Conditions(context))) <= 5e-6


def test_a_block_patch_of_a_single_call_is_lent_our_block(core):
    """Guidance sets such ones in the middle of a run; one that calls its original block must not lose the adapters."""

    def softer(args, extra):
        return {"img": args["img"] + 0.5 * (extra["original_block"](args)["img"] - args["img"])}

    def guided(model):
        def predict(args):
            options = set_model_options_patch_replace(args["model_options"].copy(), softer, "dit", "double_block", 0)
            return calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], options)

        copy = model.clone()
        copy.set_model_sampler_calc_cond_batch_function(predict)
        return copy

    patched = base().clone()
    patched.set_model_patch_replace(softer, "dit", "double_block", 0)
    expected = tiny.sample(core, put(patched, acting()), cfg=1.0)
    assert torch.equal(tiny.sample(core, guided(put(base(), acting())), cfg=1.0), expected)
    assert difference(expected, tiny.sample(core, guided(base()), cfg=1.0)) > 1e-3


def test_a_lora_acts_in_a_feed_forward_that_does_not_call_its_last_layer():
    """As newer hosts do with INT8 weights."""
    own, model = own_network(), put(base(), stack(drawn_lora(own_network())))
    layers = base().model.diffusion_model.blocks[0].ffn

    def folded(h):
        return torch.nn.functional.linear(layers[1](layers[0](h)), layers[2].weight, layers[2].bias)

    model.add_object_patch("diffusion_model.blocks.0.ffn.forward", folded)
    x, t, context, _ = inputs()
    try:
        model.patch_model(torch.device("cpu"))
        found = asked(model, inputs())
    finally:
        model.unpatch_model(torch.device("cpu"))
    with stack(drawn_lora(own)).during(own):
        assert apart(found, own(x, t, Conditions(context))) <= 5e-6


def test_patches_inside_blocks_hear_what_they_hear_without_us(core, figure):
    heard, without = [], []
    out = tiny.sample(core, put(with_host_patches(base(), heard), fresh()))
    plain = tiny.sample(core, with_host_patches(base(), without))
    figure("attn1_patch, attn2_patch and double_block: calls", len(heard))
    figure("attn1_patch, attn2_patch and double_block: largest difference", difference(out, plain))
    assert torch.equal(out, plain) and heard == without and len(heard) == (3 * 2 * 2 if HAS_PATCHES else 0)
    assert {shape[2:] for name, shape, *_ in heard if name == "attn1_patch"} == ({(2, 128)} if HAS_PATCHES else set())


def test_an_attention_override_is_asked_for_every_attention_of_the_host(core):
    calls = []

    def override(func, *args, **kwargs):
        calls.append(args[0].shape)
        return func(*args, **kwargs)

    model = base().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    tiny.sample(core, put(model, fresh()), steps=1)
    assert len(calls) == 2 * 2


def test_a_step_curve_reads_the_schedule_that_the_run_samples_with(core):
    """The shift is set after the adapters; at the first step of two there is nothing, at the second there is."""
    (shifted,) = core("ModelSamplingSD3", model=put(base(), stack(TextMLP(WIDTH), step_curve="0:0, 0.6:0, 0.61:1")),
                      shift=5.0)  # fmt: skip
    (plain,) = core("ModelSamplingSD3", model=base(), shift=5.0)
    heard = []
    at = shifted.clone()
    at.add_wrapper_with_key("diffusion_model", "watch", lambda executor, *args, **more: heard.append(
        args[5]["motionblocks_native_wan"].adapters is not None) or executor(*args, **more))  # fmt: skip
    out = tiny.sample(core, at, steps=4)
    assert heard == [False, False, False, True] and difference(out, tiny.sample(core, plain, steps=4)) > 1e-4
