"""What both nodes of training on poses refuse: value, need and way out, and the MODEL as it was."""

import comfy.ldm.wan.model
import comfy.model_management
import comfy.sd
import pytest
import tiny_native_wan as tiny
import torch
from native_training import TinyText, TinyVision, differences, native_model, seen, tiny_vae
from pack.motion.data import pose_dataset
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pose_training_parts import built, images, listed, lora_file, trained
from posed_clips import poses
from test_inhost_native_refusals import Failing


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return tiny_vae()


@pytest.fixture(scope="module")
def build(ours, vae):
    return lambda **more: built(ours, vae, **{"preset": "low memory", **more})


@pytest.fixture(scope="module")
def data(build):
    with torch.inference_mode():
        return build()["dataset"]


@pytest.fixture
def train(ours, data):
    return lambda prefix, model, **more: trained(
        ours, more.pop("file_prefix", prefix), model, more.pop("dataset", data), more.pop("clip", TinyText()), **more
    )


def half_canvas():
    frames = poses(20).to_frames()
    for frame in frames:
        frame["canvas_height"] = 48
    return frames


@pytest.mark.parametrize("change, said", [
    ({"poses": poses(19).to_frames()}, "its poses have 19 frames, the clip 20; detect them in this clip"),
    ({"poses": half_canvas()}, "canvas of 48x48 px, the clip is 48x32; detect them in this clip, uncropped"),
    ({"images": images(7), "poses": poses(7).to_frames()}, "only 7 of the 8 frames that are needed, at 16 fps"),
    ({"poses": poses(20, absent=range(20)).to_frames()}, "nobody is in any of its frames"),
    ({"poses": poses(20, absent=range(2, 20)).to_frames()}, "nobody is in half of any 8 frames of it in a row"),
    ({"poses": None}, "poses is not connected"), ({"images": None}, "images is not connected"),
    ({"images": None, "poses": None}, "neither images nor a folder is given"),
    ({"folder": "shipped: puppets"}, "images and a folder are given"), ({"source_fps": 0.0}, "source_fps is 0"),
    ({"num_frames": 10}, "num_frames is 10; latent frames of mode joint are filled by 8 or 12"),
    ({"width": 40}, "40x32 px; Wan 2.1 VAE needs multiples of 16"), ({"mode": "both"}, "mode is 'both'"),
    ({"preset": "mine"}, "preset is 'mine'"), ({"dataset": object()}, "dataset is object; connect Build Pose Dataset"),
    ({"known_start": True}, "the target has 2 latent frames; more than 2 are needed"),
    ({"images": images()[:1]}, "images holds 1 image; at least 2 are needed"), ({"poses": "here"}, "poses are str"),
])  # fmt: skip
def test_clips_and_settings_that_do_not_serve_are_refused_in_words(build, change, said):
    with pytest.raises(ValueError, match=said):
        build(**change)


def test_a_vae_of_another_model_is_refused(ours):
    with pytest.raises(ValueError, match="vae is of built-in VAE; poses are learned beside Wan"):
        built(ours, ours["LoadBuiltin"].execute("motionblocks-tiny").args[2], preset="low memory")


def test_a_build_can_be_cancelled_and_keeps_what_it_has(build, monkeypatch):
    original = pose_dataset._encoded

    def press(*given):
        made = original(*given)
        comfy.model_management.interrupt_current_processing()
        return made

    with monkeypatch.context() as held, pytest.raises(comfy.model_management.InterruptProcessingException):
        held.setattr(pose_dataset, "_encoded", press)
        build(seed=5, samples_per_clip=2)
    assert "1 samples found, 1 made" in build(seed=5, samples_per_clip=2)["summary"]


@pytest.mark.parametrize("change, said", [
    ({"dataset": object()}, "dataset is object; connect Build Pose Dataset"), ({"preset": "mine"}, "preset is 'mine'"),
    ({"expert": "mine"}, "expert is 'mine'"), ({"clip": None}, "clip is empty"),
    ({"more_settings": "targets = q"}, "targets and mode are chosen by include_cross_attn"),
    ({"more_settings": "adapter = miva"}, "adapter is miva; poses are learned by a LoRA"),
    ({"caption_dropout": 2.0}, "caption_dropout is 2.0"), ({"file_prefix": "a/b"}, "a plain name is needed"),
    ({"resume_from": "latest"}, "nothing is saved under 'refused'"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_words(train, change, said):
    model = native_model("expert")
    before = seen(model)
    with pytest.raises(ValueError, match=said):
        train("refused", model, **change)
    assert differences(before, seen(model)) == [] and not lora_file("refused_00001").exists()


def test_models_that_are_no_plain_wan_are_refused(train, ours):
    with pytest.raises(ConfigError, match="plain Wan is needed"):
        train("refused", ours["LoadBuiltin"].execute("motionblocks-tiny").args[0])
    compiled = tiny.native("expert")
    compiled.model_options["torch_compile_kwargs"] = {}
    with pytest.raises(ConfigError, match="compiled"):
        train("refused", compiled)


def test_fun_control_which_passes_by_its_type_is_refused(train):
    model = tiny.native("expert")
    model.model.diffusion_model.ref_conv = torch.nn.Conv2d(16, 4, 2)
    with pytest.raises(ConfigError, match="Fun-Control with a reference image"):
        train("refused", model)


def test_a_wan_that_reads_clip_vision_needs_it_in_the_data(train, build):
    with pytest.raises(ConfigError, match="connect clip_vision .*to Build Pose Dataset"):
        train("refused", native_model("image"))
    with pytest.raises(ValueError, match="clip_vision gives tokens of width 64; Wan needs 1280"):
        build(clip_vision=TinyVision(64), seed=9)


def test_a_lora_for_text_to_video_on_image_to_video_is_told(train, ours):
    train("of_text", native_model("text"))
    shown = ours["ApplyAdapters"].execute(native_model("expert"), listed(ours, "of_text_00001")).ui.value
    assert "16 input channels, this model has 36" in shown


def test_out_of_memory_turns_checkpointing_on_and_then_says_what_is_needed(train, monkeypatch):
    model = native_model("expert")
    before = seen(model)
    error = torch.cuda.OutOfMemoryError("CUDA out of memory")
    with monkeypatch.context() as held:
        Failing(held, error, calls=2)
        assert len(train("short_of", model)["loss"]["loss"]) == 3
    forward = comfy.ldm.wan.model.WanAttentionBlock.forward

    def never(block, *args, **kwargs):
        raise error

    with monkeypatch.context() as held:
        held.setattr(comfy.ldm.wan.model.WanAttentionBlock, "forward", never)
        with pytest.raises(ConfigError, match="out of memory with gradient_checkpointing on: .*48x32 px"):
            train("without", model)
    assert comfy.ldm.wan.model.WanAttentionBlock.forward is forward
    assert differences(before, seen(model)) == [] and not lora_file("without_00001").exists()


def test_a_loss_that_is_not_finite_ends_it_with_the_model_as_it_was(train, monkeypatch):
    from pack.motion.training.objectives import half_frames

    model = native_model("expert")
    before = seen(model)
    monkeypatch.setattr(half_frames, "frame_means", lambda values, mask: values.flatten(1).mean(1) * float("nan"))
    with pytest.raises(ValueError, match="step 1 of 3: loss nan"):
        train("nan_poses", model)
    assert differences(before, seen(model)) == []


def test_files_of_earlier_runs_are_not_written_over(train):
    for number in (1, 2):
        done = train("again", native_model("expert"))
        assert done["path"].endswith(f"again_0000{number}.safetensors")
    assert read_safetensors(lora_file("again_00001"))[1]["pose_training"] == "1"
