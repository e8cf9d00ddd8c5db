"""Jobs for Wan: what is trained of which files, what is exchanged between processes, and every refusal by its words."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from causal_clips import Stopping, same_weights
from pack.motion.adapters.notes import trained_levels
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.adapters.adapter_file import load_adapter, read_adapter
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.media.video import write_video
from pack.motion.io.networks.builtin_names import weights_path
from pack.motion.io.training.states import list_states
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.scene_model import load_scene_model
from pack.motion.training import job_wan
from pack.motion.training.job import TrainingJob, read_job, run_job
from pack.motion.training.processes import OneProcess
from pack.motion.training.reports import Watcher
from safetensors.torch import load_file, save_file
from wan_files import CONFIGS, SIZES, T2V, as_diffusers, diffusers_config, scaled, shards_of
from wan_job import save_clips, save_prompts, wan_job

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "training" / "wan.yaml"


class Listening(Watcher):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines += text.splitlines()


class Counting(OneProcess):
    """Counts the numbers that would go to other processes: first values made equal, then sums, a list a call."""

    def __init__(self):
        self.equalized, self.summed = [], []

    def equalize(self, tensors):
        self.equalized.append(sum(tensor.numel() for tensor in tensors))

    def sum_(self, tensors):
        self.summed.append(sum(tensor.numel() for tensor in tensors))


def test_a_lora_is_trained_by_the_models_own_numbers_and_stands_in_a_file_that_says_of_what(tmp_path):
    heard = Listening()
    done = run_job(read_job(wan_job(tmp_path, training={"num_steps": 30})), heard)
    losses = done.training.losses
    assert sum(losses[-5:]) < sum(losses[:5]) and done.path == tmp_path / "lora.safetensors"
    tensors, metadata = read_safetensors(done.path)
    assert metadata["base_model"] == "wan.safetensors" and "expert" not in metadata
    assert "diffusion_model.blocks.1.cross_attn.o.lora_up.weight" in tensors
    assert all(value.abs().max() > 0 for value in tensors.values())
    assert load_adapter(done.path, WanDiT(T2V)).layers
    other, own = WanDiT(T2V), WanDiT(T2V)
    own.load_state_dict(load_file(tmp_path / "wan.safetensors"))
    assert read_adapter(done.path).notes_on(own) == ()
    assert "trained on another base than this model" in read_adapter(done.path).notes_on(other)[0]
    for line in ("num_frames 17: the model's own", "clips resampled to 16 fps: the model's own",
                 "stride_max 1: the model's own", "targets self_attn, cross_attn: the model's own"):  # fmt: skip
        assert line in heard.lines
    assert "2 samples of 2 clips, stride 1 to 1" in heard.lines  # and no motion bucket
    base = next(line for line in heard.lines if line.startswith("base: Wan T2V of other"))
    assert base.endswith("computed in float32")


def test_the_shipped_example_names_all_that_is_needed():
    job = read_job(EXAMPLE)
    assert job.vae and job.prompts and job.clips and job.fps == 24.0 and not job.says("fps")
    assert job.training.loop.gradient_checkpointing and job.training.adapter.mode == "lora"
    assert not any(job.says(f"windows.{name}") for name in ("num_frames", "stride_min", "stride_max"))


def test_blocks_that_stay_off_the_device_change_no_bit(tmp_path):
    whole = run_job(read_job(wan_job(tmp_path)))
    training = {"blocks_on_cpu": 1, "gradient_checkpointing": True}
    other = wan_job(tmp_path, "other.json", training=training, output=str(tmp_path / "other.safetensors"))
    assert same_weights(whole.path, run_job(read_job(other)).path)


def test_the_page_on_training_names_every_key_of_a_job():
    page = EXAMPLE.parents[1].joinpath("training.md").read_text()
    assert not [item.name for item in fields(TrainingJob) if item.name != "said" and f"`{item.name}`" not in page]


def test_only_the_loras_gradients_and_the_loss_are_exchanged_between_processes(tmp_path):
    world = Counting()
    done = run_job(read_job(wan_job(tmp_path)), world=world)
    lora = load_adapter(done.path, WanDiT(T2V))
    size = sum(value.numel() for value in lora.parameters().values())
    base = sum(value.numel() for value in WanDiT(T2V).parameters())
    assert world.equalized == [size] and world.summed == [size + 1] * 4 and size < base / 10


@pytest.mark.slow
def test_a_stopped_job_ends_in_the_same_bits(tmp_path):
    training = {"batch_size": 2, "num_steps": 6}
    whole = run_job(read_job(wan_job(tmp_path, training=training)))
    cut = read_job(wan_job(tmp_path, "cut.json", training=training, output=str(tmp_path / "cut.safetensors")))
    with pytest.raises(KeyboardInterrupt):
        run_job(cut, Stopping())
    resumed = run_job(replace(cut, resume="latest"))
    assert same_weights(whole.path, resumed.path) and whole.training.losses == resumed.training.losses


@pytest.mark.slow
def test_other_prompts_stop_a_resume_and_more_of_them_do_not(tmp_path):
    job = read_job(wan_job(tmp_path, training={"num_steps": 6}))
    with pytest.raises(KeyboardInterrupt):
        run_job(job, Stopping())
    save_prompts(tmp_path / "prompts.safetensors", ("", "it brightens", "a light goes on", "one more"))
    heard = Listening()
    run_job(replace(job, resume="latest"), heard)
    assert "cache: 2 samples found, 0 made" in heard.lines
    save_prompts(tmp_path / "prompts.safetensors", ("", "one more", "it brightens", "a light goes on"))
    with pytest.raises(ConfigError, match="the VAE, the text encoder or their number type is another one"):
        run_job(replace(job, resume="latest"))


def test_what_may_be_an_expert_and_is_trained_on_all_levels_is_told(tmp_path, monkeypatch):
    """A tiny network stands for one of the experts' size, which no test has room for."""
    monkeypatch.setattr(job_wan, "may_be_expert", lambda config: config == T2V)
    said = "whose sizes it has, add expert: high_noise or expert: low_noise to the job"
    cases = {"whole": {}, "expert": {"expert": "high_noise"}, "share": {"training": {"sigma_max": 0.5}}}
    for name, more in cases.items():
        training, heard = {"num_steps": 1, **more.pop("training", {})}, Listening()
        output = str(tmp_path / f"{name}.safetensors")
        run_job(read_job(wan_job(tmp_path, training=training, output=output, **more)), heard)
        assert any(said in line for line in heard.lines) == (name == "whole")


@pytest.mark.slow
def test_image_to_video_experts_see_the_clips_start_and_their_own_noise_levels(tmp_path):
    done, config = {}, CONFIGS["A14B I2V"]
    for expert, (low, high) in {"high_noise": (0.9, 1.0), "low_noise": (0.0, 0.9)}.items():
        heard, model = Listening(), f"i2v_{expert}.safetensors"
        output = str(tmp_path / f"lora_{expert}.safetensors")
        path = wan_job(tmp_path, f"{expert}.json", config=config, model=model, output=output)
        done[expert] = run_job(read_job(path), heard)
        assert f"noise levels {low:g} to {high:g}: those of the {expert.replace('_', '-')} expert" in heard.lines
        told = read_safetensors(done[expert].path)[1]
        settings = json.loads(told["training"])
        assert told["expert"] == expert
        assert (settings.get("sigma_min", 0.0), settings.get("sigma_max", 1.0)) == (low, high)
    assert not same_weights(done["high_noise"].path, done["low_noise"].path)
    unnamed = wan_job(tmp_path, "unnamed.json", config=config, model="i2v.safetensors")
    with pytest.raises(ConfigError, match="does not say which: add expert: high_noise or expert: low_noise to the job"):
        run_job(read_job(unnamed))
    wide = wan_job(tmp_path, "all.json", config=config, model="i2v.safetensors", expert="low_noise",
                   output=str(tmp_path / "all.safetensors"), training={"sigma_max": 0.5})  # fmt: skip
    assert json.loads(run_job(read_job(wide)).metadata["training"])["sigma_max"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["diffusers", "shards", "fp8"])
def test_other_layouts_train_as_the_single_file_does(tmp_path, layout):
    path = wan_job(tmp_path)
    whole = run_job(read_job(path))
    state = load_file(tmp_path / "wan.safetensors")
    folder, changes = tmp_path / "folder", {"output": str(tmp_path / "other.safetensors")}
    if layout == "diffusers":  # whole, with the VAE inside
        shards_of(folder / "transformer", as_diffusers(T2V, state), diffusers_config(T2V))
        (folder / "model_index.json").write_text("{}")
        (folder / "vae").mkdir()
        (folder / "vae" / "vae.safetensors").write_bytes((tmp_path / "vae.safetensors").read_bytes())
        changes["vae"] = None
    elif layout == "shards":
        shards_of(folder, state, {"_class_name": "WanModel", "num_heads": 1, "in_dim": 16})
    else:
        tensors, metadata, _ = scaled(state, "older")
        folder = tmp_path / "fp8.safetensors"
        save_file(tensors, folder, metadata)
    heard = Listening()
    other = run_job(read_job(wan_job(tmp_path, "other.json", model=folder, **changes)), heard)
    if layout == "fp8":
        assert any(line.endswith("computed in bfloat16") for line in heard.lines)
        assert abs(other.training.losses[0] / whole.training.losses[0] - 1) < 0.2
    else:
        assert same_weights(whole.path, other.path)



@pytest.mark.slow
def test_numbers_that_a_job_says_stay_and_those_it_leaves_open_are_the_models(tmp_path):
    job = TrainingJob.from_dict({"output": "a.safetensors", "clips": "c", "windows": {"num_frames": 16}})
    assert job.says("windows.num_frames") and not job.says("windows.stride_min") and not job.says("fps")
    assert TrainingJob("a.safetensors", clips="c", fps=8.0).says("fps") and job == replace(job, said=frozenset())
    heard = Listening()
    path = wan_job(tmp_path, fps=24, windows={"resolution": 32, "num_frames": 5, "stride_max": 2, "stride_min": 2})
    run_job(read_job(path), heard)
    assert any(line.startswith("latents: 2 frames of 6x4") for line in heard.lines)
    assert not any("the model's own" in line and "targets" not in line and "stride" not in line for line in heard.lines)
    with pytest.raises(ConfigError, match="does not know 'said'"):
        TrainingJob.from_dict({"output": "a.safetensors", "clips": "c", "said": ["fps"]})


REFUSED = {
    "16 frames": ({"windows": {"num_frames": 16}}, ConfigError,
                  "num_frames is 16; Wan 2.1 VAE needs 4k . 1; use 13 or 17"),
    "a side that does not divide": ({"windows": {"resolution": 40}}, ShapeError,
                                    "windows.resolution is 40x40 px; Wan 2.1 VAE needs multiples of 16; .*32x32 or 48"),
    "no VAE": ({"vae": None}, ConfigError, "vae is missing; name the file or folder of the Wan 2.1 VAE"),
    "no prompts": ({"prompts": None}, ConfigError, "prompts is missing; .* its node Save Prompts wrote"),
    "all weights": ({"training": {"mode": "full"}}, ConfigError, "mode is 'full'; beside Wan adapters are"),
    "more blocks than there are": ({"training": {"blocks_on_cpu": 3, "gradient_checkpointing": True}}, ConfigError,
                                   "blocks_on_cpu is 3; this model has 2 blocks, so 0 to 2 is needed"),
    "layers there are not": ({"training": {"targets": ["sefl_attn"]}}, ConfigError, "no layer.s name holds .* sefl_a"),
    "samples": ({"training": {"sample_every": 1}}, ConfigError, "sample_every is 1; no samples are drawn while Wan"),
    "a type": ({"dtype": "int8"}, ConfigError, "dtype is 'int8'; float32 or bfloat16 is needed"),
    "an expert": ({"expert": "both"}, ConfigError, "expert is 'both'; high_noise or low_noise is needed"),
    "a VAE that is none": ({"vae": "prompts"}, CheckpointError, "no VAE is known with these tensor names"),
    "a model that is none": ({"model": "vae"}, CheckpointError, "this is a Wan VAE; the shell trains the built-in"),
    "prompts that are none": ({"prompts": "vae"}, CheckpointError,
                              "this is a Wan VAE; encoded prompts are needed: save them with the node"),
    "a file that is not there": ({"prompts": "none.safetensors"}, CheckpointError, "none.safetensors: cannot be op"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_trained_is_refused_before_anything_is_encoded(tmp_path, changes, kind, reason):
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("vae", "prompts")}
    changes = {key: files.get(str(value), value) for key, value in changes.items()}
    with pytest.raises(kind, match=reason):
        run_job(read_job(wan_job(tmp_path, **changes)))
    assert not (tmp_path / "lora.latents").exists() and not list_states(tmp_path / "lora.states")


def test_a_prompts_file_of_another_width_and_one_that_lacks_a_caption_are_refused(tmp_path):
    job = read_job(wan_job(tmp_path))
    save_prompts(tmp_path / "prompts.safetensors", width=12, encoder="gemma2_2b")
    with pytest.raises(ConfigError, match="are 12 wide, of 'gemma2_2b'; the model needs 8, of UMT5-XXL; save"):
        run_job(job)
    save_prompts(tmp_path / "prompts.safetensors", encoder="t5xxl")
    with pytest.raises(ConfigError, match="encoded by 't5xxl'; the model needs 'umt5xxl', UMT5-XXL"):
        run_job(job)
    save_prompts(tmp_path / "prompts.safetensors", ("", "it brightens"))
    with pytest.raises(ConfigError, match="lack the caption 'a light goes on' of clip '1.mp4'; they hold 'it b"):
        run_job(job)
    assert not (tmp_path / "lora.latents").exists()


def test_image_to_video_models_that_read_clip_vision_are_refused_with_those_that_need_none(tmp_path):
    job = wan_job(tmp_path, model="i2v.safetensors", config=WanConfig(**SIZES, concat_channels=20, image_tokens=True))
    with pytest.raises(ConfigError, match="CLIP vision tokens of the start image; the shell cannot make them: take"):
        run_job(read_job(job))


def test_models_that_hold_all_they_need_are_given_nothing_beside(tmp_path):
    for name, value in {"vae": "a", "prompts": "b", "expert": "high_noise", "dtype": "bfloat16"}.items():
        job = TrainingJob(str(tmp_path / "a.safetensors"), clips="c", **{name: value})
        with pytest.raises(ConfigError, match=f"{name}: motionblocks-tiny holds its own VAE and text encoder"):
            run_job(job)


@pytest.mark.parametrize("variant", ["T2V", "A14B I2V"])
def test_a_motion_adapter_needs_no_prompts_and_says_how_its_videos_begin(tmp_path, variant):
    config = T2V if variant == "T2V" else CONFIGS[variant]
    training, expert = {"adapter": "miva", "num_steps": 2}, None if variant == "T2V" else "high_noise"
    heard = Listening()
    done = run_job(read_job(wan_job(tmp_path, config=config, prompts=None, training=training, expert=expert)), heard)
    assert "captions are not read: this adapter stands in place of the prompt" in heard.lines
    tensors, told = read_safetensors(done.path)
    assert told["family"] == "miva" and tensors["blocks.1.ca.up"].abs().max() > 0
    assert told.get("first_frame") == ("clean_same_t" if variant == "T2V" else None)
    assert told["trained_size"] == "48x32 px, 17 frames" and told["input_channels"] == str(16 if expert is None else 36)
    assert trained_levels(told) == ((0.0, 1.0) if expert is None else (0.9, 1.0))
    assert load_adapter(done.path, WanDiT(config)).kind == "miva"


def test_the_small_wan_of_the_pack_brings_vae_and_words(tmp_path):
    save_clips(tmp_path / "clips", side=64)
    values = {"model": "motionblocks-wan-i2v", "clips": str(tmp_path / "clips"), "device": "cpu", "fps": 8,
              "output": str(tmp_path / "wave.safetensors"), "windows": {"resolution": 64, "windows_per_clip": 1},
              "training": {"adapter": "miva", "num_steps": 1, "rank": 2}, "overwrite": True}  # fmt: skip
    done = run_job(TrainingJob.from_dict(values))
    assert load_adapter(done.path, load_scene_model(weights_path("motionblocks-wan-i2v")).dit).kind == "miva"
    with pytest.raises(ConfigError, match="vae, prompts: motionblocks-wan-i2v brings its own VAE and words; leave"):
        run_job(TrainingJob.from_dict({**values, "vae": "a", "prompts": "b"}))
    spoken = {**values, "training": {"num_steps": 1}, "output": str(tmp_path / "b.safetensors")}
    with pytest.raises(ConfigError, match="unknown word"):
        run_job(TrainingJob.from_dict(spoken))


MASKED = {"adapter": "miva", "masked": True}


def put_masks(folder, num_frames=20):
    """White left halves that grow, beside both clips of `save_clips`."""
    for name in ("0", "1"):
        shown = torch.zeros(num_frames, 32, 48, 3)
        for n in range(num_frames):
            shown[n, :, : 16 + n] = 1
        write_video(folder / "clips" / f"{name}.mask.mp4", shown, 16)


def test_a_masked_adapter_is_trained_on_clips_with_masks_beside_them(tmp_path):
    heard, path = Listening(), wan_job(tmp_path, training=MASKED, prompts=None)
    with pytest.raises(ConfigError, match="0.mp4 and 1 more of 2 clips has no masks, which a masked adapter is"):
        run_job(read_job(path))
    put_masks(tmp_path)
    done = run_job(read_job(path), heard)
    assert "masks: 2 of 2 clips" in heard.lines
    assert any(line.startswith("masks are read off latents, ") for line in heard.lines)
    found = read_adapter(done.path)
    assert found.config.masked and found.tensors["mask_reader"].any()
    assert {"cfa_m", "ca_bg"} <= {name.split(".")[2] for name in found.tensors if name.startswith("blocks.")}
    losses = done.training.losses
    assert all(loss > 0 for loss in losses) and found.build(WanDiT(T2V)).config.masked
    kept = sorted((tmp_path / "lora.latents").rglob("*.safetensors"))
    names = [read_safetensors(file)[0].keys() for file in kept]
    assert sum({"mask_latents", "mask_scores"} <= set(each) for each in names) == 2, "with the clips' own latents"


def test_masks_are_refused_where_the_model_reads_its_start_image_before_anything_is_encoded(tmp_path):
    path = wan_job(tmp_path, config=CONFIGS["A14B I2V"], training=MASKED, prompts=None, expert="low_noise")
    with pytest.raises(ConfigError, match="masked motion adapters stand beside Wan text to video.*Wan image to video"):
        run_job(read_job(path))
    builtin = wan_job(tmp_path, "builtin.json", training=MASKED, prompts=None, vae=None)
    job = replace(read_job(builtin), model="motionblocks-tiny")
    with pytest.raises(ConfigError, match="this is: linear video model; train one without masks"):
        run_job(job)
