"""Samples of reference, skeletons and target: how they are drawn from clips, encoded, kept and joined."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from causal_clips import encoders
from pack.motion.choices import JOINT, SEPARATE
from pack.motion.data.encoders import TextEntry
from pack.motion.data.pose_clips import (
    PosedClip,
    PosedClips,
    PoseSettings,
    draw_samples,
    open_posed_folder,
    pose_sheet_of,
    posed_images,
    samples_of,
)
from pack.motion.data.pose_dataset import build_pose_dataset
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.media.video import write_video
from pack.motion.io.pose_files import write_pose_file
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.spec import WanSpec
from pack.motion.pose.keypoints import Poses
from pack.motion.pose.renderer import draw_people
from posed_clips import HEIGHT, WIDTH, filmed, pictures, posed, poses

SMALL = PoseSettings(num_frames=8, width=WIDTH, height=HEIGHT)
SPACE = SPACES["wan21"]


def built(*clips, settings=SMALL, folder=None, **more):
    return build_pose_dataset(PosedClips(clips), settings, encoders(), cache_folder=folder, **more)


def grey_of(video):
    """Which frames of a clip those of a target are, told by the grey of the square."""
    return [round((float(frame.max()) - 0.5) * 200) for frame in video.movedim(1, 0)]


def test_a_sample_is_frames_in_a_row_with_their_own_skeletons_and_a_reference_from_elsewhere():
    (sample,) = samples_of(posed(), SMALL)
    reference, skeletons, target = sample.parts(SMALL)
    assert reference.shape == (1, 3, 1, HEIGHT, WIDTH) and skeletons.shape == target.shape == (1, 3, 8, HEIGHT, WIDTH)
    found = grey_of(target[0])
    assert found == list(range(found[0], found[0] + 8)) == list(sample.frames)
    assert grey_of(reference[0]) == [sample.reference] and sample.reference != found[0]
    for place, frame in enumerate(found):
        people = [torch.from_numpy(poses(40).points[frame, 0])]
        assert torch.equal(skeletons[0, :, place], draw_people(people, HEIGHT, WIDTH))
    first = samples_of(posed(), replace(SMALL, reference_anywhere=False))[0]
    assert first.reference == first.frames[0]


def test_frames_are_the_nearest_in_time_and_slow_clips_keep_their_own_rate():
    (quick,) = samples_of(posed(fps=32.0, num_frames=64), SMALL)
    assert np.diff(quick.frames).tolist() == [2] * 7 and quick.fps == 16
    (slow,) = samples_of(posed(fps=12.0), SMALL)
    assert np.diff(slow.frames).tolist() == [1] * 7
    told = built(posed(fps=12)).report
    assert "1 clips have fewer than 16 frames a second, and keep their own rate: walk (12)" in told


def test_skeletons_follow_the_picture_when_it_is_cut_and_poses_of_another_size_of_canvas_fit():
    settings = replace(SMALL, width=64, height=64)
    twice = poses(40)
    twice = Poses(twice.points * (2, 2, 1), 2 * WIDTH, 2 * HEIGHT)
    (sample,) = samples_of(posed(), settings)
    (other,) = samples_of(PosedClip(filmed(), twice), settings)
    _, skeletons, target = sample.parts(settings)
    white = torch.nonzero(target[0, 0, 3] > 0.5).float()
    drawn = torch.nonzero(skeletons[0, :, 3].amax(0) > 0).float()
    assert (white.mean(0) - drawn.mean(0)).abs().max() < 3
    moved = replace(other, frames=sample.frames)
    assert torch.equal(moved.parts(settings)[1], skeletons)


def test_changed_bodies_are_other_skeletons_before_the_same_frames():
    settings = replace(SMALL, samples_per_clip=24, change_bodies=True)
    samples = samples_of(posed(), settings)
    changed = [sample for sample in samples if sample.scale != 1.0]
    assert 6 <= len(changed) <= 18 and all(0.75 <= sample.scale <= 1.33 for sample in changed)
    one = replace(changed[0], scale=1.5, shift=(0.1, 0.0))
    plain = replace(one, scale=1.0, shift=(0.0, 0.0))
    assert torch.equal(one.parts(SMALL)[2], plain.parts(SMALL)[2])
    width = [torch.nonzero(each.parts(SMALL)[1][0, :, 0].amax((0, 1)) > 0) for each in (plain, one)]
    assert width[1].max() - width[1].min() > width[0].max() - width[0].min()
    assert not any(sample.scale != 1.0 for sample in samples_of(posed(), replace(settings, change_bodies=False)))


@pytest.mark.parametrize("mode, frames", [(JOINT, 12), (SEPARATE, 13)])
@pytest.mark.parametrize("known_start", [False, True])
def test_no_pixel_of_the_target_reaches_what_is_shown_beside_but_those_that_are_known(mode, frames, known_start):
    settings = PoseSettings(num_frames=frames, width=WIDTH, height=HEIGHT, mode=mode, known_start=known_start)
    sample = samples_of(posed(), settings)[0]
    clip = sample.source.clip
    known = {0: 0, 1: 4 if mode == JOINT else 1, 2: 8 if mode == JOINT else 5}
    made = built(posed(), settings=settings).items[0].load()
    assert set(made) == {"latents", "shown_0"} | ({"shown_1", "shown_2"} if known_start else set())
    layout = settings.layout
    assert made["latents"].shape == made["shown_0"].shape == (16, layout.latent_frames, 4, 6)
    for count in range(3 if known_start else 1):

        def spoiled(indices, count=count):
            found = pictures(indices)
            if len(indices) > 1:  # the reference first, then the frames of the target
                found[1 + known[count] :] = 0.9
            return found

        other = replace(clip, read=spoiled)
        again = built(PosedClip(other, poses(40)), settings=settings).items[0].load()
        assert torch.equal(again[f"shown_{count}"], made[f"shown_{count}"])
        assert not torch.equal(again["latents"], made["latents"])
        given = layout.given_latents
        assert torch.equal(again["latents"][:, : given + count], made["latents"][:, : given + count])
        if count:
            assert torch.equal(made[f"shown_{count}"][:, given : given + count],
                               made["latents"][:, given : given + count])  # fmt: skip


def test_what_was_encoded_is_found_again_and_counts_by_all_that_went_in(tmp_path):
    one = built(posed(), posed("run", 1), folder=tmp_path)
    again = built(posed(), posed("run", 1), folder=tmp_path)
    assert "cache: 0 samples found, 2 made" in one.report and "cache: 2 samples found, 0 made" in again.report
    assert all(torch.equal(a.load()[name], b.load()[name]) for a, b in zip(one.items, again.items) for name in a.load())
    assert one.fingerprint == again.fingerprint
    for other in (built(posed(seed=2)), built(posed(), settings=replace(SMALL, seed=1, samples_per_clip=2)),
                  built(PosedClip(filmed(), Poses(poses(40).points + (0.5, 0, 0), WIDTH, HEIGHT)))):  # fmt: skip
        assert other.fingerprint not in (one.fingerprint, built(posed()).fingerprint)


def test_a_build_that_is_stopped_goes_on_where_it_was(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(posed(), posed("run", 1), folder=tmp_path, on_step=stop)
    assert "cache: 1 samples found, 1 made" in built(posed(), posed("run", 1), folder=tmp_path).report


def test_clips_that_do_not_serve_are_listed_and_skipped():
    short, empty = posed("short", num_frames=7), posed("dark", absent=range(3, 40))
    made = built(posed(), short, empty)
    assert len(made.items) == 1
    assert "skipped 2:\n  short: only 7 of the 8 frames that are needed, at 16 fps" in made.report
    assert "dark: nobody is in half of any 8 frames of it in a row" in made.report
    with pytest.raises(ConfigError, match=r"no usable clip \(short: only 7 of the 8 frames"):
        built(short)
    late = samples_of(posed(absent=range(20)), replace(SMALL, samples_per_clip=30))
    assert all(sample.frames[0] >= 16 and sample.reference >= 20 for sample in late)


@pytest.mark.parametrize("given, said", [
    (poses(39), "its poses have 39 frames, the clip 40"),
    (Poses(poses(40).points, 48, 48), "canvas of 48x48 px, the clip is 48x32"),
    (poses(40, absent=range(40)), "nobody is in any of its frames"),
])  # fmt: skip
def test_poses_that_do_not_belong_to_the_clip_are_refused(given, said):
    with pytest.raises(ShapeError, match=said):
        PosedClip(filmed(), given)


@pytest.mark.parametrize("change, said", [
    ({"num_frames": 9}, "num_frames is 9; latent frames of mode joint are filled by 8 or 12"),
    ({"num_frames": 8, "mode": SEPARATE}, "num_frames is 8; latent frames of mode separate are filled by 5 or 9"),
    ({"width": 50}, "50x32 px; Wan 2.1 VAE needs multiples of 16"), ({"mode": "both"}, "mode is 'both'"),
    ({"samples_per_clip": 0}, "samples_per_clip is 0"), ({"known_start": True}, "the target has 2 latent frames"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **change)


def test_a_folder_is_read_with_poses_beside_and_what_lacks_them_is_named(tmp_path):
    for name in ("walk", "lonely", "torn"):
        write_video(tmp_path / f"{name}.mp4", pictures(range(20)).movedim(1, -1), 16)
    (tmp_path / "walk.txt").write_text("a square walks")
    write_pose_file(tmp_path / "walk.json", poses(20))
    (tmp_path / "torn.json").write_text("{")
    found = open_posed_folder(tmp_path, check=lambda: None)
    assert [each.clip.name for each in found.clips] == ["walk.mp4"] and found.clips[0].clip.caption == "a square walks"
    told = dict(found.skipped)
    assert "no poses beside it; save them as lonely.json" in told["lonely.mp4"]
    assert "cannot be read as poses" in told["torn.mp4"]
    assert samples_of(found.clips[0], SMALL)[0].parts(SMALL)[2].shape == (1, 3, 8, HEIGHT, WIDTH)


def test_the_sheet_shows_reference_skeletons_and_frames_of_up_to_eight_samples():
    samples, _ = draw_samples(PosedClips((posed(),)), replace(SMALL, samples_per_clip=20))
    sheet = pose_sheet_of(samples, SMALL)
    assert sheet.shape == (1, 8 * (HEIGHT + 8), 7 * (WIDTH + 8), 3)
    row = sheet[0, 4 : 4 + HEIGHT].unflatten(1, (7, WIDTH + 8))[:, :, 4 : 4 + WIDTH].permute(1, 3, 0, 2)
    reference, skeletons, target = samples[0].parts(SMALL)
    assert torch.allclose(row[0], reference[0, :, 0]) and torch.allclose(row[1], skeletons[0, :, 0])
    assert torch.allclose(row[6], target[0, :, 7])


def test_data_sets_are_joined_where_they_are_alike(tmp_path):
    one, two = built(posed()), built(posed("run", 1, caption="a square runs"))
    both = two.behind(one)
    assert [item.clip for item in both.items] == ["walk", "run"]
    assert both.captions == ("a square runs", "a square walks")
    assert one.report in both.report and two.report in both.report
    with pytest.raises(ConfigError, match="num_frames is 8 there and 12 here"):
        built(posed(), settings=replace(SMALL, num_frames=12)).behind(one)


def test_models_of_other_spaces_or_with_more_to_see_are_refused():
    made, text = built(posed()), {"": TextEntry(torch.zeros(1, 4)), "a square walks": TextEntry(torch.ones(1, 4))}
    data = made.dataset(WanSpec(WanConfig(concat_channels=20)), text)
    assert data.samples[0].shape == (16, 5, 4, 6) and list(data.shapes) == list(made.shapes)
    with pytest.raises(ConfigError, match="connect clip_vision"):
        made.check_model(WanSpec(WanConfig(concat_channels=20, image_tokens=True)))
    seen = built(posed(), see=lambda reference: reference.mean().expand(257, 1280), seen_by="toy")
    seen.check_model(WanSpec(WanConfig(concat_channels=20, image_tokens=True)))
    assert seen.items[0].load()["image_tokens"].shape == (257, 1280) and seen.encoders != made.encoders


def test_frames_in_memory_make_a_clip_of_the_same_samples():
    one = posed_images(pictures(range(40)), poses(40), fps=16.0, caption="a square walks")
    (sample,) = samples_of(one, SMALL)
    assert grey_of(sample.parts(SMALL)[2][0]) == list(sample.frames) and sample.name.startswith("images 1 from")


def test_a_vae_of_another_space_is_named():
    wrong = encoders(lambda video: torch.zeros(1, 4, 1, 4, 6))
    with pytest.raises(ShapeError, match=r"the VAE gave latents \(1, 4, 1, 4, 6\) of 17 frames"):
        build_pose_dataset(PosedClips((posed(),)), SMALL, wrong, cache_folder=None)
