"""VAEs of public models on the host's VAE socket: DC-AE, Wan 2.1 and LTX-2 against diffusers, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def load(ours, vae_folder):
    """Put a folder or file into models/vae and load it by its name with the node: load(source) -> VAE."""
    placed = []

    def call(source, name="", **options):
        target = vae_folder / (name or source.name)
        if source != target:
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        placed.append(target)
        return ours["LoadVAE"].execute(target.name, **options).args[0]

    yield call
    for target in placed:
        (shutil.rmtree if target.is_dir() else lambda path: path.unlink(missing_ok=True))(target)


@pytest.fixture
def dcae(load, oracle):
    return load(oracle("dcae") / "conv", weight_dtype="fp32")


@pytest.fixture
def truth(oracle):
    return load_file(oracle("dcae") / "conv.safetensors")


def image(pixels):
    """(t, c, h, w) -> IMAGE (t, h, w, c)."""
    return pixels.movedim(1, -1).contiguous()


def shown(decoded):
    """Pixels of diffusers (t, c, h, w) in [-1, 1] as IMAGE."""
    return ((decoded + 1) / 2).clamp(0, 1).movedim(1, -1)


def apart(found, need):
    return float((found - need).abs().max() / need.abs().max())


@pytest.mark.parametrize("kind", ["conv", "shuffle"])
def test_dcae_encodes_and_decodes_as_diffusers_does(load, oracle, core, kind):
    truth = load_file(oracle("dcae") / f"{kind}.safetensors")
    vae = load(oracle("dcae") / kind, weight_dtype="fp32")
    for row in range(2):
        latent = core("VAEEncode", vae=vae, pixels=image(truth["pixels"][row]))[0]["samples"]
        assert latent.shape == (1, 32, 3, 2, 3)
        assert apart(latent[0].movedim(1, 0), truth["latents"][row]) <= 1e-5
    both = truth["latents"].movedim(2, 1)  # two videos of three frames at once
    frames = core("VAEDecode", vae=vae, samples={"samples": both})[0]
    assert frames.shape == (6, 64, 96, 3)
    assert apart(frames, shown(truth["decoded"].flatten(0, 1))) <= 1e-5
