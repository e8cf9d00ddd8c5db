"""Training inside the host: weights that work elsewhere, runs that resume exactly, inputs that stay as they are."""

import importlib
import json
import logging
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import tiny
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.data.clips import Clip, ClipCollection
from picture_vae import PictureVAE

STEPS = 4
SMALL = {"steps": STEPS, "rank": 2, "learning_rate": 1e-3, "num_frames": 4, "stride_min": 1, "stride_max": 2,
         "windows_per_clip": 2, "save_every": 2}  # fmt: skip
OUTPUTS = ("model", "lora", "loss", "samples", "report", "path")


def clip_of(name, caption="pan left", num_frames=8, size=64, seed=0):
    """A smooth random picture that slides by two pixels a frame."""
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(small, size=(size, 2 * size), mode="bicubic").clamp(0, 1)[0]

    def read(indices):
        return torch.stack([wide[:, :, 2 * n : 2 * n + size] for n in indices])

    return Clip(name, caption, num_frames, 8.0, size, size, f"{name}-{seed}", read)


def collection(*captions, **more):
    return ClipCollection(tuple(clip_of(f"clip{n}", text, seed=n, **more) for n, text in enumerate(captions)))


@pytest.fixture(scope="module")
def clips():
    return collection("pan left", "zoom in", "still")


@pytest.fixture(scope="module")
def builtin(ours):
    return ours["LoadBuiltin"].execute("motionblocks-tiny").args


@pytest.fixture
def train(ours, builtin, clips):
    """Run the node; returns its outputs by name."""

    def run(file_prefix, **more):
        model, clip, vae = builtin
        given = {"model": model, "clip": clip, "vae": vae, "clips": clips, "file_prefix": file_prefix, **SMALL, **more}
        return dict(zip(OUTPUTS, ours["TrainMotionModel"].execute(**given).args))

    return run


@pytest.fixture
def cancel_at(monkeypatch):
    """Press Cancel when a step's report arrives."""
    from pack.nodes.training_run import live_view

    def press(step):
        original = live_view.Page.step

        def watched(self, report, losses):
            if report.step == step:
                comfy.model_management.interrupt_current_processing()
            original(self, report, losses)

        monkeypatch.setattr(live_view.Page, "step", watched)

    return press


def sample(core, ours, builtin, model, text="pan left"):
    """Latents that a model makes of one photo."""
    _, clip, vae = builtin
    encode = lambda words: core("CLIPTextEncode", clip=clip, text=words)[0]  # noqa: E731
    photo = clip_of("photo", seed=9).frames([0]).movedim(1, -1)
    positive, negative, latent, *_ = ours["ImageToVideo"].execute(encode(text), encode(""), vae, photo, 4).args
    return core(
        "KSampler", model=model, seed=3, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", positive=positive,
        negative=negative, latent_image=latent, denoise=1.0,
    )[0]["samples"]  # fmt: skip


def weights_of(path):
    from pack.motion.io.files.safetensors import read_safetensors

    return read_safetensors(Path(path))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_lora_is_trained_saved_and_changes_what_the_model_makes(core, ours, builtin, train):
    before = sample(core, ours, builtin, builtin[0])
    done = train("lora_basic")
    assert Path(done["path"]) == Path(folder_paths.get_output_directory()) / "loras" / "lora_basic_00001.safetensors"
    tensors, metadata = weights_of(done["path"])
    assert same(tensors, done["lora"]) and json.loads(metadata["training"])["rank"] == 2
    assert all(name.startswith("diffusion_model.transformer_blocks.") for name in tensors)
    assert max(float(value.abs().max()) for name, value in tensors.items() if "lora_up" in name) > 0
    assert len(done["loss"]["loss"]) == STEPS and all(value > 0 for value in done["loss"]["loss"])
    assert done["samples"].shape[0] == 2 and done["samples"].isfinite().all()
    assert "loss" in done["report"] and done["path"] in done["report"]
    after = sample(core, ours, builtin, done["model"])
    assert after.isfinite().all() and not torch.equal(after, before)
    assert torch.equal(sample(core, ours, builtin, builtin[0]), before)


def test_the_saved_lora_loads_in_the_core_loader_with_the_same_result(core, ours, builtin, train, loras_folder):
    done = train("lora_core")
    (loras_folder / "trained.safetensors").write_bytes(Path(done["path"]).read_bytes())
    (loaded,) = core("LoraLoaderModelOnly", model=builtin[0], lora_name="trained.safetensors", strength_model=1.0)
    assert torch.equal(sample(core, ours, builtin, loaded), sample(core, ours, builtin, done["model"]))
    (off,) = core("LoraLoaderModelOnly", model=builtin[0], lora_name="trained.safetensors", strength_model=0.0)
    assert torch.equal(sample(core, ours, builtin, off), sample(core, ours, builtin, builtin[0]))


def test_core_nodes_take_the_lora_and_the_loss(train, builtin, core, ours):
    from test_inhost_company import extra_node

    done = train("lora_sockets")

    def call(name, **inputs):
        known = getattr(importlib.import_module("comfy_extras.nodes_train"), "NODE_CLASS_MAPPINGS", {})
        node = extra_node("nodes_train", f"{name}Node" if f"{name}Node" in known else name)  # ids drifted
        if hasattr(node, "GET_SCHEMA"):
            from comfy_api.latest import io as host_io

            made = node.execute(**inputs)
            assert isinstance(made, host_io.NodeOutput)
            return made.args
        return getattr(node(), node.FUNCTION)(**inputs)

    loaded = call("LoraModelLoader", model=builtin[0], lora=done["lora"], strength_model=1.0)[0]
    assert torch.equal(sample(core, ours, builtin, loaded), sample(core, ours, builtin, done["model"]))
    call("SaveLoRA", lora=done["lora"], prefix="loras/by_core", steps=STEPS)
    assert list((Path(folder_paths.get_output_directory()) / "loras").glob("by_core_4_steps_*.safetensors"))


def test_two_runs_of_one_seed_are_equal_and_never_write_over_each_other(train):
    one, two, other = train("lora_twice"), train("lora_twice"), train("lora_twice", seed=5)
    assert same(one["lora"], two["lora"]) and not same(one["lora"], other["lora"])
    names = [Path(done["path"]).name for done in (one, two, other)]
    assert names == [f"lora_twice_0000{n}.safetensors" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "more", [{}, {"ema_decay": 0.9, "batch_size": 2}, {"mode": "full"}], ids=["lora", "ema", "full"]
)
def test_cancel_saves_and_the_resumed_run_equals_the_undisturbed_one(train, cancel_at, monkeypatch, more):
    prefix = "_".join(("cancel", *more))
    whole = train(f"{prefix}_whole", **more)
    cancel_at(2)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(prefix, **more)
    monkeypatch.undo()
    folder = Path(folder_paths.get_output_directory())
    assert (folder / "motionblocks/training" / prefix / "run-0001/state-00000002/state.json").is_file()
    kind = "diffusion_models" if more.get("mode") == "full" else "loras"
    assert stopped(folder / kind / f"{prefix}_00001.safetensors") == f"after step 2 of {SMALL['steps']}"
    resumed = train(prefix, resume_from="latest", **more)
    assert stopped(resumed["path"]) is None
    assert resumed["loss"] == whole["loss"]
    assert same(weights_of(resumed["path"])[0], weights_of(whole["path"])[0])


def stopped(path):
    """What a file of weights says of a training that stopped early."""
    return weights_of(path)[1].get("training_stopped_early")


def test_weights_torn_in_the_middle_of_an_update_are_not_written(train, monkeypatch):
    def torn(optimizer, *_, **__):
        if optimizer.state:
            raise torch.OutOfMemoryError("in the middle of the second update")
        return step(optimizer)

    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(torch.OutOfMemoryError):
        train("torn")
    assert not list(Path(folder_paths.get_output_directory()).glob("loras/torn*"))


def test_one_state_of_the_list_can_be_resumed_and_the_run_it_belongs_to_stays(ours, train):
    whole = train("chosen", save_every=2)
    label = "chosen/run-0001/state-00000002"
    options = next(i for i in ours["TrainMotionModel"].define_schema().inputs if i.id == "resume_from").options
    assert options[:2] == ["new", "latest"] and label in options
    again = train("chosen", resume_from=label)
    assert same(again["lora"], whole["lora"]) and again["loss"] == whole["loss"]
    assert "run-0002" in again["report"]


def test_a_finished_run_is_not_trained_further_by_latest(train):
    whole = train("finished")
    again = train("finished", resume_from="latest")
    assert same(whole["lora"], again["lora"]) and whole["loss"] == again["loss"]


def test_resuming_with_other_data_or_settings_is_refused_with_the_differences_unless_allowed(train):
    train("changed")
    other = collection("pan left", "zoom out")
    with pytest.raises(ValueError, match="clip1: its caption changed"):
        train("changed", resume_from="latest", clips=other)
    with pytest.raises(ValueError, match="training.rank was 2, is 3"):
        train("changed", resume_from="latest", rank=3)
    allowed = train("changed", resume_from="latest", clips=other, steps=6, allow_changed_data=True)
    assert len(allowed["loss"]["loss"]) == 6


def test_full_training_gives_a_model_and_a_file_that_loads(core, ours, builtin, train, models_folder):
    before = sample(core, ours, builtin, builtin[0])
    done = train("whole", mode="full", learning_rate=1e-4)
    assert done["lora"] == {} and Path(done["path"]).parent.name == "diffusion_models"
    after = sample(core, ours, builtin, done["model"])
    assert not torch.equal(after, before)
    (models_folder / "trained_whole.safetensors").write_bytes(Path(done["path"]).read_bytes())
    (loaded,) = ours["LoadModel"].execute("trained_whole.safetensors", "fp32").args
    assert torch.equal(sample(core, ours, builtin, loaded), after)


def test_lora_loaded_before_is_worked_into_the_base(core, ours, builtin, train, loras_folder):
    """Training starts from what the given MODEL does: the first sample strip is that of the patched model."""
    first = train("before", learning_rate=0.05)
    model = first["model"]
    second = train("after", model=model)
    assert torch.allclose(second["samples"][0], first["samples"][-1], atol=1e-4)
    assert (first["samples"][0] - first["samples"][-1]).abs().max() > 2e-3
    both = sample(core, ours, builtin, second["model"])
    assert not torch.equal(both, sample(core, ours, builtin, model))


def test_what_is_no_weight_is_refused(builtin, train):
    patched = builtin[0].clone()
    patched.set_model_patch_replace(lambda given, extra: extra["original_block"](given), "dit", "double_block", 0)
    with pytest.raises(ValueError, match="carries block patches from another node"):
        train("patched", model=patched)
    patched = builtin[0].clone()
    patched.add_object_patch("diffusion_model.proj_out.forward", lambda x: x)
    with pytest.raises(ValueError, match="carries replaced parts"):
        train("patched", model=patched)


def snapshot(builtin, clips, photo):
    model, clip, vae = builtin
    tensors = {**model.model.state_dict(), **clip.cond_stage_model.state_dict(), "photo": photo}
    parts = {name: value.clone() for name, value in tensors.items()}
    return parts, len(model.patches), dict(model.model_options), vae.photo


def test_inputs_stay_as_they_were_and_so_does_the_process(builtin, clips, train):
    from test_inhost_company import surroundings

    photo = clip_of("photo", seed=4).frames([0]).movedim(1, -1).clone()
    comfy.model_management.unload_all_models()  # takes LoRAs of earlier tests off the shared weights
    before, around = snapshot(builtin, clips, photo), surroundings()
    train("untouched", sample_photo=photo, sample_every=2)
    after = snapshot(builtin, clips, photo)
    assert same(before[0], after[0]) and before[1:] == after[1:]
    assert surroundings() == around and torch.is_inference_mode_enabled()


def test_samples_show_the_photo_and_come_as_often_as_asked(train):
    photo = clip_of("photo", seed=4).frames([0]).movedim(1, -1)
    done = train("samples", sample_photo=photo, sample_every=2, sample_text="zoom in")
    assert done["samples"].shape == (3, 64, 192, 3)
    assert torch.allclose(done["samples"][:, :, :64], photo, atol=1e-3)
    last = train("samples", sample_photo=photo, sample_every=3)
    assert last["samples"].shape[0] == 3 and not torch.equal(last["samples"][0], last["samples"][1])


def test_another_vae_of_the_models_latent_space_serves(ours, core, models_folder, clips):
    """A model of the SVD space with a picture VAE: four channels, an eighth of the size."""
    tiny.tiny_file(models_folder / "train_svd.safetensors")
    (model,) = ours["LoadModel"].execute("train_svd.safetensors", "fp32").args
    done = ours["TrainMotionModel"].execute(
        model=model, clip=TextOf(tiny.TEXT), vae=PictureVAE(), clips=clips, file_prefix="svd", resolution=32, **SMALL
    )
    assert len(done.args[2]["loss"]) == STEPS and done.args[3].shape[1:] == (32, 96, 3)


class TextOf:
    """Stands for a text encoder of the host of a given width."""

    def __init__(self, width):
        self.width = width

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, text, return_pooled=True, return_dict=True):
        return {"cond": tiny.randn(1, 5, self.width, seed=len(text)), "pooled_output": tiny.randn(1, self.width)}


def refusals():
    yield "no clips", {"clips": [1]}, "clips is list; connect the clips output"
    yield "wrong clip", {"clip": TextOf(7)}, r"clip gives text of \(1, 5, 7\); the model needs \(1, n, 64\)"
    yield "wrong vae", {"vae": PictureVAE()}, "vae is not the built-in VAE, the model works in the builtin latent space"
    yield "unknown caption", {"clips": collection("dragon flies")}, "caption 'dragon flies' of clip 'clip0'"
    yield "no frames", {"clips": collection("still", num_frames=1)}, "at least 2"
    yield "prefix up", {"file_prefix": "../up"}, "file_prefix is '../up'; a plain name is needed"
    yield "prefix empty", {"file_prefix": " "}, "names no file"
    yield "nothing to resume", {"resume_from": "latest"}, "nothing is saved under 'refused'; choose 'new'"
    yield "state outside", {"resume_from": "../../x/state-00000001"}, "leads outside"
    yield "unknown state", {"resume_from": "a/run-0001/state-00000001"}, "which is no saved state"
    yield "steps", {"steps": 0}, "num_steps is 0"
    yield "rank", {"rank": 0}, "rank is 0"
    yield "mode", {"mode": "half"}, "mode is 'half'; it must be one of lora, full"
    yield "targets", {"targets": "attn9"}, "no layer's name holds any of attn9"
    yield "strides", {"stride_min": 5, "stride_max": 2}, "stride_min 5 is above stride_max 2"
    yield "text number", {"learning_rate": "fast"}, "learning_rate is 'fast'"
    yield "more unknown", {"more_settings": "speed = 3"}, "known: num_steps, batch_size"
    yield "more twice", {"more_settings": "rank = 3"}, "which the node has a widget for"
    yield "more wrong", {"more_settings": "schedule = wavy"}, "schedule is 'wavy'"


@pytest.mark.parametrize("more, words", [pytest.param(m, w, id=n) for n, m, w in refusals()])
def test_what_cannot_be_trained_is_refused_with_a_way_out(train, more, words):
    with pytest.raises(ValueError, match=words):
        train(**{"file_prefix": "refused", **more})
    root = Path(folder_paths.get_output_directory())
    assert not list((root / "loras").glob("refused*"))
    assert not list((root / "motionblocks/training/refused").glob("*/state*"))


def test_foreign_models_are_refused_by_name(train):
    class Foreign:
        model = object()

    with pytest.raises(ValueError, match="not a linear video model that is trained here"):
        train("foreign", model=Foreign())


def test_a_text_to_video_model_trains_without_a_photo_and_refuses_one(ours, models_folder, clips):
    tiny.tiny_file(models_folder / "train_t2v.safetensors", objective="t2v")
    (model,) = ours["LoadModel"].execute("train_t2v.safetensors", "fp32").args
    given = {"model": model, "clip": TextOf(tiny.TEXT), "vae": PictureVAE(), "clips": clips, "resolution": 32, **SMALL}
    with pytest.raises(ValueError, match="makes videos from text alone; leave sample_photo unconnected"):
        ours["TrainMotionModel"].execute(file_prefix="t2v", sample_photo=torch.rand(1, 32, 32, 3), **given)
    assert len(ours["TrainMotionModel"].execute(file_prefix="t2v", **given).args[2]["loss"]) == STEPS


def test_a_folder_that_cannot_be_written_is_told_before_the_training(train, monkeypatch):
    folder = Path(folder_paths.get_output_directory()) / "loras"
    folder.mkdir(exist_ok=True)
    from pack.motion.io.files import atomic

    original = atomic._staged

    def refuse(final, **more):
        if final.parent == folder:
            raise PermissionError(13, "Permission denied")
        return original(final, **more)

    monkeypatch.setattr(atomic, "_staged", refuse)
    monkeypatch.setattr("pack.nodes.training_run.run.TrainingRun", None)
    with pytest.raises(ValueError, match="loras: Permission denied; nothing that was there has changed"):
        train("readonly")


def test_a_loss_that_is_not_finite_stops_with_step_samples_and_finite_weights(train, monkeypatch):
    from pack.motion.training.tasks.adapter_task import AdapterTask

    original = AdapterTask.loss
    calls = []

    def poisoned(self, batch):
        calls.append(batch)
        loss = original(self, batch)
        return loss * float("nan") if len(calls) == 3 else loss

    monkeypatch.setattr(AdapterTask, "loss", poisoned)
    with pytest.raises(ValueError, match=r"step 3 of 4: loss nan.*clip\d.*state-00000002"):
        train("poisoned")
    path = Path(folder_paths.get_output_directory()) / "loras" / "poisoned_00001.safetensors"
    assert all(value.isfinite().all() for value in weights_of(path)[0].values())


def test_out_of_memory_passes_as_the_hosts_own_and_a_smaller_run_follows(train, monkeypatch, caplog):
    from pack.motion.training.tasks.adapter_task import AdapterTask

    original = AdapterTask.loss
    calls = []

    def starved(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, batch)

    monkeypatch.setattr(AdapterTask, "loss", starved)
    with caplog.at_level(logging.WARNING), pytest.raises(comfy.model_management.OOM_EXCEPTION):
        train("starved")
    assert "clip" in caplog.text and "latents of 200 channels" in caplog.text
    done = train("starved", resume_from="latest")
    monkeypatch.undo()
    assert same(done["lora"], train("starved_whole")["lora"])


def test_the_page_hears_of_steps_losses_and_samples(train, monkeypatch):
    from pack.nodes import training
    from pack.nodes.host import page, progress

    events, lines, previews = [], [], []

    class Bar:
        def update_absolute(self, value, total=None, preview=None):
            previews.append((value, total, preview))

    monkeypatch.setattr(page, "send_event", lambda name, data: events.append((name, data)))
    monkeypatch.setattr(page, "show_text", lambda text, node_id: lines.append(text))
    monkeypatch.setattr(progress, "progress_bar", lambda total: Bar())
    monkeypatch.setattr(training, "unique_id", lambda cls: "7")
    done = train("shown", sample_every=2)
    name, last = events[-1]
    assert name == "motionblocks.loss" and last["node"] == "7" and last["num_steps"] == STEPS
    assert [loss for _, loss in last["points"]] == pytest.approx(done["loss"]["loss"])
    assert json.loads(json.dumps(last)) == last
    assert any(text.startswith("step 4 of 4: loss") for text in lines) and lines[-1] == done["report"]
    shown = [preview for _, _, preview in previews if preview is not None]
    assert len(shown) == 3 and all(kind == "JPEG" and picture.size == (192, 64) for kind, picture, _ in shown)
    assert [value for value, _, preview in previews if preview is None] == [1, 2, 3, 4]


def test_long_curves_are_sent_as_few_points():
    from pack.nodes.training_run.live_view import curve_of

    curve = curve_of([float(n) for n in range(10_000)], 20_000)
    assert len(curve["points"]) <= 256 and curve["points"][-1][0] == 10_000
    assert curve["points"][0][1] == pytest.approx(sum(range(40)) / 40)
    assert curve_of([], 10) == {"num_steps": 10, "points": []}


def test_unwanted_precision_and_rare_settings_reach_the_trainer(train):
    done = train("rare", precision="bf16", gradient_checkpointing=True, targets="attn_temporal",
                 more_settings="schedule = constant\nalpha: 4  # scale 2\ngradient_accumulation = 2")  # fmt: skip
    told = json.loads(weights_of(done["path"])[1]["training"])
    assert (told["schedule"], told["alpha"], told["gradient_accumulation"]) == ("constant", 4.0, 2)
    assert told["precision"] == "bf16" and all("attn_temporal" in name for name in done["lora"])
    assert {float(value) for name, value in done["lora"].items() if name.endswith("alpha")} == {4.0}


def test_training_copy_computes_what_the_hosts_model_computes(builtin):
    from pack.motion.models.linear_video.network import LinearVideoDiT
    from pack.nodes.training_run.trainable_copy import trainable_copy

    with torch.inference_mode(False):
        copied = trainable_copy(builtin[0], load_builtin().spec, torch.device("cpu"))
    theirs = load_builtin().dit.state_dict()
    assert isinstance(copied, LinearVideoDiT) and same(dict(copied.state_dict()), dict(theirs))
    assert not any(value.is_inference() for value in copied.parameters())


def test_a_frozen_base_lies_in_the_hosts_own_tensors_and_a_base_that_is_trained_does_not(builtin):
    from pack.nodes.training_run.trainable_copy import trainable_copy

    theirs = {value.data_ptr() for value in builtin[0].model.diffusion_model.state_dict().values()}
    for frozen in (True, False):
        with torch.inference_mode(False):
            copied = trainable_copy(builtin[0], load_builtin().spec, torch.device("cpu"), frozen=frozen)
        shared = [value.data_ptr() in theirs for value in copied.parameters()]
        assert all(shared) if frozen else not any(shared)


def test_clips_that_keep_their_times_train_as_those_brought_to_the_models_own_rate(ours, train):
    shipped = {fps: ours["LoadClips"].execute("shipped: jelly", fps).args[0] for fps in (0.0, 24.0)}
    assert shipped[0.0].fps == 0
    done = {fps: train(f"rate_{fps:g}", clips=clips, steps=2) for fps, clips in shipped.items()}
    assert same(done[0.0]["lora"], done[24.0]["lora"]) and done[0.0]["loss"] == done[24.0]["loss"]
    assert "clips resampled to 24 fps: the model's own" in done[0.0]["report"]
    assert "the model's own" not in done[24.0]["report"]


def test_zeros_and_an_empty_text_mean_the_models_own_and_the_report_says_which(train):
    done = train("own", num_frames=0, stride_min=0, stride_max=0, targets="", steps=1)
    for line in ("num_frames 16: the model's own", "stride_min 3: the model's own", "stride_max 10: the model's own",
                 "targets attn1, attn_temporal, attn2, ff: the model's own"):  # fmt: skip
        assert line in done["report"]
