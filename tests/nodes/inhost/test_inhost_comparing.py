"""The two judging nodes as the host runs them; the flow figures only where cv2 is installed."""

import comfy.model_management
import pytest
import torch
from pack.motion.metrics.optical_flow import has_cv2


def sliding(step, frames=5, size=64, seed=1, width=None):
    noise = torch.rand(1, 3, size // 4, size, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(noise, size=(size, 4 * size), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    return torch.stack([wide[:, 10 + step * n : 10 + step * n + (width or size)] for n in range(frames)])


def figures(ours, *inputs, **more):
    *numbers, report = ours["MeasureQuality"].execute(*inputs, **more).args
    names = [item.display_name for item in ours["MeasureQuality"].GET_SCHEMA().outputs]
    assert all(isinstance(number, float) for number in numbers) and len(numbers) == len(names) - 1
    return dict(zip(names, numbers)), report


def test_a_clip_that_starts_with_its_photo_scores_100(ours):
    clip = sliding(2)
    found, report = figures(ours, clip, clip[:1], "pan right")
    assert found["psnr_db"] == 100.0 and found["delta_e"] == 0.0 and 0 <= found["flicker"] < 0.5
    assert "5 frames of 64x64 px" in report
    if has_cv2():
        assert found["motion_px"] == pytest.approx(2, abs=0.1) and found["direction"] == 1.0
    else:
        assert {found[name] for name in ("motion_px", "moving_share", "smoothness_db", "direction")} == {-1.0}
        assert "pip install opencv-python-headless" in report


def test_without_photo_and_text_these_figures_are_minus_1(ours):
    found, report = figures(ours, sliding(1, frames=2))
    assert {found[name] for name in ("psnr_db", "delta_e", "flicker", "direction")} == {-1.0}
    assert "3 frames or more are needed" in report
    shown = ours["MeasureQuality"].execute(sliding(1)).ui.as_dict()
    assert "colour drift" in shown["text"][0]


def test_dimming_is_measured_as_drift_and_flicker(ours):
    factor = torch.tensor([1.0, 0.9, 1.0, 0.9, 1.0]).view(-1, 1, 1, 1)
    steady, _ = figures(ours, sliding(0))
    dimmed, _ = figures(ours, sliding(0) * factor)
    assert steady["colour_drift"] == 0.0 == steady["flicker"]
    assert dimmed["flicker"] == pytest.approx(10 * float(sliding(0).mean()), rel=0.1)
    assert dimmed["colour_drift"] > 2


def test_grey_and_alpha_frames_are_converted(ours):
    clip = sliding(1)
    grey, _ = figures(ours, clip.mean(dim=-1, keepdim=True))
    alpha, _ = figures(ours, torch.cat((clip, torch.ones_like(clip[..., :1])), dim=-1))
    plain, _ = figures(ours, clip)
    assert alpha == plain and grey["colour_drift"] >= 0


@pytest.mark.parametrize(
    "inputs, words",
    [
        ((torch.rand(1, 32, 32, 3),), "1 frame; at least 2"), ((torch.zeros(0, 32, 32, 3),), "non-empty IMAGE"),
        ((torch.full((3, 32, 32, 3), float("nan")),), "NaN or infinite pixels"),
        ((torch.rand(3, 32, 32, 2),), "2 channels"), ((torch.rand(3, 8, 32, 3),), "16 px on each side"),
        ((torch.rand(3, 32, 32, 3), torch.rand(2, 32, 32, 3)), "photo holds 2 images; exactly 1"),
        ((torch.rand(3, 32, 32, 3), torch.rand(1, 32, 64, 3)), "the same shape is needed"),
        ((torch.rand(3, 32, 32, 3), None, "a ball bounces"), "names no direction that can be measured"),
    ],
)  # fmt: skip
def test_clips_photos_and_texts_that_cannot_be_judged_are_refused(ours, inputs, words):
    with pytest.raises(ValueError, match=words):
        ours["MeasureQuality"].execute(*inputs)


def test_comparison_shows_sheet_plot_and_table(ours):
    done = ours["CompareVideos"].execute(sliding(1), sliding(3, frames=9), sliding(2, width=96), label_b="fast")
    sheet, plot, table = done.args
    assert sheet.dtype == plot.dtype == torch.float32 and sheet.shape[0] == plot.shape[0] == 1
    assert sheet.shape[-1] == plot.shape[-1] == 3 and 0 <= float(sheet.min()) <= float(sheet.max()) <= 1
    assert [line.split()[0] for line in table.splitlines()[1:4]] == ["A", "fast", "C"]
    assert len(done.ui["images"]) == 2 and done.ui["text"] == (table,)
    rows = done.args[0].shape[1]
    assert ours["CompareVideos"].execute(sliding(1), sliding(3)).args[0].shape[1] < rows


def test_only_the_videos_that_are_connected_are_drawn(ours):
    table = ours["CompareVideos"].execute(sliding(1), sliding(1), video_d=sliding(2), label_d="last").args[2]
    assert [line.split()[0] for line in table.splitlines()[1:4]] == ["A", "B", "last"]


def test_alignment_and_cell_size_change_the_sheet(ours):
    videos = sliding(1, frames=9), sliding(1, frames=4)
    by_number, by_share, small = (
        ours["CompareVideos"].execute(*videos, **more).args[0]
        for more in ({}, {"align": "share of the video"}, {"cell_size": 64, "columns": 2})
    )
    assert by_number.shape == by_share.shape and not torch.equal(by_number, by_share)
    assert small.shape[2] < by_number.shape[2] // 4


@pytest.mark.parametrize(
    "more, words",
    [
        ({"columns": 1}, "columns is 1; it must be 2 to 12"), ({"cell_size": 5000}, "cell_size is 5000"),
        ({"align": "middle"}, "align is 'middle'"), ({"video_c": torch.rand(1, 32, 32, 3)}, "video_c holds 1 image"),
        ({"video_c": torch.full((2, 32, 32, 3), float("nan"))}, "video_c holds NaN"),
    ],
)  # fmt: skip
def test_comparisons_that_cannot_be_made_are_refused(ours, more, words):
    with pytest.raises(ValueError, match=words):
        ours["CompareVideos"].execute(sliding(1), sliding(1), **more)


def test_cancel_stops_a_long_comparison(ours):
    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            ours["CompareVideos"].execute(sliding(1), sliding(1))
    finally:
        comfy.model_management.interrupt_current_processing(False)


def test_the_videos_are_not_written_into(ours):
    clip = sliding(1)
    kept = clip.clone()
    ours["CompareVideos"].execute(clip, clip)
    ours["MeasureQuality"].execute(clip, clip[:1])
    assert torch.equal(clip, kept)
