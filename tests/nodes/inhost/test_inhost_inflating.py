"""Inflate Image Model inside the host: the saved file, the model that comes out, what is refused, and its training."""

import json
import shutil
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import safetensors.torch
import torch
from pack.motion.data.clips import Clip, ClipCollection
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.networks.linear_video import read_linear_video
from pack.motion.io.networks.sana_layouts import sana_shapes, to_nvlabs_names
from pack.motion.models.sana_video.dims import SanaDims

DIMS = SanaDims("sana", 32, (1, 1, 1), 2, 2, 8, 4, 6, 40, False)
VIDEO = SanaDims("sana_video", 16, (1, 2, 2), 2, 2, 16, 2, 6, 96, True)
CONFIG = {
    "_class_name": "SanaTransformer2DModel", "in_channels": 32, "num_attention_heads": 2, "attention_head_dim": 8,
    "num_layers": 2, "num_cross_attention_heads": 4, "caption_channels": 6, "patch_size": 1,
}  # fmt: skip
VIDEO_CONFIG = {"num_attention_heads": 2, "attention_head_dim": 16, "num_cross_attention_heads": 2}
NAME = "Sana_tiny_diffusers"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def random_state(dims=DIMS):
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=draw) for name, shape in sana_shapes(dims).items()}
    return {n: 1 + 0.1 * t if "norm" in n else t / max(1, t[0].numel()) ** 0.5 for n, t in state.items()}


@pytest.fixture(scope="module", autouse=True)
def folder(models_folder):
    """A diffusers folder with tiny random SANA weights among the host's models."""
    inner = models_folder / NAME / "transformer"
    inner.mkdir(parents=True)
    with torch.inference_mode(False):
        safetensors.torch.save_file(random_state(), inner / WEIGHTS)
    (inner / "config.json").write_text(json.dumps(CONFIG))
    (inner.parent / "model_index.json").write_text("{}")
    yield inner.parent
    shutil.rmtree(inner.parent)


@pytest.fixture
def inflate(ours):
    """Run the node; returns (MODEL, path, text under the node)."""

    def run(source_name=NAME, **more):
        done = ours["InflateModel"].execute(source_name, **more)
        return (*done.args, done.ui.as_dict()["text"][0])

    return run


def saved():
    return sorted(Path(folder_paths.get_output_directory()).rglob("*inflated*"))


def predict(model, latents, bucket=7):
    """The network's own answer at one noise level, computed as the host computes it."""
    comfy.model_management.load_models_gpu([model])
    text, mask = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(2)), torch.ones(1, 5)
    given = {"attention_mask": mask, "motion_bucket_id": torch.tensor([bucket])}
    return model.model.diffusion_model(latents, torch.tensor([500.0]), text, transformer_options={}, **given)


def latents(frames=3):
    return torch.randn(1, 32, frames, 4, 5, generator=torch.Generator().manual_seed(3))


def test_model_comes_out_is_saved_with_its_licence_and_says_what_goes_with_it(inflate):
    model, path, text = inflate(objective="i2v_residual")
    output = Path(folder_paths.get_output_directory()) / "diffusion_models"
    assert Path(path).parent == output and Path(path).name.startswith("sana_inflated_0")
    file = read_linear_video(path)
    assert file.spec.objective == "i2v_residual" and "NSCL" in file.metadata["license"]
    assert file.metadata["source"] == f"SANA ({NAME})" and "untrained" in file.metadata["inflation"]
    for words in ("DC-AE", "Gemma-2", "untrained", path, "i2v_residual", "float32"):
        assert words in text
    assert model.model.spec == file.spec
    assert all(torch.equal(model.model.diffusion_model.state_dict()[n].cpu(), t) for n, t in file.state_dict.items())


def test_saved_file_loads_as_the_same_model(inflate, ours, models_folder):
    model, path, _ = inflate()
    shutil.copy(path, models_folder / "inflated.safetensors")  # the host's start-up lists output/diffusion_models too
    (loaded,) = ours["LoadModel"].execute("inflated.safetensors", "fp32").args
    assert "NSCL" in loaded.model.origin["license"]
    assert torch.equal(predict(loaded, latents()), predict(model, latents()))


def test_zero_init_keeps_frames_apart_and_copy_init_mixes_them(inflate):
    for init, mixes in (("zero", False), ("copy", True)):
        model, _, _ = inflate(init=init)
        one, other = latents(), latents()
        other[:, :, 2] += 1
        assert torch.equal(predict(model, one)[:, :, 0], predict(model, other)[:, :, 0]) != mixes
        assert torch.equal(predict(model, one, 0), predict(model, one, 19))  # the bucket says nothing yet


def test_no_file_is_replaced_and_numbers_go_on(inflate):
    paths = [inflate(filename_prefix="diffusion_models/more/inflated_a")[1] for _ in range(2)]
    assert [Path(path).name for path in paths] == ["inflated_a_00001.safetensors", "inflated_a_00002.safetensors"]
    assert Path(paths[0]).parent.name == "more"


@pytest.mark.parametrize(("choice", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_weights_are_saved_in_the_type_asked_for(inflate, choice, dtype):
    _, path, _ = inflate(weight_dtype=choice)
    assert {tensor.dtype for tensor in read_linear_video(path).state_dict.values()} == {dtype}


def test_shards_and_nvlabs_names_give_the_same_weights(inflate, models_folder):
    _, path, _ = inflate()
    truth, state = read_linear_video(path).state_dict, random_state()
    sharded = models_folder / "Sana_sharded"
    sharded.mkdir()
    with torch.inference_mode(False):
        names = sorted(state)
        where = {name: f"m-{1 + (n > 40):05d}-of-00002.safetensors" for n, name in enumerate(names)}
        for shard in set(where.values()):
            safetensors.torch.save_file({n: state[n] for n in names if where[n] == shard}, sharded / shard)
        (sharded / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        (sharded / "config.json").write_text(json.dumps(CONFIG))
        metadata = {"config": json.dumps(CONFIG)}
        safetensors.torch.save_file(to_nvlabs_names(DIMS, state), models_folder / "nvlabs.safetensors", metadata)
    for name in ("Sana_sharded", "nvlabs.safetensors"):
        same = read_linear_video(inflate(name)[1]).state_dict
        assert all(torch.equal(same[key], truth[key]) for key in truth)


def write_bad(models_folder):
    """Sources that must be refused: name -> words of the message."""
    with torch.inference_mode(False):
        video = random_state(VIDEO)
        safetensors.torch.save_file(video, models_folder / "video.safetensors", {"config": json.dumps(VIDEO_CONFIG)})
        sprint = random_state() | {"time_embed.timestep_embedder.linear_1.weight": torch.ones(2)}
        safetensors.torch.save_file(sprint, models_folder / "sprint.safetensors", {"config": json.dumps(CONFIG)})
    (models_folder / "page.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
    (models_folder / "pointer.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    half = models_folder / "Sana_half"
    half.mkdir()
    (half / "config.json").write_text(json.dumps(CONFIG))
    index = {"weight_map": {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}}
    (half / "m.safetensors.index.json").write_text(json.dumps(index))
    return {
        "video.safetensors": "video model already", "sprint.safetensors": "SANA-Sprint", "page.safetensors": "HTML",
        "pointer.safetensors": "git-lfs", "Sana_half": "2 of 2 files that it names are missing",
    }  # fmt: skip


def test_what_cannot_be_inflated_is_refused_by_name_with_the_row_and_nothing_is_written(inflate, models_folder):
    before = saved()
    for name, words in write_bad(models_folder).items():
        with pytest.raises(ValueError, match=f"(?i){words}") as refused:
            inflate(name)
        assert "docs/models.md" in str(refused.value), refused.value
    assert saved() == before


@pytest.mark.parametrize(("more", "words"), [
    ({"source_name": "../up"}, r"'../up' is not in models/diffusion_models.*docs/models.md"),
    ({"init": "random"}, "init is 'random'; it must be one of: zero, copy"),
    ({"objective": "v2v"}, "objective is 'v2v'"),
    ({"weight_dtype": "fp8_e4m3fn"}, "weight_dtype is 'fp8_e4m3fn'"),
    ({"filename_prefix": "../inflated"}, "filename_prefix is '..'"),
    ({"filename_prefix": "/tmp/inflated"}, "filename_prefix|names no file"),
    ({"filename_prefix": "loras/"}, "names no file"),
    ({"filename_prefix": "a" * 300}, "300 bytes long"),
    ({"filename_prefix": "C:\\inflated"}, "without / "),
], ids=lambda value: "" if isinstance(value, str) else "-".join(value))  # fmt: skip
def test_wrong_values_are_refused_before_anything_is_read(inflate, more, words):
    before = saved()
    with pytest.raises(ValueError, match=words):
        inflate(**more)
    assert saved() == before


def test_cancel_leaves_no_file_and_the_next_run_is_whole(inflate, monkeypatch):
    before, told = saved(), []

    def press(self, value, total=None, preview=None):
        told.append(value)
        if value > 60:  # in the middle of writing
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", press)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        inflate()
    assert saved() == before and told[0] < 50 and told == sorted(told)
    assert not list(Path(folder_paths.get_output_directory()).rglob(".motionblocks-*"))
    monkeypatch.undo()
    assert Path(inflate()[1]).is_file()


def test_a_changed_source_is_inflated_again_and_an_unchanged_one_is_not(ours, folder):
    ask = lambda **more: ours["InflateModel"].fingerprint_inputs(NAME, init="zero", **more)  # noqa: E731
    before = ask()
    assert ask() == before and ask(objective="t2v") != before
    weights = folder / "transformer" / WEIGHTS
    weights.touch()
    assert ask() != before
    assert "gone" in ours["InflateModel"].fingerprint_inputs("gone", init="zero")


class PictureVAE:
    """Stands for DC-AE: 32 channels, a thirty-second of the size."""

    latent_channels, latent_dim = 32, 2

    def spacial_compression_encode(self):
        return 32

    def encode(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 32).repeat(1, 11, 1, 1)[:, :32] * 4

    def decode(self, latents):
        frames = latents.movedim(2, 1).flatten(0, 1) if latents.ndim == 5 else latents
        return torch.nn.functional.interpolate(frames[:, :3] / 4, scale_factor=32).movedim(1, -1)


class Text:
    """Stands for a text encoder of the model's width."""

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, text, return_pooled=True, return_dict=True):
        return {"cond": torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(len(text)))}


def clips():
    wide = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(5))
    read = lambda indices: torch.stack([wide[:, :, 2 * n : 2 * n + 64] for n in indices])  # noqa: E731
    return ClipCollection((Clip("slide", "a slide", 8, 8.0, 64, 64, "slide-5", read),))


@pytest.mark.parametrize(("mode", "objective"), [("full", "i2v_residual"), ("lora", "t2v")])
def test_the_trainer_takes_the_model_and_moves_the_new_branch(inflate, ours, mode, objective):
    model, _, _ = inflate(objective=objective)
    before = {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()}
    trained, _, loss, _, _, path = ours["TrainMotionModel"].execute(
        model=model, clip=Text(), vae=PictureVAE(), clips=clips(), file_prefix=f"inflated_{mode}", mode=mode, steps=3,
        learning_rate=1e-2, num_frames=4, stride_min=1, stride_max=1, windows_per_clip=1, resolution=64, rank=2,
        caption_dropout=0.0,
    ).args  # fmt: skip
    assert len(loss["loss"]) == 3 and Path(path).is_file()
    assert not torch.equal(predict(trained, latents()), predict(model, latents()))
    assert all(torch.equal(value, before[n]) for n, value in model.model.diffusion_model.state_dict().items())
    _, metadata = read_safetensors(path)
    assert "NSCL" in metadata["license"] and NAME in metadata["source"] and "inflation" not in metadata
    if mode == "full":
        out = trained.model.diffusion_model.transformer_blocks[0].attn_temporal.to_out[0]
        assert out.weight.abs().max() > 0
