"""Flow and camera labels on textures that were moved by a known amount."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.metrics import optical_flow
from pack.motion.metrics.dynamics import measure_dynamics
from pack.motion.metrics.optical_flow import (
    LABELS,
    CameraMotion,
    camera_motion,
    dense_flow,
    direction_agrees,
    fit_camera_motion,
    has_cv2,
    median_flow,
    median_length,
    motion_agrees,
    pair_motion,
    textured_mask,
)

needs_cv2 = pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
MOVES = {
    "pan left": {"dx": 1}, "pan right": {"dx": -1}, "pan up": {"dy": 1}, "pan down": {"dy": -1},
    "zoom in": {"zoom": 1}, "zoom out": {"zoom": -1}, "rotate left": {"degrees": -1}, "rotate right": {"degrees": 1},
}  # fmt: skip


def scene(height, width, seed=0):
    """Texture of several coarsenesses in [0, 1], float64 (1, height, width)."""
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    total = 0
    for index, smooth in enumerate((2, 4, 8)):
        noise = np.random.default_rng(seed + index).standard_normal((height, width))
        soft = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((fy**2 + fx**2) * (2 * math.pi * smooth) ** 2) / 2)).real
        total = total + soft / soft.std()
    return torch.from_numpy((total - total.min()) / (total.max() - total.min()))[None]


def moved(wide, height, width, *, dx=0.0, dy=0.0, zoom=1.0, degrees=0.0):
    """The middle of a scene after zoom and clockwise turn about its middle, then a shift: (height, width, c)."""
    y, x = torch.meshgrid(*(torch.arange(n).double() - (n - 1) / 2 for n in (height, width)), indexing="ij")
    angle, x, y = math.radians(degrees), x - dx, y - dy
    u, v = math.cos(angle) * x + math.sin(angle) * y, -math.sin(angle) * x + math.cos(angle) * y  # turned back
    grid = torch.stack((2 * u / zoom / (wide.shape[-1] - 1), 2 * v / zoom / (wide.shape[-2] - 1)), dim=-1)
    picture = F.grid_sample(wide[None], grid[None], mode="bicubic", padding_mode="reflection", align_corners=True)
    return picture[0].movedim(0, -1).clamp(0, 1).float()


def clip_of(label, *, height=64, width=64, num_frames=6, pan=1.0, zoom=0.012, degrees=1.2, seed=0):
    """A clip that does what a label says, a little more every frame."""
    wide, size = scene(2 * height, 2 * width, seed), {"dx": pan, "dy": pan, "zoom": zoom, "degrees": degrees}
    (name, sign), frames = next(iter(MOVES[label].items())), []
    for n in range(num_frames):
        amount = n * sign * size[name]
        frames.append(moved(wide, height, width, **{name: 1 + amount if name == "zoom" else amount}))
    return torch.stack(frames)


@needs_cv2
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (200, 176)])
@pytest.mark.parametrize("shift", [(3.0, 0.0), (-2.5, 1.5), (0.5, -4.0)])
def test_median_flow_finds_a_known_shift(size, shift):
    wide = scene(2 * size[0], 2 * size[1])
    dx, dy = median_flow(moved(wide, *size), moved(wide, *size, dx=shift[0], dy=shift[1]))
    assert (dx, dy) == (pytest.approx(shift[0], abs=0.1), pytest.approx(shift[1], abs=0.1))
    length = median_length(moved(wide, *size), moved(wide, *size, dx=shift[0], dy=shift[1]))
    assert length == pytest.approx(math.hypot(*shift), abs=0.1)


@needs_cv2
@pytest.mark.parametrize("size", [(64, 64), (96, 144)])
@pytest.mark.parametrize(
    "move", [{"dx": 3.0, "dy": -1.0}, {"zoom": 1.08}, {"zoom": 0.93}, {"degrees": 5.0}, {"degrees": -4.0, "zoom": 1.05}]
)
def test_pair_motion_finds_shift_zoom_and_turn_together(size, move):
    wide = scene(2 * size[0], 2 * size[1])
    found = pair_motion(moved(wide, *size), moved(wide, *size, **move))
    assert found.dx == pytest.approx(move.get("dx", 0), abs=0.1)
    assert found.dy == pytest.approx(move.get("dy", 0), abs=0.1)
    assert found.zoom == pytest.approx(move.get("zoom", 1), abs=0.006)
    assert found.degrees == pytest.approx(move.get("degrees", 0), abs=0.2)


def test_fit_is_exact_on_a_clean_field_and_ignores_a_minority():
    height, width, zoom, angle = 30, 40, 1.1, math.radians(7)
    y, x = torch.meshgrid(*(torch.arange(n).double() - (n - 1) / 2 for n in (height, width)), indexing="ij")
    a, b = zoom * math.cos(angle) - 1, zoom * math.sin(angle)
    flow = torch.stack((2 + a * x - b * y, -3 + b * x + a * y), dim=-1)
    found = fit_camera_motion(flow)
    assert (found.dx, found.dy, found.zoom) == pytest.approx((2, -3, 1.1), abs=1e-6)
    assert found.degrees == pytest.approx(7, abs=1e-6)
    flow[:, :12] = torch.tensor([-9.0, 5.0]).double()  # 30 % of the picture goes elsewhere
    found = fit_camera_motion(flow)
    assert (found.dx, found.dy, found.zoom) == pytest.approx((2, -3, 1.1), abs=0.02)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, 20:] = True
    flow[:, :20] = 100.0
    assert fit_camera_motion(flow, mask).dx == pytest.approx(2, abs=1e-6)


@pytest.mark.slow
@needs_cv2
@pytest.mark.parametrize("label", list(LABELS))
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (112, 64)])
def test_each_label_agrees_with_its_own_motion_only(label, size):
    clip = clip_of(label, height=size[0], width=size[1])
    found = camera_motion(clip)
    assert [other for other in LABELS if motion_agrees(other, found, *size)] == [label]
    assert direction_agrees(label, clip)


@needs_cv2
def test_labels_mean_what_they_mean_in_film():
    wide = scene(128, 128)
    still = moved(wide, 64, 64)
    assert direction_agrees("pan left", torch.stack((still, moved(wide, 64, 64, dx=3))))  # the picture slides right
    assert direction_agrees("pan up", torch.stack((still, moved(wide, 64, 64, dy=3))))  # the picture slides down
    marked = torch.zeros(65, 65)
    marked[10:20, 28:37] = 1.0  # a mark above the middle moves right when the picture turns clockwise
    x = torch.arange(65).double() - 32
    turned = moved(marked.double()[None], 65, 65, degrees=20)[..., 0].double()
    assert float((turned * x).sum() / turned.sum()) > 3
    assert direction_agrees("rotate right", torch.stack((still, moved(wide, 64, 64, degrees=5))))


@pytest.mark.slow
@needs_cv2
def test_long_motion_is_composed_from_its_steps():
    clip = clip_of("pan left", height=96, width=96, num_frames=16, pan=2.0)
    found = camera_motion(clip)
    assert found.dx == pytest.approx(30, rel=0.04) and abs(found.dy) < 0.5
    clip = clip_of("rotate left", height=96, width=96, num_frames=11, degrees=2.0)
    assert camera_motion(clip).degrees == pytest.approx(-20, rel=0.06)
    clip = clip_of("zoom in", height=96, width=96, num_frames=11, zoom=0.03)
    assert camera_motion(clip).zoom == pytest.approx(1.3, abs=0.02)


@needs_cv2
def test_a_shift_grows_with_the_zoom_that_follows_it():
    wide = scene(192, 192)
    clip = [moved(wide, 96, 96, dx=2.0 * n) for n in range(6)]
    clip += [moved(wide, 96, 96, dx=10.0 * (1 + 0.05 * n), zoom=1 + 0.05 * n) for n in range(1, 9)]
    found = camera_motion(torch.stack(clip))
    assert found.dx == pytest.approx(14.0, abs=0.5) and found.zoom == pytest.approx(1.4, abs=0.03)


@pytest.mark.slow
@needs_cv2
def test_creeping_motion_is_measured_from_first_to_last():
    wide = scene(256, 256)
    clip = torch.stack([moved(wide, 128, 128, dx=n / 30) for n in range(16)])
    assert camera_motion(clip).dx == pytest.approx(0.5, abs=0.05)  # composed from its steps it comes out at 0.4


def test_a_slanted_shift_is_a_pan_along_its_longer_axis_only():
    slanted = CameraMotion(dx=2.0, dy=-3.0, zoom=1.0, degrees=0.0)
    assert [label for label in LABELS if motion_agrees(label, slanted, 64, 64)] == ["pan down"]


@pytest.mark.slow
@needs_cv2
def test_motion_of_a_large_clip_is_given_in_its_own_pixels():
    clip = clip_of("pan down", height=384, width=512, num_frames=3, pan=6.0)
    assert camera_motion(clip).dy == pytest.approx(-12, rel=0.06)
    assert measure_dynamics(clip).flow_px == pytest.approx(6, rel=0.06)


@needs_cv2
def test_a_still_or_barely_moving_clip_agrees_with_no_label():
    wide = scene(128, 128)
    barely = torch.stack([moved(wide, 64, 64, dx=0.05 * n) for n in range(6)])
    for clip in (moved(wide, 64, 64).expand(5, -1, -1, -1), barely, torch.full((4, 64, 64, 3), 0.5)):
        found = camera_motion(clip)
        assert not any(motion_agrees(label, found, 64, 64) for label in LABELS)
    assert direction_agrees("pan left", barely, threshold_px=0.1)


@needs_cv2
def test_a_moving_object_in_a_still_scene_does_not_count_as_a_pan():
    wide = scene(128, 128)
    frames = moved(wide, 64, 64).expand(4, -1, -1, -1).clone()
    for n in range(4):
        frames[n, 20:44, 10 + 3 * n : 34 + 3 * n] = moved(scene(48, 48, seed=9), 24, 24)
    found = camera_motion(frames)
    assert not any(motion_agrees(label, found, 64, 64) for label in LABELS)


def test_texture_mask_keeps_texture_and_drops_flat_regions():
    picture = torch.full((64, 64), 0.5)
    picture[:, 40:] = scene(64, 24)[0].float()
    mask = textured_mask(picture)
    assert mask[:, 46:].float().mean() > 0.8 and not mask[:, :34].any()
    assert textured_mask(torch.zeros(20, 20)).all()
    assert 0.3 < textured_mask(scene(64, 64)[0]).float().mean() < 0.5


@needs_cv2
def test_colour_grey_and_single_channel_pictures_give_the_same_flow():
    wide = scene(128, 128)
    a, b = moved(wide, 64, 64), moved(wide, 64, 64, dx=2)
    before = a.clone()
    truth = dense_flow(a[..., 0], b[..., 0])
    assert truth.shape == (64, 64, 2) and truth.dtype == torch.float32
    assert torch.equal(dense_flow(a, b), truth)
    assert torch.allclose(dense_flow(a.expand(-1, -1, 3), b.expand(-1, -1, 3)), truth, atol=1e-2)
    assert torch.equal(a, before)


@needs_cv2
@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (torch.zeros(64, 64), torch.zeros(64, 65), "equal shapes"),
        (torch.zeros(8, 64), torch.zeros(8, 64), "8x64 px"),
        (torch.zeros(64, 64, 4), torch.zeros(64, 64, 4), "(h, w, 3)"),
        (torch.full((64, 64), float("nan")), torch.zeros(64, 64), "finite"),
        (torch.zeros(64, 64, dtype=torch.uint8), torch.zeros(64, 64, dtype=torch.uint8), "rescale"),
    ],
)
def test_unusable_pictures_are_refused(a, b, text):
    with pytest.raises(ShapeError) as caught:
        dense_flow(a, b)
    assert text in str(caught.value)


@needs_cv2
def test_unusable_clips_labels_and_settings_are_refused():
    with pytest.raises(ConfigError, match="'tilt'; known labels are pan left"):
        direction_agrees("tilt", torch.zeros(2, 64, 64, 3))
    for frames in (torch.zeros(1, 64, 64, 3), torch.zeros(0, 64, 64, 3), torch.zeros(64, 64, 3)):
        with pytest.raises(ShapeError, match="longer clip"):
            camera_motion(frames)
    with pytest.raises(ShapeError, match="px"):
        camera_motion(torch.zeros(2, 0, 64, 3))
    with pytest.raises(ConfigError, match="fraction"):
        textured_mask(torch.zeros(64, 64), fraction=0)
    with pytest.raises(ShapeError, match="use dense_flow"):
        fit_camera_motion(torch.zeros(4, 4))


def test_without_cv2_flow_names_the_package_and_the_report_goes_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert not has_cv2()
    with pytest.raises(ConfigError, match="pip install opencv-python-headless"):
        dense_flow(torch.zeros(64, 64), torch.zeros(64, 64))
    report = measure_dynamics(torch.zeros(3, 64, 64, 3), measure_size=64)
    assert report.flow_px is None and report.bucket == 0


def test_cv2_is_not_loaded_by_importing_the_meters():
    source = Path(optical_flow.__file__).read_text()
    assert source.count("import cv2") == 1 and "\n        import cv2" in source
