"""Overrides of attention on the host's own Wan: ours stand for one call, beside those of others."""

import functools
from types import SimpleNamespace

import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from native_training import SHAPE, differences, native_model, native_trainee, seen
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.models.conditions import Conditions
from pack.nodes.models.native_wan_adapters import attach
from pack.nodes.models.native_wan_attention import SLOT, overridden, watched
from wan_adapters import CrossFrame

BLOCKS, KEY = 2, "watching"
TOKENS = tiny.FRAMES * tiny.GRID[0] * tiny.GRID[1]


@functools.cache
def base(kind="text"):
    return tiny.native(kind)


def foreign(heard):
    """Another pack's override: it listens, and hands on what the host gave it."""

    def override(func, *args, **kwargs):
        heard.append(("theirs", args[1].shape[1], sorted(kwargs)))
        return func(*args, **kwargs)

    return override


def with_foreign(model, heard):
    copy = model.clone()
    copy.model_options["transformer_options"][SLOT] = foreign(heard)
    return copy


def watching(model, watch, left=None):
    """The model, watched in every call. left: gets the options that each call was given, after it."""

    def wrapper(executor, x, t, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **more):
        options = watched(transformer_options, BLOCKS, watch)
        try:
            return executor(x, t, context, clip_fea, time_dim_concat, options, **more)
        finally:
            if left is not None:
                left.append(transformer_options)

    copy = model.clone()
    copy.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return copy


def listening(heard):
    return lambda block, q, k, v, heads: heard.append(("ours", block, q.shape, k.shape, v.shape, heads))


def seen_by(rows, width=256):
    """What `listening` hears of one call."""
    shape = torch.Size((rows, TOKENS, width))
    return [("ours", block, shape, shape, shape, 2) for block in range(BLOCKS)]


def prompts(kind):
    told = {}
    if kind != "text":
        told = {"concat_latent_image": tiny.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE),
                "concat_mask": torch.ones(1, 1, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}  # fmt: skip
    if kind == "image":
        told["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=tiny.randn(1, 9, 1280))
    return {"positive": tiny.prompt(1, **told), "negative": tiny.prompt(2, **told), "steps": 1, "cfg": 1.0}


@pytest.mark.parametrize("kind", ["text", "image", "expert"])
def test_self_attention_of_each_block_is_seen_in_order_and_no_bit_changes(core, figure, kind):
    heard, given = [], prompts(kind)
    out, plain = (tiny.sample(core, model, **given) for model in (watching(base(kind), listening(heard)), base(kind)))
    figure(f"attention of {kind} watched: largest difference", (out - plain).abs().max().item())
    assert torch.equal(out, plain) and heard == seen_by(1)


def test_what_is_seen_is_normalised_and_turned(core):
    """Turning leaves each pair of numbers its length, and the first token, at place 0, as it is."""
    found, layers, hooks = {}, {}, []
    network = base().model.diffusion_model
    for index, block in enumerate(network.blocks):
        for name in ("norm_q", "norm_k", "v"):
            layer = getattr(block.self_attn, name)
            hooks.append(layer.register_forward_hook(
                lambda layer, args, out, place=(index, name): layers.__setitem__(place, out)))  # fmt: skip
    x, t, context = tiny.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE), torch.tensor([700.0]), tiny.randn(1, 5, 4096)
    options = watched({}, BLOCKS, lambda block, q, k, v, heads: found.setdefault(block, (q, k, v)))
    try:
        network(x, t, context, transformer_options=options)
    finally:
        for hook in hooks:
            hook.remove()
    for index in range(BLOCKS):
        q, k, v = found[index]
        assert torch.equal(v, layers[index, "v"])
        for turned, plain in ((q, layers[index, "norm_q"]), (k, layers[index, "norm_k"])):
            lengths = (part.unflatten(-1, (-1, 2)).norm(dim=-1) for part in (turned, plain))
            torch.testing.assert_close(*lengths, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(turned[:, 0], plain[:, 0], atol=1e-6, rtol=0)
            assert (turned[:, 1:] - plain[:, 1:]).abs().max() > 0.1


def test_attention_to_a_text_as_long_as_the_video_is_not_taken_for_self_attention(core):
    heard, given = [], prompts("text")
    given["positive"] = [[tiny.randn(1, TOKENS, tiny.TEXT), {}]]
    tiny.sample(core, watching(base(), listening(heard)), **given)
    assert heard == seen_by(1)


def test_a_self_attention_that_another_pack_computes_by_itself_is_not_seen(core):
    heard, copy = [], base().clone()
    copy.add_object_patch("diffusion_model.blocks.0.self_attn.forward", lambda x, *args, **more: 0.5 * x)
    tiny.sample(core, watching(copy, listening(heard)), **prompts("text"))
    assert heard == seen_by(1)[1:]


def test_anothers_override_is_called_after_ours_with_what_the_host_gave_it(core):
    heard, alone = [], []
    model = watching(with_foreign(base(), heard), listening(heard))
    out = tiny.sample(core, model, **prompts("text"))
    plain = tiny.sample(core, with_foreign(base(), alone), **prompts("text"))
    assert torch.equal(out, plain) and [entry for entry in heard if entry[0] == "theirs"] == alone
    assert [entry[0] for entry in heard] == ["ours", "theirs", "theirs"] * BLOCKS and len(alone) == 2 * BLOCKS


def test_an_override_that_changes_the_answer_does_so_around_anothers(core):
    """Ours doubles what it gets, and it gets what the other one halves."""

    def halved(func, *args, **kwargs):
        return func(*args, **kwargs) / 2

    def wrapper(executor, x, t, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **more):
        options = overridden(transformer_options, lambda attend, *args, **kwargs: 2 * attend(*args, **kwargs))
        return executor(x, t, context, clip_fea, time_dim_concat, options, **more)

    theirs = base().clone()
    theirs.model_options["transformer_options"][SLOT] = halved
    both = theirs.clone()
    both.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    plain = tiny.sample(core, base(), **prompts("text"))
    assert torch.equal(tiny.sample(core, both, **prompts("text")), plain)
    assert not torch.equal(tiny.sample(core, theirs, **prompts("text")), plain)


@pytest.mark.parametrize("first", ["watching", "adapters"])
def test_adapters_and_another_packs_block_patch_stand_beside_it(core, first):
    def soft(args, extra):
        return {"img": args["img"] + 0.5 * (extra["original_block"](args)["img"] - args["img"])}

    patched = base().clone()
    patched.set_model_patch_replace(soft, "dit", "double_block", 0)
    put = functools.partial(attach, stack=AdapterStack((StackEntry(CrossFrame(256)),)), clean_first_frame=False)
    heard = []
    watch = listening(heard)
    model = put(watching(patched, watch)) if first == "watching" else watching(put(patched), watch)
    out = tiny.sample(core, model, **prompts("text"))
    assert torch.equal(out, tiny.sample(core, put(patched), **prompts("text"))) and heard == seen_by(1)


if hasattr(ModelPatcher, "set_model_optimized_attention"):  # newer hosts

    @pytest.mark.parametrize("first", ["watching", "the host's node"])
    def test_cores_choice_of_attention_and_patches_stand_beside_it(core, figure, first):
        def chosen(model):
            return core("ModelAttentionBackend", model=model, attention="pytorch attention")[0]

        def patched(model, calls):
            copy = model.clone()
            copy.set_model_attn1_patch(lambda given: calls.append("attn1") or 1.01 * given["x"])
            copy.set_model_attn2_patch(lambda given: calls.append("attn2") or 0.99 * given["x"])
            return copy

        heard, calls, alone = [], [], []
        watch = listening(heard)
        model = chosen(watching(base(), watch)) if first == "watching" else watching(chosen(base()), watch)
        out = tiny.sample(core, patched(model, calls), **prompts("text"))
        plain = tiny.sample(core, patched(chosen(base()), alone), **prompts("text"))
        figure(f"attention watched beside ModelAttentionBackend, {first} first: largest difference",
               (out - plain).abs().max().item())  # fmt: skip
        assert torch.equal(out, plain) and heard == seen_by(1)
        assert calls == alone == ["attn1", "attn2"] * BLOCKS


ENDS = {"ended": None, "failed": RuntimeError("broken"),
        "was cancelled": comfy.model_management.InterruptProcessingException()}  # fmt: skip


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another's"])
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_it_when_a_call(core, end, beside):
    left, theirs = [], []

    def watch(block, q, k, v, heads):
        if ENDS[end] is not None and block == 1:
            raise ENDS[end]

    origin = with_foreign(base(), theirs) if beside else base().clone()
    before = repr(origin.model_options)
    slot = origin.model_options["transformer_options"].get(SLOT)
    model = watching(origin, watch, left)
    if ENDS[end] is None:
        tiny.sample(core, model, **prompts("text"))
    else:
        with pytest.raises(type(ENDS[end])):
            tiny.sample(core, model, **prompts("text"))
    assert repr(origin.model_options) == before and len(left) == 1 and left[0].get(SLOT) is slot
    assert not left[0].get("patches_replace") and not any("motionblocks" in str(name) for name in left[0])
    count = len(theirs)
    out = tiny.sample(core, origin, **prompts("text"))
    assert torch.equal(out, tiny.sample(core, base(), **prompts("text"))) and (len(theirs) > count) == beside


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_is_seen_once_though_its_blocks_are_computed_twice(checkpointing):
    model = native_model()
    before, heard = seen(model), []
    trainee = native_trainee(model, checkpointing=checkpointing)
    with trainee.session(frozen=True):
        latents = torch.randn(1, *SHAPE, requires_grad=True)
        told, timestep = Conditions(torch.randn(1, 6, tiny.TEXT)), torch.tensor([600.0])
        plain = trainee.native.velocity(latents, timestep, told)
        found = trainee.native.velocity(latents, timestep, told, watch=listening(heard))
        found.sum().backward()
        assert torch.equal(found, plain) and latents.grad.abs().max() > 0
    assert [entry[1] for entry in heard] == [0, 1] and differences(before, seen(model)) == []
