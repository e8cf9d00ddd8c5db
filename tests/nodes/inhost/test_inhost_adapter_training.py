"""Train Motion Adapter: the file is loadable at once, runs resume exactly, the model stays, bad input is named."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import own_motion_adapters as own
import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.architectures import ARCHITECTURES
from pack.nodes.host import page
from pack.nodes.models.base import spec_of
from pack.nodes.training_run import request
from test_inhost_training import (
    builtin,  # noqa: F401
    cancel_at,  # noqa: F401
    clip_of,
    clips,  # noqa: F401
    collection,
    sample,
    weights_of,
)

STEPS = 4
SMALL = {"steps": STEPS, "rank": 2, "batch_size": 1, "learning_rate": 1e-2, "num_frames": 4, "stride_min": 1,
         "stride_max": 2, "windows_per_clip": 2, "save_every": 2}  # fmt: skip
OUTPUTS = ("adapters", "loss", "samples", "report", "path")


@pytest.fixture
def train(ours, builtin, clips):  # noqa: F811
    """Run the node; returns its outputs by name."""

    def run(file_prefix, **more):
        model, clip, vae = builtin
        given = {"model": model, "clip": clip, "vae": vae, "clips": clips, "file_prefix": file_prefix, **SMALL, **more}
        return dict(zip(OUTPUTS, ours["TrainAdapter"].execute(**given).args))

    return run


def applied(ours, model, adapters, weight=1.0):
    return ours["ApplyAdapters"].execute(model, ours["AddToStack"].execute(adapters, weight).args[0]).args[0]


def test_an_adapter_is_trained_saved_and_loadable_at_once(core, ours, builtin, train, monkeypatch):  # noqa: F811
    model, before = builtin[0], own.by_value(builtin[0])
    plain = sample(core, ours, builtin, model, "")
    done = train("sway", motion="  grass  sways ")
    path = Path(done["path"])
    assert path == Path(folder_paths.get_output_directory()) / "motion_adapters" / "sway_00001.safetensors"
    tensors, metadata = weights_of(path)
    told = json.loads(metadata["training"])
    own_settings = {"adapter": "miva", "rank": 2, "sigma_sampling": "uniform", "top_noise_share": 0.7}
    assert {name: told[name] for name in own_settings} == own_settings
    assert metadata["motion"] == "grass sways" and metadata["base_model"] == "motionblocks-tiny"
    assert metadata["trained_size"] == "64x64 px, 4 frames" and metadata["training_steps"] == str(STEPS)
    assert len(done["loss"]["loss"]) == STEPS and done["samples"].shape[0] == 2 and done["samples"].isfinite().all()
    assert "motion adapter:" in done["report"] and "captions are not read" in done["report"]
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    (moved,) = [value for name, value in tensors.items() if name == "blocks.0.ca.up"]
    assert moved.abs().max() > 0
    after = sample(core, ours, builtin, applied(ours, model, done["adapters"]), "")
    assert after.isfinite().all() and not torch.equal(after, plain)
    assert torch.equal(sample(core, ours, builtin, applied(ours, model, done["adapters"], 0.0), ""), plain)
    lines = []
    monkeypatch.setattr(page, "page_text", lambda text: lines.append(text) or text)
    loaded = ours["LoadAdapter"].execute("sway_00001.safetensors").args[0]
    assert torch.equal(sample(core, ours, builtin, ours["ApplyAdapters"].execute(model, loaded).args[0], ""), after)
    shown = next(text for text in lines if text.startswith("motion adapter"))
    for line in ("motion: grass sways", "trained: 64x64 px, 4 frames, 4 steps"):
        assert line in shown.split("\n")
    assert "base: motionblocks-tiny, " in shown
    after_run = own.by_value(model)
    assert after_run[0] == before[0] and after_run[1] == before[1] and after_run[2] == before[2]
    assert torch.equal(sample(core, ours, builtin, model, ""), plain)


def test_the_file_may_keep_every_bit_of_what_was_trained(train):
    kept = {name: weights_of(train("kept", file_precision=name)["path"])[0] for name in ("bf16", "fp16", "fp32")}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        assert all(torch.equal(value, kept["fp32"][key].to(dtype)) for key, value in kept[name].items())
    with pytest.raises(ConfigError, match="file_precision is 'int8'; it must be one of own, bf16, fp16, fp32"):
        train("kept", file_precision="int8")


def test_a_rare_setting_without_a_widget_is_read(train):
    done = train("rare", more_settings="ema_decay = 0.5\nflow_weight = 10")
    told = json.loads(weights_of(done["path"])[1]["training"])
    assert (told["ema_decay"], told["flow_weight"]) == (0.5, 10)


def test_numbers_of_0_are_the_models_own(train, monkeypatch):
    from pack.nodes.training_run import run

    seen = []

    def stop(request, node_id):
        seen.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("pack.nodes.training_run.run.train", stop)
    assert run.train is stop
    with pytest.raises(KeyboardInterrupt):
        train("own", steps=0, rank=0, batch_size=0, learning_rate=0.0, more_settings="sigma_sampling = logit_normal")
    told = seen[0].config
    assert (told.loop.num_steps, told.loop.batch_size, told.optimizer.learning_rate) == (240, 2, 8e-3)
    assert (told.adapter.rank, told.adapter.alpha, told.adapter.adapter) == (11, 11.0, "miva")
    assert (told.objective.sigma_sampling, told.objective.top_noise_share) == ("logit_normal", 0.7)
    assert {clip.caption for clip in seen[0].clips.clips} == {""} and seen[0].photo.shape[0] == 1
    assert seen[0].told == {"motion": "own", "base_model": "motionblocks-tiny"}


def test_a_cancelled_run_leaves_an_adapter_and_resumes_exactly(train, cancel_at, monkeypatch):  # noqa: F811
    whole = train("whole")
    cancel_at(3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train("cut", clips=collection("pan left", "zoom in", "still"))
    monkeypatch.undo()
    saved = Path(folder_paths.get_output_directory()) / "motion_adapters" / "cut_00001.safetensors"
    _, metadata = weights_of(saved)
    assert metadata["training_stopped_early"] == "after step 3 of 4"
    resumed = train("cut", resume_from="latest")
    one, other = weights_of(whole["path"])[0], weights_of(resumed["path"])[0]
    assert Path(resumed["path"]).name == "cut_00002.safetensors"
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert resumed["loss"]["loss"] == whole["loss"]["loss"]


def test_captions_make_no_difference(train):
    one = train("said", clips=collection("pan left", "zoom in"))
    other = train("unsaid", clips=collection("", ""))
    assert one["loss"]["loss"] == other["loss"]["loss"]


def test_it_trains_what_the_shell_trains(train, clips, tmp_path):  # noqa: F811
    """The same numbers by the library alone, from the same clips and the same first weights."""
    from pack.motion.builtin_model import load_builtin
    from pack.motion.data.latent_dataset import build_latent_dataset, builtin_encoders
    from pack.motion.data.windows import WindowConfig
    from pack.motion.training.config import TrainingConfig
    from pack.motion.training.run import TrainingPlan, TrainingRun
    from pack.motion.training.tasks.adapter_task import adapter_task
    from pack.motion.training.trainees.linear_video import LinearVideoTrainee

    done = train("again")
    with torch.inference_mode(False), torch.enable_grad():
        model = load_builtin(device="cpu")
        config = TrainingConfig.of(
            num_steps=STEPS, rank=2, alpha=2.0, learning_rate=1e-2, adapter="miva", sigma_sampling="uniform",
            top_noise_share=0.7, shift=model.spec.sampling.shift,
        )  # fmt: skip
        windows = WindowConfig(num_frames=4, stride_min=1, stride_max=2, windows_per_clip=2)
        dataset = build_latent_dataset(clips.without_captions(), model.spec, builtin_encoders(model), windows,
                                       cache_folder=tmp_path)  # fmt: skip
        task = adapter_task(LinearVideoTrainee(model.dit, model.spec), dataset, config)
        losses = TrainingRun(TrainingPlan(config=config, task=lambda data: task, states=None)).run().training.losses
    assert list(losses) == pytest.approx(done["loss"]["loss"], rel=1e-4)


def test_images_of_any_loader_are_clips(ours, train):
    frames = clip_of("a", seed=1).frames(range(8)).movedim(1, -1)
    other = clip_of("b", seed=2).frames(range(8)).movedim(1, -1)
    first, preview, _ = ours["ClipsFromImages"].execute(frames, 8.0).args
    both, preview, summary = ours["ClipsFromImages"].execute(other, 8.0, 4, "", first).args
    assert [clip.num_frames for clip in both.clips] == [8, 4, 4] and preview.shape[1:] == (64, 64, 3)
    assert "3 clips, 16 frames at 8 fps" in summary
    kept = frames.clone()
    done = train("of_images", clips=both)
    assert torch.equal(frames, kept) and all(value > 0 for value in done["loss"]["loss"])
    with pytest.raises(ConfigError, match="one rate is needed: give both the same fps"):
        ours["ClipsFromImages"].execute(frames, 24.0, 0, "", first)
    with pytest.raises(ConfigError, match="clips is dict; connect the clips output"):
        ours["ClipsFromImages"].execute(frames, 24.0, 0, "", {})


def test_clips_too_short_to_move_are_refused(train, ours):
    with pytest.raises(ConfigError, match="clip0: windows of 1 frame; this model needs at least 2"):
        train("short", clips=collection("pan left", num_frames=1))
    with pytest.raises(ConfigError, match="clips of 9 frames are asked for and 8 frames are there"):
        ours["ClipsFromImages"].execute(clip_of("a").frames(range(8)).movedim(1, -1), 8.0, 9)


def test_a_kind_of_model_without_numbers_for_motion_is_refused_in_words(train, builtin, monkeypatch):  # noqa: F811
    row = ARCHITECTURES.of(spec_of(builtin[0]))
    silent = replace(row, training=replace(row.training, motion=None))
    monkeypatch.setattr(request, "ARCHITECTURES", SimpleNamespace(of=lambda spec: silent))
    with pytest.raises(ConfigError, match="linear video model, beside which no motion adapter is trained yet; train a"):
        train("none")


def test_a_model_that_is_not_built_in_has_no_numbers_of_its_own(train, models_folder):
    model, _ = own.model_at(models_folder / "taught.safetensors", qk_norm=True)
    with pytest.raises(ConfigError, match="steps, rank: 0 leaves the choice to the model, and only built-in ones have"):
        train("large", model=model, steps=0, rank=0)
    with pytest.raises(ShapeError, match="vae is the built-in VAE, the model works in the svd latent space"):
        train("large", model=model)


def test_where_the_prompt_is_read_the_text_encoder_is_asked_for(train, ours, builtin, clips):  # noqa: F811
    with pytest.raises(ConfigError, match="also reads the prompt as a whole, which adapters do not .*; connect clip"):
        train("wordless", clip=None)
    model, _, vae = builtin
    with pytest.raises(ConfigError, match="clip is empty: the checkpoint that was loaded holds no text encoder"):
        ours["TrainMotionModel"].execute(model=model, clip=None, vae=vae, clips=clips)


def test_a_model_without_a_pooled_prompt_gets_zeros(builtin):  # noqa: F811
    from pack.nodes.training_run.encoders import host_encoders

    spec = spec_of(builtin[0])
    made = host_encoders(builtin[2], None, spec, {})
    told = made.encode_text("anything")
    assert told.context.shape == (1, spec.config.caption_channels) and not told.context.any()
    assert told.attention_mask is None and told.pooled is None and made.fingerprint.endswith("no text")


def test_each_node_trains_its_own_kind(train, ours, builtin, clips):  # noqa: F811
    with pytest.raises(ConfigError, match="more_settings says adapter = lora; a LoRA is trained by Train Motion Model"):
        train("other", more_settings="adapter = lora")
    model, clip, vae = builtin
    with pytest.raises(ConfigError, match="more_settings says adapter = miva"):
        ours["TrainMotionModel"].execute(model=model, clip=clip, vae=vae, clips=clips, more_settings="adapter = miva")


def test_a_state_of_a_lora_does_not_go_on_as_an_adapter(train, ours, builtin, clips):  # noqa: F811
    model, clip, vae = builtin
    small = {name: value for name, value in SMALL.items() if name != "batch_size"}
    ours["TrainMotionModel"].execute(model=model, clip=clip, vae=vae, clips=clips, file_prefix="mixed", **small)
    with pytest.raises(ConfigError, match="adapter"):
        train("mixed", resume_from="latest", steps=6)


def test_a_model_with_adapters_on_it_is_not_trained_through(train, ours, builtin):  # noqa: F811
    done = train("first")
    with pytest.raises(ConfigError, match="functions around the network from another node"):
        train("second", model=applied(ours, builtin[0], done["adapters"]))
