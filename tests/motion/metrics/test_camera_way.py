"""The way of the picture as a whole: one figure for every shape, texture and number of frames."""

import math

import numpy as np
import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.layers.warp import warp
from pack.motion.metrics.camera_way import camera_way, way_of
from pack.motion.metrics.dynamics import dynamics_degree, measure_dynamics
from pack.motion.metrics.optical_flow import CameraMotion, has_cv2

pytestmark = pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
MOVES = {"pan": (0.12, 0.0, 1.0, 0.0), "up": (0.0, -0.1, 1.0, 0.0), "zoom in": (0, 0, 1.5, 0),
         "zoom out": (0, 0, 0.7, 0), "rotate": (0, 0, 1.0, 20.0)}  # shares of the long side, zoom, degrees


def picture(height, width, *, textured=1.0):
    """A random picture (3, h, w) whose texture ends at this share of its width."""
    noise = torch.rand(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]
    flat = torch.arange(width) >= textured * width
    return torch.where(flat, large.mean((1, 2), keepdim=True), large)


def clip(photo, move, num_frames, *, back=False):
    """Frames (t, h, w, 3) of the photo under an even move; back: there and back again."""
    dx, dy, zoom, degrees = move
    h, w = photo.shape[1:]
    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    shares = torch.linspace(0, 2 if back else 1, num_frames)
    frames = []
    for share in (1 - (shares - 1).abs() if back else shares).tolist():
        factor, turn = zoom**-share, math.radians(-degrees * share)
        sx, sy = x - dx * share * max(h, w), y - dy * share * max(h, w)
        cos, sin = factor * math.cos(turn), factor * math.sin(turn)
        flow = torch.stack((cos * sx - sin * sy - x, sin * sx + cos * sy - y))
        frames.append(warp(photo.unsqueeze(0), flow.unsqueeze(0), mode="bicubic")[0].clamp(0, 1).movedim(0, -1))
    return torch.stack(frames)


def expected(move):
    """Way of an even move: its logarithm along the way for zooms, the arc for turns."""
    dx, dy, zoom, degrees = move
    return 100 * math.hypot(dx, dy, math.log(zoom) / 4, math.radians(degrees) / 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("height, width, num_frames", [(240, 136, 16)] + [
    pytest.param(*size, marks=pytest.mark.slow)
    for size in [(144, 216, 16), (144, 216, 64), (160, 160, 16), (400, 600, 16)]
])  # fmt: skip
def test_the_way_is_that_of_the_move_at_any_shape_and_length(name, height, width, num_frames):
    found = camera_way(clip(picture(height, width), MOVES[name], num_frames))
    assert found == pytest.approx(expected(MOVES[name]), rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pan", "zoom in", "rotate"])
def test_a_picture_with_texture_at_one_side_only_measures_the_same(name):
    found = camera_way(clip(picture(144, 216, textured=0.5), MOVES[name], 16))
    assert found == pytest.approx(expected(MOVES[name]), rel=0.1)


@pytest.mark.slow
def test_there_and_back_counts_twice_and_a_still_clip_nothing():
    photo = picture(144, 216)
    assert camera_way(clip(photo, MOVES["zoom in"], 33, back=True)) == pytest.approx(
        2 * expected(MOVES["zoom in"]), rel=0.12
    )
    assert camera_way(photo.movedim(0, -1).expand(40, -1, -1, -1)) < 0.05


@pytest.mark.slow
def test_noise_on_a_still_clip_does_not_add_up():
    photo = picture(144, 216).movedim(0, -1)
    noise = torch.randn(48, *photo.shape, generator=torch.Generator().manual_seed(2))
    assert camera_way((photo + 0.03 * noise).clamp(0, 1)) < 0.5


def test_one_motion_is_measured_at_a_quarter_of_the_long_side():
    assert way_of(CameraMotion(3.0, 4.0, 1.0, 0.0), 50) == pytest.approx(10)
    assert way_of(CameraMotion(0.0, 0.0, 1.2, 0.0), 50) == pytest.approx(5)
    assert way_of(CameraMotion(0.0, 0.0, 1.0, 180.0), 50) == pytest.approx(50)


def test_every_step_is_told_and_may_cancel():
    frames, told = clip(picture(96, 96), MOVES["pan"], 5), []
    camera_way(frames, on_step=lambda *step: told.append(step))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        camera_way(frames, on_step=cancel)


@pytest.mark.slow
def test_the_report_holds_the_way_where_flow_was_asked_for():
    frames = clip(picture(144, 216), MOVES["pan"], 8)
    report = measure_dynamics(frames, measure_size=64)
    assert report.way_percent == pytest.approx(12, rel=0.05)
    assert measure_dynamics(frames, measure_size=64, with_flow=False).way_percent is None
    assert measure_dynamics(frames[:, :15], measure_size=64).way_percent is None


@pytest.mark.parametrize("height, width", [(132, 192), (192, 132), (96, 192)])
def test_a_letterboxed_degree_is_that_of_the_whole_picture_in_its_square(height, width):
    frames = clip(picture(height, width), MOVES["pan"], 6)
    boxed = measure_dynamics(frames, measure_size=64, letterbox=True, with_flow=False).degree
    small = torch.nn.functional.interpolate(frames.movedim(-1, 1), (height // 3, width // 3), mode="bilinear",
                                            antialias=True)  # fmt: skip
    top, left = (64 - height // 3) // 2, (64 - width // 3) // 2
    square = torch.from_numpy(np.pad(small, ((0, 0), (0, 0), (top, top), (left, left)), mode="symmetric"))
    assert boxed == pytest.approx(float(dynamics_degree(square[None], measure_size=64)), abs=1e-5)
    assert boxed < measure_dynamics(frames, measure_size=64, with_flow=False).degree


def test_a_letterboxed_clip_is_checked_as_others_are():
    with pytest.raises(ShapeError, match="16 times the short one"):
        measure_dynamics(torch.rand(3, 16, 400, 3), measure_size=64, letterbox=True)
    with pytest.raises(ShapeError, match="from 0.0 to 300"):
        measure_dynamics(torch.tensor([0.0, 300.0]).view(2, 1, 1, 1).expand(2, 32, 32, 3), letterbox=True)
