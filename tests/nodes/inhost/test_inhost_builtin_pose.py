"""motionblocks-wan-pose from Load Built-in Motion Model: Pose Video drives it, and the shell draws the same."""

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.io.networks.builtin_names import POSE_NAME, builtin_path
from pack.motion.io.pose_files import read_pose_file
from pack.motion.models.conditions import Conditions
from pack.motion.scene_model import load_scene_model
from pack.nodes.models.native_wan import native_wan

CPU_TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def loaded(ours):
    return ours["LoadBuiltin"].execute(POSE_NAME).args


@pytest.fixture(scope="module")
def parts(core, ours):
    """The shipped puppet and the first nine skeletons of the shipped dance, 96 px."""
    picture = ours["SamplePhoto"].execute("puppet.png").args[0]
    poses, own = (ours["LoadPoses"].execute(f"shipped: {name}.json").args[0] for name in ("slow_dance", "puppet"))
    fitted = ours["RetargetPoses"].execute(poses, own, picture=picture).args[0]
    skeletons = ours["DrawPoses"].execute(poses=fitted, width=96, height=96, hands=False, face=False).args[0][:9]
    (small,) = core("ImageScale", image=picture, upscale_method="area", width=96, height=96, crop="center")
    return small, skeletons


def follow(core, ours, loaded, reference, skeletons, *, text="", steps=2, sampler="euler"):
    model, clip, vae = loaded
    (words,) = core("CLIPTextEncode", clip=clip, text=text)
    made, positive, negative, latent, sequence, plan = ours["PoseVideo"].execute(
        model, vae, reference, skeletons, words, words
    ).args
    out = core("KSampler", model=made, seed=5, steps=steps, cfg=1.0, sampler_name=sampler, scheduler="simple",
               positive=positive, negative=negative, latent_image=latent, denoise=1.0)[0]  # fmt: skip
    return ours["DecodePoseVideo"].execute(out, vae, sequence=sequence).args[0], plan


def test_it_is_plain_wan_that_says_how_it_was_trained(core, ours, loaded, parts):
    assert native_wan(loaded[0]).channels == 36
    images, plan = follow(core, ours, loaded, *parts, steps=1)
    assert images.shape == (9, 96, 96, 3) and plan.splitlines()[1].startswith("separate: 4 latent frames")
    assert "does not say" not in plan and "expect worse" not in plan


def test_the_host_samples_what_our_own_network_does(core, ours, loaded, parts):
    """Two steps of euler on the host's grid of levels, by hand."""
    reference, skeletons = parts
    images, _ = follow(core, ours, loaded, reference, skeletons)
    own = load_scene_model(builtin_path(POSE_NAME))
    sampling = loaded[0].get_model_object("model_sampling")
    sigmas = [float(sampling.sigmas[999]), float(sampling.sigmas[499]), 0.0]
    with torch.no_grad():
        video = drawn_by_hand(own, reference.movedim(-1, 1), skeletons.movedim(-1, 0)[None], sigmas)
    assert float((images - video).abs().max()) < CPU_TOLERANCE


def drawn_by_hand(own, reference, skeletons, sigmas):
    from pack.motion.sequence.layout import SequenceLayout

    layout, space = SequenceLayout(skeletons.shape[2], "separate"), own.spec.space
    encode = lambda video: own.vae.encode(video * 2 - 1)  # noqa: E731
    given = space.scaled(torch.cat((encode(reference.unsqueeze(2)), encode(skeletons)), dim=2))
    grey = space.scaled(encode(torch.full_like(skeletons, 0.5)))
    beside = layout.concat(torch.cat((given, grey), dim=2))
    x = torch.randn(1, 16, layout.target_latents, 12, 12, generator=torch.Generator().manual_seed(5))
    told = Conditions(own.encode([""]).context, concat_latents=beside)
    for now, then in zip(sigmas, sigmas[1:]):
        whole = torch.cat((given, x), dim=2)
        x = x + (then - now) * own.dit(whole, torch.tensor([1000 * now]), told)[:, :, layout.given_latents :]
    return own.decode(x)[0]


def test_without_pose_video_and_with_more_frames_than_it_draws_it_is_refused(core, ours, loaded):
    model, clip, vae = loaded
    (words,) = core("CLIPTextEncode", clip=clip, text="")
    latent = {"samples": torch.zeros(1, 16, 3, 12, 12)}
    with pytest.raises(ConfigError, match="connect Pose Video before the sampler"):
        core("KSampler", model=model, seed=5, steps=1, cfg=1.0, sampler_name="euler", scheduler="simple",
             positive=words, negative=words, latent_image=latent, denoise=1.0)  # fmt: skip


def test_frames_beyond_those_it_was_trained_on_are_told(ours, core, loaded, parts):
    reference, skeletons = parts
    (words,) = core("CLIPTextEncode", clip=loaded[1], text="")
    many = skeletons[:1].repeat(21, 1, 1, 1)
    plan = ours["PoseVideo"].execute(loaded[0], loaded[2], reference, many, words, words).args[5]
    assert "was trained on 17 frames" in plan


def test_the_shipped_poses_are_of_the_shipped_puppet(ours):
    path = builtin_path(POSE_NAME).parents[1] / "assets" / "poses"
    own, dance = (read_pose_file(path / f"{name}.json") for name in ("puppet", "slow_dance"))
    assert (own.width, own.height) == (192, 192) and own.points.shape[:2] == (1, 1) and len(dance.points) == 33
    picture = ours["SamplePhoto"].execute("puppet.png").args[0]
    assert picture.shape == (1, 192, 192, 3)
