"""What a run of the host's Wan with motion adapters refuses before the model loads, and what it says and goes on."""

import functools

import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from comfy.context_windows import IndexListContextHandler
from pack.motion.adapters.lora import LoRA
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError, ShapeError
from pack.nodes.models.native_wan_adapters import attach
from torch._dynamo.utils import counters
from wan_adapters import CrossFrame, TextMLP

WIDTH = 256


@functools.cache
def base():
    return tiny.native(blocks=1)


def put(model=None, *adapters, clean=True, **entry):
    adapters = adapters or (CrossFrame(WIDTH, blocks=(0,)),)
    stack = AdapterStack(tuple(StackEntry(adapter, **entry) for adapter in adapters))
    return attach(model or base(), stack, clean_first_frame=clean)


def refused(core, model, error, words, **more):
    """The run is refused with these words, and the model is not even loaded."""
    comfy.model_management.unload_all_models()
    with pytest.raises(error, match=words):
        tiny.sample(core, model, **more)
    assert not comfy.model_management.current_loaded_models


def test_a_missing_start_image_is_refused(core):
    refused(core, put(), ConfigError, "positive prompt has no start image, .* Photo to Video")


def test_a_start_image_of_another_size_is_refused(core):
    first = tiny.randn(1, 16, 1, 8, 10)
    refused(core, put(), ShapeError, r"start image's latent is \(1, 16, 1, 8, 10\), the video's .*8, 8", first=first)


def test_a_start_image_of_another_vae_is_refused(core):
    positive = [[tiny.prompt()[0][0], {"first_latent": tiny.first_latent(), "first_latent_space": "dcae"}]]
    refused(core, put(), ShapeError, "encoded with the DC-AE", positive=positive)


def test_one_start_image_serves_two_videos(core):
    out = tiny.sample(core, put(), first=tiny.first_latent(1), batch=2)
    assert torch.equal(out[:, :, :1], tiny.first_latent(1).expand(2, -1, -1, -1, -1))


def test_three_start_images_for_two_videos_are_refused(core):
    refused(core, put(), ShapeError, "3 start images came with 2 videos; 1 or 2", first=tiny.first_latent(3), batch=2)


def test_a_block_patch_put_over_ours_is_refused_by_name(core):
    def sharper(args, extra):
        return extra["original_block"](args)

    model = put()
    model.set_model_patch_replace(sharper, "dit", "double_block", 0)
    refused(core, model, ConfigError, "test_inhost_native_wan_refusals.*sharper replaces Wan's block 0 after .*behind",
            first=tiny.first_latent())  # fmt: skip


@pytest.mark.parametrize("order", ["before", "after"])
def test_core_context_windows_are_refused_before_and_after(core, order):
    new = {"freenoise": False} if "freenoise" in vars(IndexListContextHandler(None, None)) else {}

    def windowed(model):
        return core(
            "WanContextWindowsManual", model=model, context_length=9, context_overlap=4, fuse_method="pyramid",
            context_schedule="standard_static", context_stride=1, closed_loop=False, **new,
        )[0]  # fmt: skip

    if order == "before":
        with pytest.raises(ConfigError, match="context windows"):
            put(windowed(base()))
    else:
        refused(core, windowed(put()), ConfigError, "context windows.*remove", first=tiny.first_latent())


def test_context_windows_that_are_set_for_one_run_are_refused(core):
    def window(executor, *args, **more):
        executor.class_obj.model_options["context_handler"] = object()
        return executor(*args, **more)

    model = base().clone()
    model.add_wrapper_with_key("outer_sample", "windows", window)
    refused(core, put(model), ConfigError, "context windows.*remove", first=tiny.first_latent())


@pytest.mark.parametrize("key, value", [
    ("time_dim_concat", tiny.randn(1, 16, 1, 8, 8)), ("context_latents", [tiny.randn(1, 16, 1, 8, 8)]),
    ("reference_latents", [tiny.randn(1, 16, 1, 8, 8)]),
])  # fmt: skip
def test_frames_beside_the_video_are_refused_by_name(core, key, value):
    positive = tiny.prompt(1, tiny.first_latent(), **{key: value})
    refused(core, put(), ConfigError, f"{key}, whose frames .*disconnect", positive=positive)


def test_prompts_for_areas_are_refused(core):
    first = tiny.first_latent()
    positive = tiny.prompt(1, first, area=(4, 8, 0, 0), strength=1.0) + tiny.prompt(3, first)
    with pytest.raises(ShapeError, match="sampled in parts .* use one prompt for the whole picture"):
        tiny.sample(core, put(), positive=positive, negative=tiny.prompt(2), cfg=1.0)


def test_a_sampling_set_afterwards_that_is_no_flow_is_refused(core):
    (model,) = core("ModelSamplingDiscrete", model=put(), sampling="v_prediction", zsnr=False)
    refused(core, model, ConfigError, "sampling that is no flow", first=tiny.first_latent())


TEXT = TextMLP(WIDTH, blocks=(0,))


@pytest.mark.parametrize("cfg, entry, told", [
    (5.0, {}, True), (1.0, {}, False), (5.0, {"weight": 0.5}, False), (5.0, {"step_curve": "0:1, 1:0"}, False),
])  # fmt: skip
def test_guidance_that_finds_no_text_is_said_to_cost_time_alone(core, caplog, cfg, entry, told):
    out = tiny.sample(core, put(None, TEXT, clean=False, **entry), cfg=cfg)
    said = [record.message for record in caplog.records if "doubles the time" in record.message]
    assert len(said) == told and out.isfinite().all()
    if told:
        assert "cfg is 5; " in said[0] and said[0].endswith("set cfg to 1")
        alone = tiny.sample(core, put(None, TEXT, clean=False), cfg=1.0)
        assert (out - alone).abs().max() <= 1e-4 * alone.abs().max()


@pytest.mark.parametrize("adapter, told", [(TEXT, True), (CrossFrame(WIDTH, blocks=(0,)), False)])
def test_a_replaced_text_attention_is_said_to_have_no_effect(core, caplog, adapter, told):
    model, key = base().clone(), "diffusion_model.blocks.0.cross_attn.forward"
    before = model.get_model_object(key)
    model.add_object_patch(key, lambda *args, **more: 2 * before(*args, **more))
    out = tiny.sample(core, put(model, adapter, clean=False), cfg=1.0)
    said = [record.message for record in caplog.records if "text attention" in record.message]
    assert len(said) == told
    assert torch.equal(out, tiny.sample(core, put(None, adapter, clean=False), cfg=1.0)) == told


def test_torch_compile_is_said_to_have_no_effect(core, caplog):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = put(clean=False)
    set_torch_compile_wrapper(model=model, backend="aot_eager", options=None)
    tiny.sample(core, model, steps=1)
    assert sum("torch.compile has no effect" in record.message for record in caplog.records) == 1


def drawn_lora():
    lora = LoRA(base().model.diffusion_model, targets=("self_attn", "ffn"), rank=2, alpha=2.0)
    for number, value in enumerate(lora.parameters().values()):
        value.data.copy_(tiny.randn(*value.shape, seed=number) / 8)
    return lora


@pytest.mark.parametrize("made", [lambda: CrossFrame(WIDTH, blocks=(0,)), drawn_lora], ids=["inside", "layers"])
def test_a_compiled_model_is_not_compiled_anew_and_follows_weights_that_change_from_step_to_step(core, made):
    """Guards as the host's node sets them."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = put(None, made(), clean=False, step_curve="0:0.1, 1:1")
    plain = tiny.sample(core, model, steps=3)
    set_torch_compile_wrapper(model=model, backend="aot_eager", options={"guard_filter_fn": lambda guards: [
        "transformer_options" not in guard.name for guard in guards]})  # fmt: skip
    counters["stats"].clear()
    assert torch.equal(tiny.sample(core, model, steps=3), plain) and counters["stats"]["unique_graphs"] == 0
    constant = tiny.sample(core, put(None, made(), clean=False, weight=0.1), steps=3)
    assert (plain - constant).abs().max() > 1e-3
