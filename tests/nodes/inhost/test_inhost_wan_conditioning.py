"""Our nodes around the host's own Wan: a start image as core writes it, latents of its space, motion measured."""


import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from native_training import tiny_vae
from pack.nodes.host.conditions import read
from test_inhost_company import extra_node


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return tiny_vae()


def prompts(width=tiny.TEXT):
    return [[torch.randn(1, 6, width), {}]], [[torch.zeros(1, 6, width), {"kept": 1}]]


def core_start(vae, photo, frames):
    """The prompts of core's own node."""
    node = extra_node("nodes_wan", "WanImageToVideo")
    given = {"width": photo.shape[2], "height": photo.shape[1], "length": frames, "batch_size": 1}
    positive, negative = prompts()
    made = node.execute if hasattr(node, "GET_SCHEMA") else getattr(node(), node.FUNCTION)
    out = made(positive=positive, negative=negative, vae=vae, start_image=photo, **given)
    return out.args if hasattr(out, "args") else out


def test_the_start_image_is_written_as_core_writes_it_and_as_ours(ours, vae):
    photo = torch.rand(1, 32, 48, 3)
    expected = core_start(vae, photo, 9)[0][0][1]
    positive, negative, latent, *_ = ours["ImageToVideo"].execute(*prompts(), vae, photo, 9).args
    for (_, part), in (positive, negative):
        assert torch.equal(part["concat_latent_image"], expected["concat_latent_image"])
        assert torch.equal(part["concat_mask"], expected["concat_mask"]) and "clip_vision_output" not in part
        assert torch.equal(read(part).first_latent, vae.encode(photo)) and read(part).first_latent_space == "wan21"
    assert negative[0][1]["kept"] == 1 and latent["samples"].shape == (1, 16, 3, 4, 6)
    seen = object()
    positive, *_ = ours["ImageToVideo"].execute(*prompts(), vae, photo, 9, clip_vision_output=seen).args
    assert positive[0][1]["clip_vision_output"] is seen


def test_a_prompt_of_sana_video_gets_nothing_of_it(ours, vae):
    positive, *_ = ours["ImageToVideo"].execute(*prompts(2304), vae, torch.rand(1, 32, 48, 3), 5).args
    assert "concat_latent_image" not in positive[0][1] and read(positive[0][1]).first_latent is not None


@pytest.mark.parametrize("kind", ["text", "expert"])
def test_wan_samples_from_our_conditioning_as_from_cores(core, ours, vae, kind):
    """The same numbers, and a latent of another size than the photo is handled as core does."""
    photo, model = torch.rand(1, 32, 48, 3), tiny.native(kind)
    torch.manual_seed(0)
    text = prompts()
    ours_made = ours["ImageToVideo"].execute(*text, vae, photo, 5).args[:2]
    start = core_start(vae, photo, 5)[0][0][1]
    cores_made = [[[row, {**part, **start}] for row, part in prompt] for prompt in text]
    for shape in ((1, 16, 2, 4, 6), (1, 16, 2, 6, 4)):
        drawn = [core("KSampler", model=model, seed=3, steps=2, cfg=3.0, sampler_name="euler", scheduler="simple",
                      positive=positive, negative=negative, latent_image={"samples": torch.zeros(shape)},
                      denoise=1.0)[0]["samples"] for positive, negative in (ours_made, cores_made)]  # fmt: skip
        assert torch.equal(*drawn) and drawn[0].shape == shape
    comfy.model_management.unload_all_models()


def test_empty_latents_are_those_of_wan_and_other_models_of_the_host_are_refused(ours):
    (latent,) = ours["EmptyLatent"].execute(tiny.native("expert"), 64, 32, 9, 2).args
    assert latent["samples"].shape == (2, 16, 3, 4, 8) and not latent["samples"].any()
    with pytest.raises(ValueError, match="num_frames is 16; Wan 2.1 VAE needs 4k . 1; use 13 or 17"):
        ours["EmptyLatent"].execute(tiny.native(), 64, 32, 16)
    with pytest.raises(ValueError, match="the video is 72x40 px; Wan 2.1 VAE needs multiples of 16"):
        ours["EmptyLatent"].execute(tiny.native(), 72, 40, 9)


def test_motion_is_measured_with_wan_as_without_a_model(ours):
    frames = torch.rand(3, 32, 32, 3)
    alone, beside = (ours["MeasureDynamics"].execute(frames, 32, model, "off").args for model in (None, tiny.native()))
    assert alone == beside
