"""The whole report of a clip and its source."""

import json

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.metrics.point_tracks import read_tracks
from pack.motion.metrics.transfer_report import ClipScores, mean_cosine, measure_motion_transfer
from test_point_tracks import sliding


def numbers(*clips, **more):
    report, picture = measure_motion_transfer(*clips, **more)
    assert picture.ndim == 4 and picture.shape[0] == 1 and 0 <= picture.min() <= picture.max() <= 1
    return json.loads(report.to_json()), report.text(), picture


def test_a_clip_against_itself_is_all_ones():
    clip = sliding(2, 1)
    found, text, _ = numbers(clip, clip)
    assert found["motion_fidelity"] == pytest.approx(1, abs=1e-6) == found["moving_fidelity"]
    assert found["colour_leak"] == pytest.approx(1) and found["temporal_consistency"] is None
    assert "not comparable with published tables" in text and "connect clip_vision" in text
    assert found["format_version"] == 1 and found["compared_by_share"]


def test_another_picture_that_moves_alike_is_high_and_its_mirror_image_low():
    clip, other = sliding(2, 1), sliding(2, 1, seed=5)
    found, _, _ = numbers(other, clip)
    assert found["motion_fidelity"] > 0.98 and found["moving_fidelity"] > 0.98
    mirrored, _, _ = numbers(other.flip(2), clip)
    assert mirrored["moving_fidelity"] < -0.2


def test_a_frozen_clip_is_exposed_by_its_moving_tracks():
    picture = sliding(0, 0, frames=6)
    half = picture.clone()
    half[:, :36] = sliding(2, 0, frames=6)[:, :36]  # the upper half moves
    found, text, _ = numbers(picture, half, clip=ClipScores(0.999, 0.3, "CLIP vision"))
    assert found["temporal_consistency"] == 0.999 and found["motion_fidelity"] > 0.6
    assert found["moving_fidelity"] == 0.0 and found["moving_tracks"] == 0 < found["source_moving_tracks"]
    assert "stands still is consistent too" in text


def test_beside_a_base_the_leak_begins_at_what_it_has_anyway_and_its_motion_is_told():
    source, still = sliding(2, 1), sliding(0, 0)
    found, text, picture = numbers(source, source, still)
    assert found["colour_leak_beside_base"] and found["base_moving_fidelity"] == 0.0
    assert "over what the base has anyway" in text and "without the motion" in text
    assert picture.shape[1] > numbers(source, source)[2].shape[1]  # a row more


def test_lengths_and_sizes_may_differ():
    source = sliding(2, 1, frames=9)
    made = torch.nn.functional.interpolate(sliding(4, 2, frames=5).movedim(-1, 1), (96, 128)).movedim(1, -1)
    found, text, _ = numbers(made, source)
    assert found["motion_fidelity"] > 0.95 and "5 frames and 9 of the source, compared over the same share" in text
    assert "up to the end of the shorter" in numbers(made, source, by_share=False)[1]


def test_given_tracks_are_taken_as_they_are():
    clip, points = torch.zeros(3, 40, 40, 3), range(0, 40, 8)
    right, down = (json.dumps([[{"x": x + a * n, "y": 20 + b * n} for n in range(3)] for x in points])
                   for a, b in ((3, 0), (0, 3)))  # fmt: skip
    rows = tuple(read_tracks(text, 3, 40, 40) for text in (right, down))
    found, text, _ = numbers(clip, clip, tracks=rows)
    assert found["motion_fidelity"] == 0.0 and found["tracker"] == "given tracks" and "not comparable" not in text


def test_flat_clips_have_no_number_and_say_why():
    flat = torch.full((4, 40, 40, 3), 0.5)
    found, text, _ = numbers(flat, sliding(1, 0))
    assert found["motion_fidelity"] is None and "fewer than 4 points of the clip" in text


def test_progress_ends_at_its_total_and_may_stop_it():
    seen = []
    clip = sliding(1, 0, frames=3)
    measure_motion_transfer(clip, clip, clip, on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3000, 3000) and seen == sorted(seen)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_motion_transfer(clip, clip, on_step=stop)


def test_one_frame_is_refused_by_name():
    clip = sliding(1, 0, frames=3)
    for name, clips in (("source", (clip, clip[:1])), ("clip", (clip[:1], clip)), ("base", (clip, clip, clip[:1]))):
        with pytest.raises(ShapeError, match=f"{name} is .*at least 2 frames"):
            measure_motion_transfer(*clips)


def test_cosines_are_means_over_rows():
    rows = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert mean_cosine(rows, torch.tensor([[1.0, 0.0]])) == pytest.approx((0.6 + 1) / 2)
