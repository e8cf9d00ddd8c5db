"""What Pose Video and its decoder refuse before anything is computed, and what they say and go on."""

import comfy.model_base
import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from comfy.context_windows import IndexListContextHandler
from pack.motion.adapters.lora import LoRA
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError, ShapeError
from pack.nodes.models.native_wan_adapters import attach
from pack.nodes.models.pose_sequence import TRAINED
from pose_parts import pictures, pose_video, sampled, vae
from wan_adapters import CrossFrame

FRAMES = 8


@pytest.fixture(scope="module")
def expert():
    return tiny.native("expert", blocks=1)


@pytest.mark.parametrize("changes, error, words", [
    ({"reference": pictures(1, side=72)}, ShapeError, "the reference is 72x72 px; Wan 2.1 VAE needs multiples of 16"),
    ({"skeletons": pictures(8, side=48)}, ShapeError, "skeletons are 48x48 px, the reference 64x64; set width 64"),
    ({"reference": pictures(2)}, ShapeError, "reference holds 2 images; exactly 1 is needed"),
    ({"skeletons": torch.full((8, 64, 64, 3), float("nan"))}, ShapeError, "skeletons holds NaN"),
    ({"mode": "both"}, ConfigError, "mode is 'both'; it must be one of: as trained, joint, separate"),
    ({"timestep": "two"}, ConfigError, "timestep is 'two'; it must be one of"),
    ({"attention": "none"}, ConfigError, "attention is 'none'; it must be one of"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused_with_what_is_needed(ours, expert, changes, error, words):
    with pytest.raises(error, match=words):
        pose_video(ours, expert, **changes)


def test_a_vae_of_other_latents_is_refused(ours, expert):
    built_in = ours["LoadBuiltin"].execute("motionblocks-tiny").args[2]
    with pytest.raises(ShapeError, match="connect the vae that belongs to the model"):
        pose_video(ours, expert, vae=built_in)


@pytest.mark.parametrize("broken, words", [
    ("channels", "Wan Fun-Control .*48 input channels"), ("reference", "Fun-Control with a reference image"),
])  # fmt: skip
def test_models_that_only_look_like_plain_wan_are_refused_by_name(ours, broken, words):
    model = tiny.native("expert", blocks=1)
    network = model.model.diffusion_model
    if broken == "channels":
        network.patch_embedding = torch.nn.Conv3d(48, 256, (1, 2, 2), stride=(1, 2, 2))
    else:
        network.ref_conv = torch.nn.Conv2d(16, 256, 2, stride=2)
    with pytest.raises(ConfigError, match=words):
        pose_video(ours, model)


def test_a_model_of_ours_that_is_no_wan_is_refused_with_the_way_out(ours):
    model = ours["LoadBuiltin"].execute("motionblocks-tiny").args[0]
    with pytest.raises(ConfigError, match="plain Wan is needed"):
        pose_video(ours, model)


def test_wan_that_reads_clip_vision_needs_it(ours):
    with pytest.raises(ConfigError, match="connect clip_vision_output .*clip_vision_h"):
        pose_video(ours, tiny.native("image", blocks=1))


def test_clip_vision_reaches_both_prompts(core, ours):
    seen = type("Output", (), {"penultimate_hidden_states": tiny.randn(1, 257, 1280)})()
    made = pose_video(ours, tiny.native("image", blocks=1), clip_vision_output=seen)
    assert all(made[name][0][1]["clip_vision_output"] is seen for name in ("positive", "negative"))
    assert sampled(core, made, cfg=2.0)["samples"].isfinite().all()


def refused(core, made, error, words, **more):
    """The run is refused with these words, and the model is not even loaded."""
    comfy.model_management.unload_all_models()
    with pytest.raises(error, match=words):
        sampled(core, made, **more)
    assert not comfy.model_management.current_loaded_models


def test_a_latent_of_another_length_or_size_is_refused(core, ours, expert):
    made = pose_video(ours, expert)
    for shape, words in (((1, 16, 3, 8, 8), "3 latent frames of 64x64 px, the poses 2 of 64x64"),
                         ((1, 16, 2, 8, 10), "2 latent frames of 80x64 px, the poses 2 of 64x64")):
        latent = {"samples": torch.zeros(shape)}
        refused(core, {**made, "latent": latent}, ShapeError, f"{words}.*output latent of Pose Video")


@pytest.mark.parametrize("order", ["before", "after"])
def test_context_windows_are_refused_before_and_after(core, ours, expert, order):
    new = {"freenoise": False} if "freenoise" in vars(IndexListContextHandler(None, None)) else {}

    def windowed(model):
        return core("WanContextWindowsManual", model=model, context_length=9, context_overlap=4, fuse_method="pyramid",
                    context_schedule="standard_static", context_stride=1, closed_loop=False, **new)[0]  # fmt: skip

    if order == "before":
        with pytest.raises(ConfigError, match="remove the node Context Windows"):
            pose_video(ours, windowed(expert))
    else:
        made = pose_video(ours, expert)
        refused(core, {**made, "model": windowed(made["model"])}, ConfigError, "remove the node Context Windows")


@pytest.mark.parametrize("key", ["reference_latents", "context_latents", "time_dim_concat"])
def test_prompts_with_frames_of_their_own_are_refused_by_key(core, ours, expert, key):
    made = pose_video(ours, expert)
    latents = tiny.randn(1, 16, 1, 8, 8)
    beside = {key: latents if key == "time_dim_concat" else [latents]}
    prompt = [[text, {**more, **beside}] for text, more in made["positive"]]
    refused(core, {**made, "positive": prompt}, ConfigError, f"{key}, whose frames would stand between .*disconnect")


@pytest.mark.parametrize("order", ["before", "after"])
def test_motion_adapters_beside_it_are_refused(core, ours, expert, order):
    def adapted(model):
        stack = AdapterStack((StackEntry(CrossFrame(256, blocks=(0,))),))
        return attach(model, stack, clean_first_frame=False)

    if order == "before":
        with pytest.raises(ConfigError, match="has motion adapters.*leave these out, or Pose Video"):
            pose_video(ours, adapted(expert))
    else:
        made = pose_video(ours, expert)
        refused(core, {**made, "model": adapted(made["model"])}, ConfigError, "has motion adapters")


@pytest.mark.parametrize("clean", ["one", "clean"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_lora_of_a_stack_acts_on_the_whole_sequence_as_one_in_the_weights_does(core, ours, expert, order, clean):
    lora = some_lora(expert)

    def laid(model, **more):
        return attach(model, AdapterStack((StackEntry(lora, **more),)), clean_first_frame=False)

    if order == "before":
        made = pose_video(ours, laid(expert), timestep=clean)
    else:
        made = pose_video(ours, expert, timestep=clean)
        made["model"] = laid(made["model"])
    out = sampled(core, made, cfg=2.0)["samples"]
    merged = expert.clone()
    merged.add_patches(patches_of(lora))
    expected = sampled(core, pose_video(ours, merged, timestep=clean), cfg=2.0)["samples"]
    plain = sampled(core, pose_video(ours, expert, timestep=clean), cfg=2.0)["samples"]
    assert float((out - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert float((out - plain).abs().max()) > 1e-2
    with pytest.raises(ConfigError, match="LoRAs with a frame curve or a mask"):
        pose_video(ours, laid(expert, frame_curve="0:0, 1:1"))


def some_lora(model):
    """A LoRA beside four layers of block 0, whose weights are drawn."""
    with torch.inference_mode(False):
        lora = LoRA(model.model.diffusion_model, targets=("blocks.0.self_attn",), rank=2, alpha=2.0)
        for number, value in enumerate(lora.parameters().values()):
            value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(number)) / 8)
    return lora


def patches_of(lora):
    """What the host adds to weights for a LoRA: {"diffusion_model.….weight": ("diff", (values,))}."""
    return {f"diffusion_model.{name}.weight": ("diff", ((layer.up @ layer.down).detach() * layer.alpha / layer.rank,))
            for name, layer in lora.layers.items()}  # fmt: skip


def trained(model, **told):
    copy = model.clone()
    copy.set_attachments(TRAINED, {"sequence_mode": "separate", **told})
    return copy


def test_a_model_that_says_how_it_was_trained_is_used_so_and_differences_are_told(ours, expert):
    plain = pose_video(ours, expert)
    assert plain["sequence"].layout.mode == "joint" and plain["plan"].count("does not say that it was trained") == 1
    told = trained(expert, sequence_timestep="clean", sequence_attention="segment", pose_renderer="1")
    made = pose_video(ours, told)
    prefix = made["model"].get_attachment("motionblocks_prefix")
    assert made["sequence"].layout.mode == "separate" and prefix.clean_timestep and prefix.segment
    assert "does not say" not in made["plan"] and "expect worse" not in made["plan"]
    other = pose_video(ours, told, mode="joint", timestep="one")
    assert "mode is joint, but it was trained with separate" in other["plan"] and "timestep is one" in other["plan"]
    assert other["sequence"].layout.mode == "joint"


def test_another_renderer_and_words_that_nobody_knows_are_told(ours, expert):
    plan = pose_video(ours, trained(expert, pose_renderer="7"))["plan"]
    assert "trained on skeletons of renderer 7, and Draw Poses is renderer 1" in plan
    with pytest.raises(ConfigError, match="sequence_mode is 'sideways'; known are joint, separate"):
        pose_video(ours, trained(expert, sequence_mode="sideways"))


def test_a_sequence_longer_than_any_that_was_trained_is_told(ours, expert):
    assert "more than the 21 that Wan was trained on" in pose_video(ours, expert, frames=44)["plan"]
    assert "more than the 21" not in pose_video(ours, expert, frames=40)["plan"]


@pytest.mark.parametrize("samples, sequence, error, words", [
    ((1, 16, 2, 8, 8), None, ConfigError, "no sequence came with the LATENT; connect the output sequence of Pose "
                                          "Video"),
    ((1, 16, 2, 8, 8), {"mode": "joint"}, ConfigError, "sequence is dict; connect"),
    ((1, 16, 3, 8, 8), "own", ShapeError, r"made latents are \(1, 16, 3, 8, 8\); 2 latent frames"),
    ((1, 16, 2, 8, 10), "own", ShapeError, r"samples are \(1, 16, 2, 8, 10\), the sequence's latents \(1, 16, 3, 8, 8"),
])  # fmt: skip
def test_a_decode_without_its_sequence_or_of_another_is_refused(ours, expert, samples, sequence, error, words):
    sequence = pose_video(ours, expert)["sequence"] if sequence == "own" else sequence
    with pytest.raises(error, match=words):
        ours["DecodePoseVideo"].execute({"samples": torch.zeros(samples)}, vae(), sequence=sequence)


def test_a_cancel_is_heard_between_two_videos_of_a_batch(core, ours, expert):
    made = pose_video(ours, expert)
    out = sampled(core, made, steps=1, batch=2)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ours["DecodePoseVideo"].execute(out, vae())
    comfy.model_management.interrupt_current_processing(False)
    assert ours["DecodePoseVideo"].execute(out, vae()).args[0].shape[0] == 2 * FRAMES
