"""Training on poses beside the host's own Wan: data, files, what a MODEL knows afterwards, resume and cancel."""

import json
from pathlib import Path

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from native_training import TinyText, TinyVision, differences, native_model, native_trainee, seen, tiny_vae
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.media.video import write_video
from pack.motion.io.networks.base_licence import OF_WAN
from pack.motion.io.pose_files import write_pose_file
from pack.motion.sequence.trained_as import TrainedAs
from pack.motion.training.config import TrainingConfig
from pack.motion.training.pose_training import PoseTraining, pose_task
from pack.motion.training.task import SampleKey
from pack.nodes.models.native_wan import native_wan
from pack.nodes.models.pose_sequence import LENGTH, TRAINED
from pack.nodes.training_run.encoders import text_entry
from pack.nodes.training_run.native_trainee import native_spec
from pose_training_parts import built, images, listed, lora_file, trained
from posed_clips import HEIGHT, WIDTH, poses
from press_cancel import cancelled_after

JOINT = {"preset": "low memory"}  # of mode joint


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return tiny_vae()


@pytest.fixture(scope="module")
def build(ours, vae):
    return lambda **more: built(ours, vae, **{**JOINT, **more})


@pytest.fixture(scope="module")
def data(build):
    with torch.inference_mode():
        return build(samples_per_clip=2, clip_vision=TinyVision())["dataset"]


@pytest.fixture
def train(ours, data):
    return lambda prefix, model, **more: trained(ours, prefix, model, more.pop("dataset", data), TinyText(), **more)


def test_images_and_their_poses_become_samples_that_are_shown_and_kept(build):
    done = build(samples_per_clip=2)
    made = done["dataset"]
    with torch.inference_mode(False):
        item = made.items[0].load()
    assert made.size == "48x32 px, 8 frames" and len(made.items) == 2 and made.captions == ("a square walks",)
    assert item["latents"].shape == (16, 5, 4, 6) and set(item) == {"latents", "shown_0"}
    assert done["sheet"].shape == (1, 2 * (HEIGHT + 8), 7 * (WIDTH + 8), 3) and done["sheet"].max() > 0.5
    assert "mode joint, 5 latent frames, renderer 1" in done["summary"]
    assert not any(value.is_inference() for value in (*item.values(), made.reference))
    assert "2 samples found, 0 made" in build(samples_per_clip=2)["summary"]
    separate = build(mode="separate", num_frames=9)["dataset"]
    assert separate.items[0].load()["latents"].shape == (16, 7, 4, 6)


def test_a_folder_of_clips_with_poses_is_offered_read_and_read_again_when_it_changed(build, ours):
    folder = Path(folder_paths.get_input_directory()) / "posed"
    folder.mkdir(exist_ok=True)
    write_video(folder / "walk.mp4", images(), 16, overwrite=True)
    write_video(folder / "empty.mp4", images(), 16, overwrite=True)
    write_pose_file(folder / "walk.json", poses(20))
    write_pose_file(folder / "empty.json", poses(20, absent=range(20)))
    schema = ours["BuildPoseDataset"].define_schema()
    assert "posed" in next(item for item in schema.inputs if item.id == "folder").options
    no_images = {"images": None, "poses": None, "source_fps": 0.0}
    done = build(folder="posed", **no_images)
    assert [item.clip for item in done["dataset"].items] == ["walk.mp4"]
    assert "skipped 1:\n  empty.mp4: nobody is in any of its frames" in done["summary"]
    before = ours["BuildPoseDataset"].fingerprint_inputs(folder="posed", seed=0)
    assert before == ours["BuildPoseDataset"].fingerprint_inputs(folder="posed", seed=0)
    write_pose_file(folder / "walk.json", poses(20, absent=(0, 1, 2)))
    assert before != ours["BuildPoseDataset"].fingerprint_inputs(folder="posed", seed=0)
    both = build(dataset=done["dataset"])["dataset"]
    assert [item.clip for item in both.items] == ["walk.mp4", "images 2"]


@pytest.mark.parametrize("kind", ["image", "expert", "text"])
def test_a_run_leaves_a_lora_that_core_applies_whole_and_the_model_as_it_was(train, vae, kind):
    model = native_model(kind)
    before = seen(model)
    expert = {"expert": "high noise"} if kind == "expert" else {}
    done = train(f"poses_{kind}", model, vae=vae, clean_timestep=kind == "text", **expert)
    assert differences(before, seen(model)) == []
    name = f"poses_{kind}" + ("_high" if expert else "")
    assert Path(done["path"]) == lora_file(f"{name}_00001")
    tensors, told = read_safetensors(Path(done["path"]))
    assert not any("_img" in name for name in tensors) and len(tensors) == 3 * 2 * 10
    assert (told["license"], told["rank"], told["frames"]) == (OF_WAN, "2", "8")
    assert told["input_channels"] == ("16" if kind == "text" else "36")
    assert told.get("expert", "") == ("high_noise" if expert else "")
    assert json.loads(told["training"]).get("sigma_min", 0.0) == (0.9 if expert else 0.0)
    trained_as = TrainedAs("joint", "clean" if kind == "text" else "one", "all", "1")
    assert TrainedAs.of(told) == trained_as
    patched, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(done["path"]), 1.0, 0.0)
    assert len(patched.patches) == len(tensors) // 3 == len(done["model"].patches)
    told_by_model = done["model"].clone().get_attachment(TRAINED)
    assert TrainedAs.of(told_by_model) == trained_as and done["model"].get_attachment(LENGTH) == 8
    assert model.get_attachment(TRAINED) is None
    assert len(done["loss"]["loss"]) == 3 and done["samples"].shape == (2, HEIGHT, 4 * WIDTH, 3)
    assert done["samples"].isfinite().all() and "pose LoRA: " in done["report"]
    assert ("experimental" in done["report"]) == (kind == "text")


def test_errors_in_given_frames_have_no_gradient_and_what_is_shown_beside_has_no_pixel_of_the_target(build, data):
    trainee, layout = native_trainee(native_model("expert")), data.settings.layout
    with torch.inference_mode(False), torch.enable_grad():
        texts = {caption: text_entry(TinyText(), caption, trainee.spec) for caption in ("", *data.captions)}
        training = PoseTraining()
        task = pose_task(trainee, data, texts, TrainingConfig.of(rank=2, targets=training.targets), training)
        batch, answers, predict = task.draw([SampleKey(0, 0, 0)]), [], trainee.predict

        def kept(*given):
            answers.append(predict(*given))
            answers[-1].retain_grad()
            return answers[-1]

        trainee.predict = kept
        with task.running():
            task.loss(batch).sum().backward()
    gradient, given = answers[0].grad, layout.given_latents
    assert not gradient[:, :, :given].any() and gradient[:, :, given:].any()
    others = images(8)
    others[1:] = others[1:].flip(2)
    given = {"poses": poses(8).to_frames(), "reference_anywhere": False}
    same, other = (build(images=frames, **given)["dataset"].items[0] for frames in (images(8), others))
    shown = [item.load()["shown_0"] for item in (same, other)]
    assert torch.equal(*shown) and not torch.equal(*(item.load()["latents"] for item in (same, other)))


def test_a_run_that_was_cancelled_has_saved_and_goes_on_to_the_same_bits(train, monkeypatch):
    model = native_model("expert")
    before = seen(model)
    whole = train("whole_poses", model, save_every=1)
    with cancelled_after(monkeypatch, 2):
        train("cut_poses", model, save_every=1)
    assert read_safetensors(lora_file("cut_poses_00001"))[1]["training_stopped_early"] == "after step 2 of 3"
    assert differences(before, seen(model)) == []
    resumed = train("cut_poses", model, save_every=1, resume_from="latest")
    one, other = (read_safetensors(Path(done["path"]))[0] for done in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert whole["loss"] == resumed["loss"]


def test_another_mode_or_way_of_training_is_refused_on_resume(train, build):
    model = native_model("expert")
    train("modes", model, save_every=1)
    separate = build(mode="separate", num_frames=9)["dataset"]
    more = {"resume_from": "latest", "steps": 4}
    with pytest.raises(ConfigError, match="windows: mode was joint, is separate"):
        train("modes", model, dataset=separate, **more)
    with pytest.raises(ConfigError, match="clean_timestep was False, is True"):
        train("modes", model, clean_timestep=True, more_settings="schedule = constant", **more)


def test_the_lora_is_known_to_the_model_that_our_own_nodes_put_it_on(train, ours):
    model = native_model("expert")
    train("known", model)
    adapters = listed(ours, "known_00001")
    applied = ours["ApplyAdapters"].execute(model, adapters).args[0]
    assert TrainedAs.of(applied.get_attachment(TRAINED)).mode == "joint" and applied.get_attachment(LENGTH) == 8
    off = ours["AddToStack"].execute(adapters, weight=0.0).args[0]
    assert ours["ApplyAdapters"].execute(model, off).args[0].get_attachment(TRAINED) is None


def test_the_small_wan_of_the_pack_trains_by_its_own_preset(ours):
    model, clip, vae = ours["LoadBuiltin"].execute("motionblocks-wan-i2v").args
    data = built(ours, vae, preset="tiny", num_frames=5, caption="on sand")["dataset"]
    assert data.settings.mode == "separate"
    done = trained(ours, "small_poses", model, data, clip, steps=2, vae=vae)
    told = read_safetensors(Path(done["path"]))[1]
    assert told["license"] == "Apache-2.0" and told["sequence_mode"] == "separate"
    assert json.loads(told["training"])["shift"] == 3.0 and native_spec(native_wan(model)).text_tokens < 512
