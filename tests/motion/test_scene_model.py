"""A model that draws from words, without a host: words to conditions, sizes it draws, the same seed the same video."""

from dataclasses import replace

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.networks.builtin_wan import save_builtin_wan
from pack.motion.io.vaes.small_vae import save_small_vae
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.scene_model import fit_picture, fitted_part, load_scene_model

SEPARATE = {"sequence_mode": "separate", "pose_renderer": "1"}
GROUPS = {"colour": ("red", "blue"), "shape": ("ball",), "motion": ("left", "right")}
SPEC = WanSpec(
    config=WanConfig(num_layers=1, num_attention_heads=1, hidden_width=16, caption_channels=64),
    sampling=SamplingDefaults(shift=3.0, num_steps=2, guidance_scale=2.0, num_frames=5, integer_timesteps=False),
)  # fmt: skip


def saved(folder, spec, metadata=None):
    torch.manual_seed(0)
    save_builtin_wan(folder / "wan.safetensors", spec, WanDiT(spec.config).state_dict(), GROUPS, metadata)
    save_small_vae(folder / "vae.safetensors", SmallVAE(SmallVAEConfig(4, 0, 4, 0)))
    return load_scene_model(folder / "wan.safetensors", vae=folder / "vae.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("scene"), SPEC)


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("image"), replace(SPEC, config=replace(SPEC.config, concat_channels=20)))


def test_a_prompt_becomes_eight_vectors_and_the_empty_one_eight_equal_ones(model):
    context = model.encode(["red ball, moves left", ""]).context
    assert context.shape == (2, 8, 64)
    assert torch.equal(context[1], context[1, :1].expand(8, -1)) and torch.equal(context[0, 3:], context[1, :5])
    assert float((context[0, 0] @ context[0, 1]).abs()) == 0


def test_videos_hang_on_prompt_and_seed_and_have_the_size_asked_for(model):
    video = model.draw_videos(["red ball", "red ball"], height=64, width=96, seed=3)
    assert video.shape == (2, 5, 64, 96, 3) and 0 <= float(video.min()) and float(video.max()) <= 1
    assert not torch.equal(video[0], video[1])
    assert torch.allclose(model.draw_videos(["red ball"], height=64, width=96, seed=4)[0], video[1], atol=1e-5)
    assert not torch.equal(model.draw_videos(["blue ball"], height=64, width=96, seed=3)[0], video[0])


def test_steps_frames_and_guidance_may_be_chosen(model):
    seen = []
    video = model.draw_videos([""], num_frames=9, num_steps=3, guidance_scale=1.0, on_step=lambda *told: seen.append(1))
    assert video.shape[1] == 9 and len(seen) == 3


@pytest.mark.parametrize(
    "asked, says",
    [({"num_frames": 16}, "use 13 or 17"), ({"height": 72}, "64x64 or 64x80"), ({"width": 208}, "64 to 192 px"),
     ({"height": 48}, "64 to 192 px"), ({"num_frames": 37}, "up to 33 frames")],
)  # fmt: skip
def test_what_it_does_not_draw_is_refused(model, asked, says):
    with pytest.raises((ConfigError, ShapeError), match=says):
        model.draw_videos(["red ball"], **asked)


def test_an_unknown_word_is_refused_before_anything_is_drawn(model):
    with pytest.raises(ConfigError, match="unknown word 'cat'"):
        model.draw_videos(["red cat"])


def test_a_model_with_36_channels_is_shown_its_picture_as_the_start_of_a_grey_video(image_model):
    picture = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    beside = image_model.encode_start(picture, 5)
    grey = torch.cat((picture.unsqueeze(2), torch.full((1, 3, 4, 64, 80), 0.5)), 2)
    assert beside.shape == (1, 20, 2, 8, 10) and torch.equal(beside[:, :4, 0], torch.ones(1, 4, 8, 10))
    assert not beside[:, :4, 1].any()
    assert torch.allclose(beside[:, 4:], SPEC.space.scaled(image_model.vae.encode(grey * 2 - 1)))
    starts = (picture, 1 - picture)
    videos = [image_model.draw_videos(["red ball"], start=start, height=64, width=80) for start in starts]
    assert videos[0].shape == (1, 5, 64, 80, 3) and not torch.equal(*videos)
    both = image_model.draw_videos(["red ball", ""], start=picture, height=64, width=80)
    assert torch.allclose(both[0], videos[0][0], atol=1e-5) and image_model.starts_from_image


def test_a_picture_that_is_missing_not_read_or_of_another_size_is_refused(model, image_model):
    picture = torch.rand(1, 3, 64, 64)
    with pytest.raises(ConfigError, match="begins with a picture, and none is given"):
        image_model.draw_videos(["red ball"])
    with pytest.raises(ConfigError, match="draws from words alone"):
        model.draw_videos(["red ball"], start=picture)
    with pytest.raises(ShapeError, match=r"start is \(1, 3, 64, 64\)"):
        image_model.draw_videos(["red ball"], start=picture, width=80)


@pytest.mark.parametrize(
    "sides, size, fitted",
    [((640, 640), None, (64, 64)), ((480, 640), None, (64, 80)), ((1000, 100), None, (192, 64)),
     ((30, 30), None, (64, 64)), ((300, 700), (96, 64), (64, 96)), ((7, 1), (64, 64), (64, 64))],
)  # fmt: skip
def test_any_picture_is_brought_to_a_size_that_is_drawn(sides, size, fitted):
    assert fit_picture(torch.rand(3, *sides), size).shape == (1, 3, *fitted)


def test_the_middle_of_a_picture_is_kept_and_nothing_is_stretched():
    ramp = torch.linspace(0, 1, 300).expand(3, 100, 300)
    small = fit_picture(ramp, (64, 64))
    assert abs(float(small[..., 31:33].mean()) - 0.5) < 0.01
    assert abs(float(small[..., -1].mean() - small[..., 0].mean()) - 1 / 3) < 0.02


@pytest.fixture(scope="module")
def pose_model(tmp_path_factory):
    spec = replace(SPEC, config=replace(SPEC.config, concat_channels=20))
    return saved(tmp_path_factory.mktemp("pose"), spec, SEPARATE)


def puppet(count, batch=1, seed=0):
    made = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 64, 80, generator=made), torch.rand(batch, 3, count, 64, 80, generator=made)


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_a_picture_follows_as_many_poses_as_there_are(pose_model, count):
    reference, skeletons = puppet(count, batch=2)
    video = pose_model.draw_poses(reference, skeletons, seed=3)
    assert video.shape == (2, count, 64, 80, 3) and 0 <= float(video.min()) and float(video.max()) <= 1
    alone = pose_model.draw_poses(reference[1:], skeletons[1:], seed=4)
    torch.testing.assert_close(alone[0], video[1], rtol=0, atol=1e-5)


def test_a_pose_video_hangs_on_picture_poses_and_seed(pose_model):
    reference, skeletons = puppet(5)
    video = pose_model.draw_poses(reference, skeletons)
    assert torch.equal(video, pose_model.draw_poses(reference, skeletons))
    for other in ((1 - reference, skeletons, 0), (reference, skeletons.flip(2), 0), (reference, skeletons, 1)):
        assert not torch.equal(video, pose_model.draw_poses(*other[:2], seed=other[2]))


def test_models_that_know_no_poses_and_sizes_that_are_not_drawn_are_refused(model, image_model, pose_model):
    reference, skeletons = puppet(5)
    for other in (model, image_model):
        with pytest.raises(ConfigError, match="not trained to follow poses; load motionblocks-wan-pose"):
            other.draw_poses(reference, skeletons)
    with pytest.raises(ShapeError, match="37 frames of 80x64 px; this model draws up to 33"):
        pose_model.draw_poses(*puppet(34))
    with pytest.raises(ShapeError, match="skeletons: .* the size of the reference"):
        pose_model.draw_poses(reference, skeletons[..., :64])


def test_the_middle_of_a_picture_with_another_shape_is_what_is_fitted():
    assert fitted_part((240, 300), (64, 64)) == (0, 30, 240, 240)
    assert fitted_part((300, 240), (64, 96)) == (70, 0, 160, 240)
    assert fit_picture(torch.rand(3, 192, 192), None, short=96).shape == (1, 3, 96, 96)
    assert fit_picture(torch.rand(3, 480, 832), None, short=96).shape == (1, 3, 96, 160)
