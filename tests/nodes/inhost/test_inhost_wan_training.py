"""Train Motion Model on the host's own Wan: files, experts, start images, and what is refused in words."""

import json
import re
import shutil
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import folder_paths
import pytest
import tiny_native_wan as tiny
import torch
from native_training import TinyText, TinyVision, differences, native_model, seen, tiny_vae
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.training.objectives.noise_levels import NoiseLevels
from pack.nodes.host import page
from pack.nodes.training_run import live_view, request
from pack.nodes.training_run.native_trainee import NativeWanTrainee
from test_inhost_native_wan_gate import OTHER_CLASSES, around, network, patcher
from test_inhost_training import OUTPUTS, collection

STEPS = 2
SMALL = {"steps": STEPS, "rank": 2, "learning_rate": 1e-3, "num_frames": 5, "stride_min": 0, "stride_max": 0,
         "windows_per_clip": 1, "resolution": 32, "targets": "", "save_every": 0}  # fmt: skip


@pytest.fixture(scope="module")
def clips():
    return collection("pan left", "zoom in", size=48)


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return tiny_vae()


@pytest.fixture
def train(ours, clips, vae):
    """Run the node on a tiny Wan; returns its outputs by name."""

    def run(file_prefix, model, **more):
        given = {"model": model, "clip": TinyText(), "vae": vae, "clips": clips, "file_prefix": file_prefix, **SMALL}
        return dict(zip(OUTPUTS, ours["TrainMotionModel"].execute(**{**given, **more}).args))

    return run


def saved(done):
    return read_safetensors(Path(done["path"]))


def test_a_lora_of_wan_is_trained_saved_and_on_the_model_that_comes_out(train, core):
    model = native_model()
    before = seen(model)
    done = train("wan", model)
    assert differences(before, seen(model)) == []
    assert Path(done["path"]) == Path(folder_paths.get_output_directory()) / "loras" / "wan_00001.safetensors"
    tensors, metadata = saved(done)
    assert len(tensors) == 3 * 16 and all(name.startswith("diffusion_model.blocks.") for name in tensors)
    assert len(done["model"].patches) == 16 and len(done["loss"]["loss"]) == STEPS
    assert done["samples"].shape[0] == 2 and done["samples"].isfinite().all()
    assert "expert" not in metadata and metadata["base_precision"] == "float32" and metadata["input_channels"] == "16"
    assert len(json.loads(metadata["base_sample"])["values"]) == 256
    assert "num_frames 5" not in done["report"] and "stride_min 1: the model's own" in done["report"]


@pytest.mark.parametrize("kind, expert, file, low, high", [
    ("text", "high noise", "wan22_high_00001", 0.875, 1.0), ("text", "low noise", "wan22_low_00001", 0.0, 0.875),
    ("expert", "high noise", "i2v_high_00001", 0.9, 1.0),
])  # fmt: skip
def test_each_expert_trains_its_share_of_the_noise_and_has_a_file_of_its_own(
    train, monkeypatch, kind, expert, file, low, high
):
    drawn = []
    original = NoiseLevels.draw
    monkeypatch.setattr(NoiseLevels, "draw", lambda levels, dice: drawn.append(original(levels, dice)) or drawn[-1])
    done = train(file.partition("_")[0], tiny.native(kind), expert=expert, batch_size=8, caption_dropout=0.0)
    assert Path(done["path"]).stem == file and low <= min(drawn) and max(drawn) <= high and len(drawn) == 8 * STEPS
    _, metadata = saved(done)
    told = json.loads(metadata["training"])
    assert (told.get("sigma_min", 0.0), told.get("sigma_max", 1.0)) == (low, high)
    assert metadata["expert"] == expert.replace(" ", "_") and f"noise levels {low:g} to {high:g}" in done["report"]


def test_the_border_is_the_users_where_he_says_so(train):
    done = train("border", tiny.native(), expert="low noise", more_settings="sigma_max = 0.8")
    assert json.loads(saved(done)[1]["training"])["sigma_max"] == 0.8


def test_a_model_that_starts_from_an_image_sees_each_clips_first_frame(train, monkeypatch):
    asked = []
    original = NativeWanTrainee.predict
    monkeypatch.setattr(NativeWanTrainee, "predict", lambda self, *given: asked.append(given) or original(self, *given))
    photo = torch.rand(1, 40, 56, 3)
    done = train("image", tiny.native("image"), clip_vision=TinyVision(), sample_photo=photo, steps=1)
    latents, _, told = asked[0]
    assert told.concat_latents.shape == (1, 20, 2, *latents.shape[3:]) and told.image_tokens.shape == (1, 257, 1280)
    assert bool((told.concat_latents[:, :4, 0] == 1).all()) and not told.concat_latents[:, :4, 1:].any()
    assert done["samples"].isfinite().all() and (done["samples"][0] - done["samples"][1]).abs().max() > 0


def test_what_may_be_an_expert_and_is_trained_on_all_levels_is_told(train, monkeypatch):
    """A tiny network stands for one of the experts' size, which no test has room for."""
    monkeypatch.setattr(request, "may_be_expert", lambda config: True)
    said = "all noise levels are trained; if this is an expert of Wan 2.2 A14B, .* set expert to high noise or low"
    short = {"steps": 1, "model": tiny.native()}
    assert re.search(said, train("whole", **short)["report"])
    assert not re.search(said, train("whole", **short, expert="high noise")["report"])
    assert not re.search(said, train("whole", **short, more_settings="sigma_max = 0.8")["report"])
    monkeypatch.undo()
    assert not re.search(said, train("whole", **short)["report"])


def test_strides_of_other_models_are_told_in_the_report(train):
    done = train("strides", tiny.native(), stride_min=3, stride_max=10, steps=1)
    assert "stride_min 3 is above the model's own 1: motion is learned up to 10 times as fast" in done["report"]


def test_cancel_saves_the_lora_so_far_and_leaves_the_model_as_it_was(train, monkeypatch):
    model = native_model()
    before = seen(model)
    original = live_view.Page.step

    def press(page, report, losses):
        comfy.model_management.interrupt_current_processing()
        original(page, report, losses)

    monkeypatch.setattr(live_view.Page, "step", press)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train("cancelled", model, gradient_checkpointing=True)
    assert differences(before, seen(model)) == []
    path = Path(folder_paths.get_output_directory()) / "loras" / "cancelled_00001.safetensors"
    assert read_safetensors(path)[1]["training_stopped_early"] == f"after step 1 of {STEPS}"


@pytest.mark.parametrize("kind, more, said", [
    ("text", {"mode": "full"}, "mode is full; the host's own Wan is trained by a LoRA beside it; set mode to lora"),
    ("text", {"sample_photo": torch.rand(1, 32, 32, 3)}, "text alone; leave sample_photo unconnected"),
    ("text", {"clip_vision": TinyVision()}, "reads no CLIP vision"),
    ("image", {}, "also reads its start image through CLIP vision; connect clip_vision"),
    ("image", {"clip_vision": TinyVision(768)}, "tokens of width 768; Wan needs 1280"),
    ("text", {"expert": "medium"}, "expert is 'medium'; it must be one of: wan2.1, high noise, low noise"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_words(train, kind, more, said):
    with pytest.raises(ValueError, match=said):
        train("refused", tiny.native(kind), **more)


def test_other_kinds_of_wan_and_experts_of_other_models_are_refused(train, ours, clips):
    model, clip, vae = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    with pytest.raises(ValueError, match="expert and clip_vision are for Wan"):
        train("refused", model, clip=clip, vae=vae, expert="high noise")
    with pytest.raises(ValueError, match="vae is the built-in VAE, the model works in the wan21 latent space"):
        train("refused", tiny.native(), vae=vae)
    context = tiny.native()
    context.model_options["context_handler"] = object()
    with pytest.raises(ValueError, match="context windows"):
        train("refused", context)


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_every_other_class_of_wan_is_refused_by_name_in_the_training_node(train, name):
    config = comfy.supported_models.WAN21_T2V({"disable_unet_model_creation": True})
    with pytest.raises(ValueError, match=rf"this MODEL is .*\b{name}\b.*Load Diffusion Model"):
        train("refused", patcher(getattr(comfy.model_base, name)(config)))


def test_fun_control_is_refused_by_name_in_the_training_node(train):
    with pytest.raises(ValueError, match="Wan Fun-Control .*48 input channels; 16 and 36.*plain Wan is needed"):
        train("refused", around(network(model_type="i2v", in_dim=48)))


def test_a_lora_of_one_expert_says_so_where_it_is_applied_to_another_base(train, ours, monkeypatch):
    done = train("swap", tiny.native("expert", seed=0), expert="high noise")
    folder = Path(folder_paths.models_dir) / "motion_adapters"
    folder.mkdir(exist_ok=True)
    shutil.copy(done["path"], folder / "swap.safetensors")
    lines, original = [], page.page_text
    monkeypatch.setattr(page, "page_text", lambda text: lines.append(text) or original(text))
    (listed, *_) = ours["LoadAdapter"].execute("swap.safetensors").args
    other = (tiny.native("expert", seed=1), "another base (high noise)")
    same, text = (tiny.native("expert", seed=0), ""), (tiny.native(), "36 input channels, this model has 16")
    for model, said in (same, other, text):
        lines.clear()
        ours["ApplyAdapters"].execute(model, listed)
        assert ("it was trained" in lines[-1]) == bool(said) and said in lines[-1]


def test_a_run_that_goes_on_beside_the_other_expert_says_so_under_the_node(train, monkeypatch):
    monkeypatch.setattr(TinyText, "patcher", property(lambda self: native_patcher))
    native_patcher = tiny.native()
    half = {"expert": "high noise", "steps": 1, "save_every": 1, "more_settings": "schedule = constant"}
    train("swapped", tiny.native(seed=0), **half)
    same = train("swapped", tiny.native(seed=0), **{**half, "steps": 2}, resume_from="latest")
    other = train("swapped", tiny.native(seed=1), **{**half, "steps": 3}, resume_from="latest")
    assert "the base is another one" not in same["report"]
    assert "the base is another one than the run began with; of Wan 2.2 each expert" in other["report"]
