"""Start photos and empty latents by the rules of each VAE, and SANA image weights as a MODEL of this host."""

import json

import pytest
import tiny
import tiny_sana
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.networks.sana_layouts import to_nvlabs_names
from pack.motion.models.latent_spaces import SPACES
from pack.nodes.host.conditions import read
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def load(ours, models_folder):
    """load("wan21") -> (MODEL, text under the node)."""
    def loaded(kind, dtype="fp32"):
        done = ours["LoadModel"].execute(tiny_sana.folder_of(models_folder, kind), dtype)
        return done.args[0], done.ui.as_dict()["text"][0]

    return loaded


class SpacedVAE:
    """Stands for a VAE of the host whose space is known; its latent is told from zeros."""

    def __init__(self, kind):
        self.latent_space = SPACES[kind]

    def encode(self, pixels):
        space = self.latent_space
        return torch.ones(1, space.channels, 1, *(side // space.spatial_ratio for side in pixels.shape[1:3]))


def photo(height, width):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))


def text():
    return [[tiny.randn(1, 5, 24), {}]]


@pytest.mark.parametrize("kind, side, frames, cells", [("wan21", 48, 9, (3, 6)), ("ltx2", 64, 17, (3, 2)),
                                                       ("dcae", 64, 6, (6, 2))])  # fmt: skip
def test_start_photo_is_encoded_by_the_rules_of_its_vae_and_marked_with_its_space(ours, kind, side, frames, cells):
    positive, negative, latent, *_ = ours["ImageToVideo"].execute(
        text(), text(), SpacedVAE(kind), photo(side, side), frames, 7, 2
    ).args
    for told in (read(part) for _, part in (*positive, *negative)):
        assert told.first_latent_space == kind and told.motion_bucket_id == 7
        assert told.first_latent.shape == (1, SPACES[kind].channels, 1, cells[1], cells[1])
    assert latent["samples"].shape == (2, SPACES[kind].channels, cells[0], cells[1], cells[1])


@pytest.mark.parametrize(
    "kind, size, frames, words",
    [
        ("wan21", (480, 832), 80, "num_frames is 80; Wan 2.1 VAE needs 4k . 1; use 77 or 81"),
        ("wan21", (482, 832), 81, "start_image is 832x482 px; Wan 2.1 VAE needs multiples of 16; scale it to 832x480"),
        ("ltx2", (704, 1280), 81 + 4, "LTX-2 VAE needs 8k . 1; use 81 or 89"),
        ("ltx2", (720, 1280), 81, "LTX-2 VAE needs multiples of 32; scale it to 1280x704 or 1280x736"),
        ("dcae", (48, 64), 16, "DC-AE f32c32 needs multiples of 32"),
    ],
)  # fmt: skip
def test_photo_or_frame_count_that_the_vae_cannot_hold_is_refused_with_what_fits(ours, kind, size, frames, words):
    with pytest.raises(ValueError, match=words):
        ours["ImageToVideo"].execute(text(), text(), SpacedVAE(kind), photo(*size), frames)


@pytest.mark.parametrize("kind, size, frames, shape", [("wan21", (832, 480), 81, (16, 21, 60, 104)),
                                                       ("ltx2", (1280, 704), 81, (128, 11, 22, 40)),
                                                       ("image", (512, 512), 16, (32, 16, 16, 16))])  # fmt: skip
def test_empty_latent_has_the_shape_of_the_models_space(ours, load, kind, size, frames, shape):
    (latent,) = ours["EmptyLatent"].execute(load(kind)[0], *size, frames, 2).args
    assert latent["samples"].shape == (2, *shape) and not latent["samples"].any()


@pytest.mark.parametrize("kind, size, frames, words", [("wan21", (832, 480), 80, "use 77 or 81"),
                                                       ("wan21", (840, 480), 81, "multiples of 16"),
                                                       ("ltx2", (1280, 720), 81, "multiples of 32")])  # fmt: skip
def test_empty_latent_refuses_what_the_vae_cannot_hold(ours, load, kind, size, frames, words):
    with pytest.raises(ValueError, match=words):
        ours["EmptyLatent"].execute(load(kind)[0], *size, frames, 1)


def sampled(core, model, prompts, latent, steps=2):
    return core(
        "KSampler", model=model, seed=5, steps=steps, cfg=3.0, sampler_name="euler", scheduler="normal",
        positive=prompts[0], negative=prompts[1], denoise=1.0, latent_image=latent,
    )[0]["samples"]  # fmt: skip


def test_720p_layout_animates_a_photo_in_the_space_of_ltx2(core, ours, load):
    model, shown = load("ltx2")
    assert "row SANA-Video 720p" in shown
    assert "VAE: LTX-2 VAE (row LTX-2 VAE), sides in multiples of 32 px, 8k+1" in shown
    *prompts, latent, _, _ = ours["ImageToVideo"].execute(text(), text(), SpacedVAE("ltx2"), photo(64, 96), 9).args
    out = sampled(core, model, prompts, latent)
    assert out.shape == (1, 128, 2, 2, 3) and torch.allclose(out[:, :, :1], torch.ones(1), atol=1e-5)


def test_image_weights_become_a_video_model_whose_frames_stand_alone(core, load, ours):
    model, shown = load("image")
    assert "untrained: each frame is a picture of its own. Inflate Image Model" in shown
    assert "VAE: DC-AE f32c32 (row DC-AE)" in shown and "25 steps, cfg 5.5, shift 3" in shown
    (latent,) = ours["EmptyLatent"].execute(model, 64, 64, 3, 1).args
    three = model.model.apply_model(*given(tiny.randn(1, 32, 3, 2, 2)))
    one = model.model.apply_model(*given(tiny.randn(1, 32, 3, 2, 2)[:, :, 1:2]))
    assert torch.allclose(three[:, :, 1:2], one, atol=1e-5)
    assert sampled(core, model, (text(), text()), latent).isfinite().all()


def given(latents):
    return latents, torch.tensor([0.6]), None, tiny.randn(1, 5, 24)


@pytest.mark.parametrize("kind", ["image", "image15"])
def test_image_weights_under_nvlabs_names_and_in_fp8_are_the_same_network(ours, load, models_folder, kind):
    state, dims, config = tiny_sana.weights_of(kind)
    theirs = {name: value.contiguous() for name, value in to_nvlabs_names(dims, state).items()}
    metadata = {"config": json.dumps(config)}
    save_file(theirs, models_folder / f"nv_{kind}.safetensors", metadata)
    expected = load(kind)[0].model.diffusion_model.state_dict()
    found = ours["LoadModel"].execute(f"nv_{kind}.safetensors", "fp32").args[0].model.diffusion_model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    narrow = {name: value.to(torch.float8_e4m3fn) for name, value in state.items()}
    save_file(narrow, models_folder / f"fp8_{kind}.safetensors", metadata)
    model = ours["LoadModel"].execute(f"fp8_{kind}.safetensors").args[0]
    assert model.model.apply_model(*given(tiny.randn(1, 32, 2, 2, 2))).isfinite().all()


def test_image_model_refuses_a_start_photo_and_says_what_to_do(core, load, ours):
    *prompts, latent, _, _ = ours["ImageToVideo"].execute(text(), text(), SpacedVAE("dcae"), photo(64, 64), 3).args
    with pytest.raises(ConfigError, match="makes videos from text alone"):
        sampled(core, load("image")[0], prompts, latent)


def test_photo_encoded_for_a_picture_vae_is_refused_by_a_motion_model_of_another_space(core, ours, models_folder):
    tiny.tiny_file(models_folder / "spaces.safetensors")
    (model,) = ours["LoadModel"].execute("spaces.safetensors", "fp32").args
    first = tiny.first_latent()
    prompts = [tiny.prompt(row, first=first) for row in (1, 2)]
    for ((_, told),) in prompts:
        told["first_latent_space"] = "wan21"
    with pytest.raises(ShapeError, match="with the Wan 2.1 VAE; this model needs the Stable Video Diffusion VAE"):
        sampled(core, model, prompts, tiny.start(first=first))


@pytest.mark.parametrize("change, words", [
    ({"guidance_embeds": True}, "SANA-Sprint model"), ({"interpolation_scale": 1.0}, "SANA 2K or 4K"),
    ({"num_attention_heads": 3}, "3 heads of 16, the weights are 32 wide"), ({"norm_eps": 1e-3}, "norm_eps"),
])  # fmt: skip
def test_image_weights_of_other_kinds_are_refused_by_name(ours, models_folder, change, words):
    name = tiny_sana.folder_of(models_folder, "image", f"other_{next(iter(change))}")
    place = models_folder / name / "transformer" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(CheckpointError, match=f"{words}.*docs/models.md"):
        ours["LoadModel"].execute(name)


def test_motion_model_in_shards_loads_as_the_file_it_was(ours, models_folder):
    from safetensors.torch import load_file

    tiny.tiny_file(models_folder / "one.safetensors")
    state = load_file(models_folder / "one.safetensors")
    from safetensors import safe_open

    with safe_open(models_folder / "one.safetensors", "pt") as file:
        metadata = file.metadata()
    folder = models_folder / "in_shards"
    folder.mkdir()
    halves = (list(state)[::2], list(state)[1::2])
    where = {}
    for number, names in enumerate(halves, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, folder / file, metadata)
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    one, two = (ours["LoadModel"].execute(name, "fp32").args[0].model.diffusion_model.state_dict()
                for name in ("one.safetensors", "in_shards"))  # fmt: skip
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_changed_shard_is_noticed_before_the_model_is_taken_from_the_cache(ours, models_folder):
    name = tiny_sana.folder_of(models_folder, "wan21", "noticed")
    before = ours["LoadModel"].fingerprint_inputs(name, "fp32")
    assert ours["LoadModel"].fingerprint_inputs(name, "fp32") == before
    tiny_sana.folder_of(models_folder, "wan21", "noticed", dtype=torch.float16)
    assert ours["LoadModel"].fingerprint_inputs(name, "fp32") != before


def test_training_a_sana_video_model_is_refused_by_name(ours, load):
    with pytest.raises(ConfigError, match="SANA-Video is not"):
        ours["TrainMotionModel"].execute(model=load("wan21")[0], clip=None, vae=None, clips=None, mode="lora")
