"""Quality figures against scikit-image, closed forms and photographs that were moved, blurred and dimmed on purpose."""

import math
import sys

import numpy as np
import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.metrics.dynamics import dynamics_degree
from pack.motion.metrics.motion_track import interpolation_errors, shrink, track_motion
from pack.motion.metrics.optical_flow import has_cv2
from pack.motion.metrics.quality import (
    camera_labels,
    colour_drift,
    first_frame_fidelity,
    flicker,
    mean_brightness,
    measure_quality,
    photo_like,
    psnr,
    sharpness,
    to_decibel,
)
from scipy.ndimage import gaussian_filter

skimage = pytest.importorskip("skimage")
needs_cv2 = pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")


def photograph(name="coffee", side=128):
    """A photograph of scikit-image in [0, 1], float32 (h, w, 3), short side as given."""
    import skimage.data

    return shrink(torch.from_numpy(getattr(skimage.data, name)()).float()[None] / 255, side)[0][0]


def pan(step, num_frames=6, *, name="coffee", size=96):
    """Window that runs over a photograph, `step` px a frame to the right: the picture slides left."""
    photo = photograph(name)
    return torch.stack([photo[:size, step * n : step * n + size] for n in range(num_frames)])


def alternating(amount, num_frames=6):
    """Factors that alternate about 1 by +-amount / 2: (t, 1, 1, 1)."""
    return 1 + amount / 2 * torch.tensor([(-1.0) ** n for n in range(num_frames)]).view(-1, 1, 1, 1)


@pytest.mark.slow
def test_psnr_and_colour_difference_of_frame_1_equal_scikit_image():
    from skimage.color import deltaE_ciede2000, rgb2lab
    from skimage.metrics import peak_signal_noise_ratio

    photo = photograph()
    frame = (photo * 0.95 + 0.02).clamp(0, 1)
    db, difference = first_frame_fidelity(frame, photo[None])
    a, b = (x.double().numpy() for x in (frame, photo))
    assert db == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-6)
    assert difference == pytest.approx(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean(), abs=1e-3)
    assert first_frame_fidelity(photo, photo) == (math.inf, 0.0)
    assert psnr(torch.zeros(4, 4), torch.full((4, 4), 0.1)) == pytest.approx(20, abs=1e-5)
    assert to_decibel(0.0) == math.inf


def test_photo_of_an_odd_size_is_compared_without_the_padding_of_the_video():
    photo = photograph()[:111, :97]
    padded = torch.cat((photo, photo[-1:]))
    padded = torch.cat((padded, padded[:, -1:]), dim=1)
    assert first_frame_fidelity(padded, photo)[0] == math.inf


def test_photo_of_another_size_is_resized_and_of_another_shape_refused():
    photo = photograph(side=320)
    frame = shrink(photo[None], 128)[0][0]
    assert first_frame_fidelity(frame, photo)[0] > 60
    assert photo_like(frame, photo)[1].shape == frame.shape
    with pytest.raises(ShapeError, match="photo is 100x160 px, frames are 192x128 px; the same shape"):
        first_frame_fidelity(frame, photo[:160, :100])
    for bad in (torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, 4), torch.zeros(8, 8, 3, dtype=torch.uint8)):
        with pytest.raises(ShapeError, match="photo is"):
            first_frame_fidelity(frame, bad)
    with pytest.raises(ShapeError, match="photo holds NaN"):
        first_frame_fidelity(frame, frame / 0)


@pytest.mark.slow
def test_a_ramp_of_4_percent_gives_exactly_that_drift():
    factor = torch.linspace(1, 1.04, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    grey = 0.5 * factor.expand(-1, 20, 24, 3)
    light = [116 * (((v + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16 for v in grey[:, 0, 0, 0].tolist()]
    truth = [
        (x - light[0]) / (1 + 0.015 * m**2 / math.sqrt(20 + m**2)) for x in light for m in [(x + light[0]) / 2 - 50]
    ]
    assert colour_drift(grey).tolist() == pytest.approx(truth, abs=2e-3)
    report = measure_quality(photograph().clamp(0, 0.95).double() * factor)
    assert (report.brightness / report.brightness[0]).tolist() == pytest.approx(factor.flatten().tolist(), abs=1e-6)
    assert report.colour_drift.tolist() == sorted(report.colour_drift.tolist()) and report.colour_drift[0] == 0
    assert report.max_drift == float(report.colour_drift[-1])
    assert report.flicker_percent < 1e-4, "a steady ramp is no flicker"


def test_drift_of_a_photograph_equals_scikit_image():
    from skimage.color import deltaE_ciede2000, rgb2lab

    photo = photograph("chelsea")
    tinted = torch.stack((photo, photo * torch.tensor([1.0, 0.97, 0.9])))
    means = [rgb2lab(frame.double().numpy()).mean((0, 1)) for frame in tinted]
    assert float(colour_drift(tinted)[1]) == pytest.approx(float(deltaE_ciede2000(means[1], means[0])), abs=1e-3)


def test_brightness_that_alternates_is_flicker_of_that_size():
    clip = photograph().clamp(0, 0.9) * alternating(0.02)
    expected = 0.02 * mean_brightness(photograph().clamp(0, 0.9)[None])[0]
    found = flicker(mean_brightness(clip))
    assert found.tolist() == pytest.approx([float(expected)] * 4, rel=1e-5)
    assert flicker(torch.linspace(0, 1, 9)).abs().max() < 1e-6


@pytest.mark.slow
@needs_cv2
@pytest.mark.parametrize("name", ["coffee", "chelsea", "astronaut"])
def test_flicker_is_seen_in_a_pan_and_the_pan_itself_is_no_flicker(name):
    clip = pan(3, name=name).clamp(0, 0.95)
    calm, bad = measure_quality(clip), measure_quality(clip * alternating(0.04))
    for figure in ("flicker_percent", "local_flicker_percent"):
        assert getattr(calm, figure) < 0.3 < 1.0 < getattr(bad, figure), figure
        assert getattr(bad, figure) == pytest.approx(4 * float(calm.brightness.mean()), rel=0.25), figure


@pytest.mark.slow
@needs_cv2
def test_a_flickering_lamp_shows_in_its_own_part_of_the_picture():
    still = photograph()[:96, :96].clamp(0, 0.9).expand(6, -1, -1, -1).clone()
    still[:, 24:48, 48:72] *= alternating(0.2)
    amount = 0.2 * float(mean_brightness(photograph()[None, 24:48, 48:72].clamp(0, 0.9)))
    found = track_motion(still).flicker
    assert found.tolist() == pytest.approx([amount / 4] * 4, rel=0.2)  # one of 16 parts
    assert track_motion(photograph()[:96, :96].expand(4, -1, -1, -1)).flicker.max() < 1e-6


@pytest.mark.slow
@needs_cv2
def test_a_pan_is_measured_in_pixels_of_the_frames_step_by_step_and_from_frame_1():
    report = measure_quality(pan(6, 9))
    assert report.flow_px == pytest.approx(6, abs=0.1) and report.moving_share == 1
    assert report.distance_px.tolist() == pytest.approx([6.0 * n for n in range(9)], abs=0.6)
    large = torch.nn.functional.interpolate(pan(2, 3).movedim(-1, 1), scale_factor=4, mode="bicubic").movedim(1, -1)
    assert measure_quality(large.clamp(0, 1)).flow_px == pytest.approx(8, rel=0.05)


@needs_cv2
def test_slow_motion_does_not_get_lost_in_the_rounding_of_its_steps():
    fine = pan(1, 16).movedim(-1, 1)
    slow = torch.nn.functional.interpolate(fine, size=(24, 24), mode="bilinear", antialias=True).movedim(1, -1)
    assert float(track_motion(slow).distance_px[-1]) == pytest.approx(15 / 4, abs=0.4)


@pytest.mark.slow
@needs_cv2
def test_only_the_steps_that_move_are_counted_as_moving():
    clip = torch.cat((pan(2, 5), pan(2, 5)[-1:].expand(4, -1, -1, -1)))
    assert measure_quality(clip).moving_share == pytest.approx(0.5)
    still = measure_quality(pan(0))
    assert (still.moving_share, still.flow_px) == (0.0, 0.0) and still.smoothness_db > 100
    assert still.distance_px.tolist() == [0.0] * 6


@pytest.mark.slow
@needs_cv2
@pytest.mark.parametrize("name", ["coffee", "chelsea", "astronaut"])
def test_blur_looks_like_motion_to_ms_ssim_but_not_to_the_flow(name):
    """The trap: a picture that goes in and out of focus has a higher dynamics degree than one that really moves."""
    photo = photograph(name, 224)[:, :224]
    soft = torch.from_numpy(gaussian_filter(photo.numpy(), (3, 3, 0)))
    trap = torch.stack([(photo, soft)[n % 2] for n in range(6)])
    moving = torch.stack([photo[:, n : n + 200] for n in range(6)])
    degrees = [float(dynamics_degree(clip.movedim(-1, 1)[None], measure_size=128)) for clip in (trap, moving)]
    assert degrees[0] > degrees[1]
    blurred, moved = measure_quality(trap), measure_quality(moving)
    assert blurred.moving_share == 0 and blurred.flow_px < 0.2 < 0.9 < moved.flow_px
    assert float(blurred.sharpness_percent[1]) < 50 and moved.sharpness_percent.min() > 85


@pytest.mark.slow
@needs_cv2
def test_stutter_and_wobble_are_less_smooth_than_an_even_pan():
    even, places = pan(3), (0, 0, 6, 6, 12, 12)
    photo = photograph()
    stutter = torch.stack([photo[:96, x : x + 96] for x in places])
    wobble = torch.stack([photo[2 * (n % 2) : 2 * (n % 2) + 96, 3 * n : 3 * n + 96] for n in range(6)])
    smooth, *bad = (measure_quality(clip).smoothness_db for clip in (even, stutter, wobble))
    assert smooth > 30 and max(bad) < smooth - 8
    assert interpolation_errors(even).shape == (4,)


def test_sharpness_equals_a_plain_loop():
    picture = torch.rand(1, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    grey = (picture[0].double().numpy() * [0.299, 0.587, 0.114]).sum(-1)
    total = (np.diff(grey, axis=0) ** 2).sum() + (np.diff(grey, axis=1) ** 2).sum()
    assert float(sharpness(picture)[0]) == pytest.approx(math.sqrt(total / 30), rel=1e-5)
    flat = measure_quality(torch.full((3, 16, 16, 3), 0.5))
    assert flat.sharpness_percent.isnan().all()


@pytest.mark.slow
@needs_cv2
def test_directions_of_the_text_are_looked_for_one_by_one():
    clip = pan(3)  # the window runs right, so the camera pans right
    assert measure_quality(clip, motion="pan right").directions == (("pan right", True),)
    both = measure_quality(clip, motion="A boat, Pan  Right, zoom in")
    assert both.directions == (("pan right", True), ("zoom in", False)) and both.direction_agrees is False
    assert both.camera.dx == pytest.approx(-15, abs=0.5)
    assert measure_quality(pan(0), motion="still").direction_agrees is True
    assert measure_quality(clip).direction_agrees is None


def test_a_text_without_a_direction_is_refused_with_the_list():
    assert camera_labels("pan left and zoom in") == ("pan left", "zoom in")
    for text in ("a ball bounces", "pan", "span lefty", "   "):
        with pytest.raises(ConfigError, match="names no direction.*pan left, pan right.*still"):
            camera_labels(text)


def test_without_cv2_flow_figures_are_none_and_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    report = measure_quality(pan(2), photo=pan(2)[0], motion="pan right")
    assert report.psnr_db == math.inf and report.colour_drift.shape == (6,) and report.flicker.shape == (4,)
    gone = (report.flow_px, report.distance_px, report.moving_share, report.smoothness_db, report.local_flicker)
    assert set(gone) == {None} and report.direction_agrees is None and report.camera is None
    assert "pip install opencv-python-headless" in report.missing


@needs_cv2
def test_two_frames_have_no_flicker_or_smoothness_but_all_else():
    report = measure_quality(pan(4, 2))
    assert (report.flicker_percent, report.local_flicker_percent, report.smoothness_db) == (None, None, None)
    assert report.flow_px == pytest.approx(4, abs=0.1) and report.colour_drift.shape == (2,)
    assert report.missing is None


def test_progress_reaches_its_end_and_a_cancel_passes():
    seen = []
    measure_quality(pan(2, 4), motion="pan right", on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len({total for _, total in seen}) == 1

    def cancel(done, total):
        if done == 3:
            raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        measure_quality(pan(2, 4), on_step=cancel)


def test_the_clip_and_the_photo_are_not_written_into():
    clip = pan(2, 4)
    photo, kept = clip[0].clone(), clip.clone()
    measure_quality(clip, photo=photo)
    assert torch.equal(clip, kept) and torch.equal(photo, kept[0])


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (torch.zeros(1, 32, 32, 3), "1 frame; at least 2"),
        (torch.zeros(0, 32, 32, 3), "floats"),
        (torch.zeros(3, 32, 32), "floats"),
        (torch.zeros(3, 32, 32, 4), "floats"),
        (torch.zeros(3, 32, 32, 3, dtype=torch.uint8), "uint8"),
        (torch.zeros(3, 8, 32, 3), "32x8 px; 16 px on each side"),
        (torch.full((3, 32, 32, 3), float("nan")), "finite values"),
        (torch.full((3, 32, 32, 3), 255.0), "rescale"),
    ],
)
def test_unusable_clips_are_refused_with_a_way_out(frames, text):
    with pytest.raises(ShapeError, match=text):
        measure_quality(frames)
