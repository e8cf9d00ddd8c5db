"""Train Motion Adapter on the host's own Wan: as our own Wan to a rounding; files, experts, resume, cancel, memory."""

import json
from dataclasses import replace
from pathlib import Path

import folder_paths
import pytest
import tiny_native_wan as tiny
import torch
from masked_data import masked_dataset
from native_training import (
    TinyText,
    dataset,
    differences,
    native_model,
    native_trainee,
    own_trainee,
    seen,
    tiny_vae,
    trainer_of,
)
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.training.config import TrainingConfig
from pack.motion.training.task import SampleKey
from pack.nodes.training_run.request import read_request
from press_cancel import cancelled_after
from test_inhost_training import collection

STEPS = 4
SMALL = {"steps": STEPS, "rank": 2, "batch_size": 1, "learning_rate": 1e-2, "num_frames": 5, "stride_min": 1,
         "stride_max": 1, "windows_per_clip": 1, "resolution": 32, "save_every": 2}  # fmt: skip
OUTPUTS = ("adapters", "loss", "samples", "report", "path")
MIVA = TrainingConfig.of(adapter="miva", rank=2, alpha=2.0, num_steps=3, learning_rate=1e-2, warmup_steps=0, shift=5.0)


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
        return dict(zip(OUTPUTS, ours["TrainAdapter"].execute(**{**given, **more}).args))

    return run


def grown(trainer):
    """The trainer with an adapter that acts from the start, so that all its parts have gradients."""
    with torch.inference_mode(False), torch.no_grad():
        for number, value in enumerate(trainer.parameters.values()):
            value.add_(tiny.randn(*value.shape, seed=number) / 8)
    return trainer


@pytest.mark.parametrize("kind", ["text", "image"])
def test_losses_and_weights_are_those_beside_our_own_wan_and_checkpointing_changes_no_bit(figure, kind):
    model = native_model(kind)
    before = seen(model)
    data = dataset(kind, shape=(16, 3, 4, 4))
    runs = [grown(trainer_of(trainee, kind, MIVA, data=data)) for trainee in (
        native_trainee(model), native_trainee(model, checkpointing=True), own_trainee(kind))]  # fmt: skip
    for run in runs:
        run.run()
    assert differences(before, seen(model)) == []
    losses = [run.losses for run in runs]
    off = max(abs(one / two - 1) for one, two in zip(losses[0], losses[2]))
    figure(f"MIVA beside native Wan, {kind}: losses, largest relative difference from our own", off)
    assert losses[0] == losses[1] and off <= 1e-5
    for name, value in runs[0].parameters.items():
        assert torch.equal(value, runs[1].parameters[name])
        assert (value - runs[2].parameters[name]).abs().max() <= 1e-3


@pytest.mark.parametrize("kind", ["text", "expert"])
def test_an_adapter_is_trained_saved_and_applied_at_once(train, ours, core, kind):
    model = native_model(kind)
    before = seen(model)
    done = train(f"wave_{kind}", model, motion="waves", sample_photo=torch.rand(1, 80, 56, 3))
    assert differences(before, seen(model)) == []
    folder = Path(folder_paths.get_output_directory()) / "motion_adapters"
    assert Path(done["path"]) == folder / f"wave_{kind}_00001.safetensors"
    tensors, told = read_safetensors(done["path"])
    assert tensors["blocks.1.ca.up"].abs().max() > 0 and tensors["blocks.0.cfa.o.up"].abs().max() > 0
    assert told["motion"] == "waves" and told["trained_size"].endswith("px, 5 frames")
    assert told["input_channels"] == ("16" if kind == "text" else "36") and len(json.loads(told["base_sample"])) == 2
    assert told.get("first_frame") == ("clean_same_t" if kind == "text" else None)
    assert len(done["loss"]["loss"]) == STEPS and done["samples"].shape[0] == 2 and done["samples"].isfinite().all()
    assert (done["samples"][0] - done["samples"][1]).abs().max() > 0
    acts = ours["ApplyAdapters"].execute(model, done["adapters"]).args[0]
    if kind == "text":
        first = tiny.first_latent()
        assert torch.equal(tiny.sample(core, acts, first=first)[:, :, :1], first)


def test_a_sample_before_and_after_begins_with_the_photo(train):
    """Text to video reads no photo: it stands in frame 1 of the sample. A random VAE hardly shows what it is given."""
    photo = torch.rand(1, 64, 96, 3)
    one, other = (train("begins", tiny.native(), sample_photo=each, steps=1)["samples"] for each in (photo, 1 - photo))
    width = one.shape[2] // 3
    assert not torch.equal(one[:, :, :width], other[:, :, :width])
    assert torch.equal(one[0, :, :width], one[1, :, :width])


@pytest.mark.parametrize("kind", ["text", "expert"])
def test_without_a_text_encoder_it_learns_the_same_bits(train, kind):
    model = native_model(kind)
    one, other = (train(name, model, clip=clip) for name, clip in (("said", TinyText()), ("unsaid", None)))
    first, second = (read_safetensors(done["path"])[0] for done in (one, other))
    assert one["loss"]["loss"] == other["loss"]["loss"]
    assert torch.equal(one["samples"][1], other["samples"][1])  # the first is of the model itself, which reads text
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    said = "no text encoder is connected: the empty prompt is zeros, which only the sample before the training reads"
    assert said in other["report"] and said not in one["report"]


def test_the_small_wan_needs_no_words_either(ours, clips):
    model, _, vae = ours["LoadBuiltin"].execute("motionblocks-wan-i2v").args
    told = read_request(model, None, vae, clips, {"file_prefix": "own", "resolution": 64}, adapter="miva")
    assert told.clip is None
    given = {**SMALL, "resolution": 64, "steps": 1, "num_frames": 0}
    done = ours["TrainAdapter"].execute(model=model, vae=vae, clips=clips, file_prefix="wordless", **given).args
    assert len(done[1]["loss"]) == 1


@pytest.mark.parametrize("kind, expert, file, low, high", [
    ("text", "high noise", "pair_high", 0.875, 1.0), ("text", "low noise", "pair_low", 0.0, 0.875),
    ("expert", "low noise", "pair_low", 0.0, 0.9),
])  # fmt: skip
def test_each_expert_has_a_file_of_its_own_with_its_noise_levels(train, kind, expert, file, low, high):
    done = train("pair", tiny.native(kind), expert=expert, steps=1)
    _, told = read_safetensors(done["path"])
    settings = json.loads(told["training"])
    assert (settings.get("sigma_min", 0.0), settings.get("sigma_max", 1.0)) == (low, high)
    assert Path(done["path"]).stem.startswith(file) and told["expert"] == expert.replace(" ", "_")
    assert done["samples"].isfinite().all()


def test_a_cancelled_run_leaves_an_adapter_and_resumes_to_the_same_bits(train, monkeypatch):
    model, encoder = native_model(), tiny.native()
    monkeypatch.setattr(TinyText, "patcher", property(lambda self: encoder))  # else no two runs have the same text
    whole = train("whole", model)
    before = seen(model)
    with cancelled_after(monkeypatch, 3):
        train("cut", model)
    assert differences(before, seen(model)) == []
    left = Path(folder_paths.get_output_directory()) / "motion_adapters" / "cut_00001.safetensors"
    assert read_safetensors(left)[1]["training_stopped_early"] == f"after step 3 of {STEPS}"
    resumed = train("cut", model, resume_from="latest")
    one, two = (read_safetensors(done["path"])[0] for done in (whole, resumed))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def asked(ours, model, vae, clips, **more):
    """The request of the node with all numbers left to the model."""
    settings = {"file_prefix": "own", "resolution": 512, **more}
    return read_request(model, TinyText(), vae, clips, settings, adapter="miva")


def test_numbers_of_0_are_those_of_the_paper_and_of_the_small_wan_its_own(ours, vae, clips):
    told = asked(ours, tiny.native(), vae, clips)
    assert (told.config.loop.num_steps, told.config.loop.batch_size) == (8000, 1)
    assert (told.config.optimizer.learning_rate, told.config.adapter.rank) == (1e-5, 128)
    assert told.config.objective.sigma_sampling == "uniform" and told.config.objective.top_noise_share == 0.0
    assert told.windows.resolution == 512 and told.clean_first_frame and told.starts_from_image
    for name, begins in (("motionblocks-wan", True), ("motionblocks-wan-i2v", False)):
        model, clip, own_vae = ours["LoadBuiltin"].execute(name).args
        told = read_request(model, clip, own_vae, clips, {"file_prefix": "own", "resolution": 512}, adapter="miva")
        assert (told.config.loop.num_steps, told.config.loop.batch_size) == (240, 5)
        assert (told.config.optimizer.learning_rate, told.config.adapter.rank) == (6e-3, 16)
        assert told.windows.resolution == 64 and told.clean_first_frame == begins and told.starts_from_image
    larger = read_request(model, clip, own_vae, clips, {"file_prefix": "own", "resolution": 96}, adapter="miva")
    assert larger.windows.resolution == 96


def test_the_small_wan_of_the_pack_is_taught_in_the_graph(ours, clips):
    model, clip, vae = ours["LoadBuiltin"].execute("motionblocks-wan-i2v").args
    given = {**SMALL, "resolution": 512, "steps": 1, "num_frames": 0, "rank": 0}
    made = ours["TrainAdapter"].execute(model=model, clip=clip, vae=vae, clips=clips, file_prefix="small", **given).args
    done = dict(zip(OUTPUTS, made))
    assert read_safetensors(done["path"])[1]["trained_size"] == "64x64 px, 5 frames"
    assert ours["ApplyAdapters"].execute(model, done["adapters"]).args[0] is not None


@pytest.mark.parametrize("kind, more, said", [
    ("image", {}, "also reads its start image through CLIP vision; connect clip_vision"),
    ("text", {"expert": "medium"}, "expert is 'medium'; it must be one of: wan2.1, high noise, low noise"),
    ("text", {"more_settings": "adapter = lora"}, "a LoRA is trained by Train Motion Model"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_words(train, kind, more, said):
    with pytest.raises(ValueError, match=said):
        train("refused", tiny.native(kind), **more)


def test_out_of_memory_turns_checkpointing_on_and_then_names_the_estimate():
    task = trainer_of(native_trainee(native_model()), config=MIVA).task
    batch = task.draw([SampleKey(0, 0, 0)])
    assert task.save_memory(batch) == "gradient_checkpointing is on from here"
    with pytest.raises(ConfigError, match="out of memory with gradient_checkpointing on: .* needs about .* GiB"):
        task.save_memory(batch)


def with_masks(clips):
    """The clips with the left half of their frames white, a little more of it with every frame."""
    def masks_of(clip):
        def read(indices):
            shown = torch.zeros(len(indices), clip.height, clip.width)
            for row, index in enumerate(indices):
                shown[row, :, : clip.width // 2 + index] = 1
            return shown

        return replace(clip, masks=read, fingerprint=f"{clip.fingerprint} masks")

    return replace(clips, clips=tuple(map(masks_of, clips.clips)))


def test_a_masked_adapter_is_trained_and_applied_at_once(train, ours, core, clips, vae, monkeypatch):
    from pack.nodes.training_run.native_trainee import NativeWanTrainee

    expected = []
    monkeypatch.setattr(NativeWanTrainee, "expect", lambda trainee, shapes: expected.extend(shapes))
    model = native_model("text")
    before = seen(model)
    given = {"masked": True, "clips": with_masks(clips), "clip": None}
    done = train("masked_wave", model, **given)
    assert expected[0][:2] == (2, 16), "room is kept for a clip and for its masks"
    assert differences(before, seen(model)) == [] and "masks are read off latents, " in done["report"]
    tensors, told = read_safetensors(done["path"])
    assert json.loads(told["adapter_config"])["masked"] and tensors["mask_reader"].any()
    assert tensors["blocks.1.ca_bg.up"].abs().max() > 0 and tensors["blocks.0.cfa_m.o.up"].abs().max() > 0
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    acts = ours["ApplyAdapters"].execute(model, done["adapters"], "delta", vae, mask).args[0]
    first = tiny.first_latent()
    assert torch.equal(tiny.sample(core, acts, first=first, steps=4)[:, :, :1], first)
    assert train("masked_wave", model, resume_from="latest", **given)["loss"]["loss"] == done["loss"]["loss"]


def test_missing_masks_and_models_that_know_none_are_refused_before_anything_is_encoded(train, clips):
    with pytest.raises(ConfigError, match="has no masks, which a masked adapter is trained on; give masks to Clips"):
        train("none", native_model("text"), masked=True)
    with pytest.raises(ConfigError, match="stand beside Wan text to video.*this is: Wan image to video"):
        train("image", native_model("expert"), masked=True, clips=with_masks(clips))


def test_masked_losses_are_those_beside_our_own_wan_and_checkpointing_changes_no_bit(figure):
    model, data = native_model("text"), masked_dataset(channels=16, context=4096)
    config = MIVA.changed(masked=True)
    runs = [grown(trainer_of(trainee, "text", config, data=data)) for trainee in (
        native_trainee(model), native_trainee(model, checkpointing=True), own_trainee("text"))]  # fmt: skip
    for each in runs:
        each.run()
    losses = [each.losses for each in runs]
    off = max(abs(one / two - 1) for one, two in zip(losses[0], losses[2]))
    figure("M-MIVA beside native Wan: losses, largest relative difference from our own", off)
    assert losses[0] == losses[1] and off <= 1e-5
