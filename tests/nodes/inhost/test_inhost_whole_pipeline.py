"""Photo and prompt through our nodes and the host's KSampler: the latents of diffusers' whole pipeline."""

import pytest
import torch
from comfy.latent_formats import LTXV, Wan21
from pack.nodes.host.conditions import read
from safetensors.torch import load_file

FORMATS = {"SANA-Video_2B_480p_diffusers": Wan21, "SANA-Video_2B_720p_diffusers": LTXV}


@pytest.fixture(scope="module", params=FORMATS)
def name(oracle, models_folder, request):
    """A whole diffusers folder in the host's diffusion_models."""
    source = oracle("whole_pipeline")
    (models_folder / request.param).symlink_to(source / request.param, target_is_directory=True)
    return request.param


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_one_diffusers_folder_animates_a_photo_as_its_own_pipeline_does(core, ours, oracle, name):
    truth, scaled = load_file(oracle("whole_pipeline") / f"{name}.safetensors"), FORMATS[name]().process_in
    (model,) = ours["LoadModel"].execute(name, "fp32").args
    (clip,) = ours["LoadTextEncoder"].execute(name, "video", "fp32").args
    (vae,) = ours["LoadVAE"].execute(name, "fp32").args
    prompts = ours["EncodePrompts"].execute(
        clip, "A Busy City Street at dusk, glowing lamps.", "flicker, Jump Cuts", 15, True
    ).args
    photo = truth["photo"].movedim(1, -1)
    *prompts, latent, _, _ = ours["ImageToVideo"].execute(*prompts, vae, photo, 9, 15).args
    first = scaled(read(prompts[0][0][1]).first_latent)
    assert relative(first, truth["latents"][:, :, :1]) <= 1e-4

    def sampled(positive, negative):
        (out,) = core(
            "KSampler", model=model, seed=5, steps=10, cfg=6.0, sampler_name="euler", scheduler="normal",
            positive=positive, negative=negative, denoise=1.0, latent_image=latent,
        )  # fmt: skip
        return scaled(out["samples"])

    assert relative(sampled(*prompts), truth["latents"]) <= 1e-5
    assert relative(sampled(*reversed(prompts)), truth["latents"]) > 1e-3, "the prompts must matter"
    (still,) = ours["EncodePrompts"].execute(clip, "A Busy City Street at dusk, glowing lamps.", "", 0, True).args[:1]
    assert not torch.equal(still[0][0], prompts[0][0][0]), "the motion score must reach the text"
