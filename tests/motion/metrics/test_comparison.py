"""Contact sheet, plot and table, read back pixel by pixel."""

import sys

import numpy as np
import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.metrics.colour import delta_e_2000, srgb_to_lab
from pack.motion.metrics.comparison import PARTS, compare_clips
from pack.motion.metrics.contact_sheet import (
    FOOT,
    GAP,
    HEAD,
    MARGIN,
    ROW_GAP,
    SheetRow,
    cell_size,
    draw_contact_sheet,
    frame_places,
)
from pack.motion.metrics.drawing import MAT, SERIES, Canvas, font_for
from pack.motion.metrics.optical_flow import has_cv2
from pack.motion.metrics.plot import Curve, Panel, draw_panels, round_ticks, tick_text

needs_cv2 = pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


def bytes_of(picture):
    """(h, w, 3) int array of an image batch of one."""
    assert picture.shape[0] == 1 and picture.dtype == torch.float32
    return (picture[0] * 255).round().to(torch.int32).numpy()


def is_colour(values, colour):
    return (values == np.array(colour)).all(axis=-1)


def sliding(step, num_frames=6, height=48, width=64, seed=0):
    """Smooth texture that slides `step` px a frame."""
    noise = torch.rand(1, 3, 12, 60, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(noise, size=(height, 5 * width), mode="bicubic").clamp(0, 1)[0]
    return torch.stack([wide[:, :, 8 + step * n : 8 + step * n + width].movedim(0, -1) for n in range(num_frames)])


def test_columns_show_first_and_last_and_evenly_between():
    assert frame_places(16, 16, 6, by_share=False) == [0, 3, 6, 9, 12, 15]
    assert frame_places(9, 16, 6, by_share=False) == [0, 3, 6, None, None, None]
    assert frame_places(9, 16, 5, by_share=True) == [0, 2, 4, 6, 8]
    assert frame_places(3, 3, 12, by_share=False) == [0, 1, 2]
    assert frame_places(2, 4, 4, by_share=True) == [0, 0, 1, 1]


@pytest.mark.parametrize(("sizes", "cell", "expected"), [
    ([(50, 100)], 200, (200, 100)), ([(100, 50)] * 2, 200, (100, 200)), ([(100, 50), (50, 100)], 200, (200, 200)),
    ([(10, 1000)], 200, (200, 80)),
])  # fmt: skip
def test_cells_take_the_shape_of_the_clips(sizes, cell, expected):
    assert cell_size(sizes, cell) == expected


def test_frames_stand_in_their_cells_in_one_shape_with_grey_beside_them():
    red = torch.tensor([1.0, 0.0, 0.0]).expand(4, 60, 120, 3)
    green = torch.tensor([0.0, 1.0, 0.0]).expand(3, 120, 60, 3)
    sheet = bytes_of(draw_contact_sheet([SheetRow("a", red), SheetRow("b", green)], num_columns=4, cell=100))
    width = 2 * MARGIN + 4 * 100 + 3 * GAP
    assert sheet.shape == (2 * MARGIN + 2 * (HEAD + 100 + FOOT) + ROW_GAP, width, 3)
    for index, colour, size in ((0, (255, 0, 0), (50, 100)), (1, (0, 255, 0), (100, 50))):
        top = MARGIN + index * (HEAD + 100 + FOOT + ROW_GAP) + HEAD
        for column in range(4):
            left = MARGIN + column * (100 + GAP)
            cell = sheet[top : top + 100, left : left + 100]
            ended = index == 1 and column == 3
            assert is_colour(cell, colour).sum() == (0 if ended else size[0] * size[1]), (index, column)
            assert is_colour(cell, MAT).sum() >= (9000 if ended else 5000)
            if not ended:
                rows, columns = np.nonzero(is_colour(cell, colour))
                assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == size
                assert abs(rows.mean() - 49.5) <= 0.5 and abs(columns.mean() - 49.5) <= 0.5
    assert is_colour(sheet, SERIES[0]).sum() >= 100 <= is_colour(sheet, SERIES[1]).sum(), "no bar of the row's colour"


def test_a_frame_at_its_own_size_comes_through_untouched():
    clip = sliding(2)
    sheet = bytes_of(draw_contact_sheet([SheetRow("a", clip)], num_columns=2, cell=64))
    cell = sheet[MARGIN + HEAD : MARGIN + HEAD + 48, MARGIN + 64 + GAP : MARGIN + 2 * 64 + GAP]
    assert np.abs(cell - (clip[-1] * 255).round().numpy()).max() <= 1


def test_a_long_label_is_cut_before_it_reaches_the_remark():
    rows = [[SheetRow(name, sliding(1), "6 frames")] for name in ("w" * 400, "w", "Größe, 日本")]
    long, short, other = (bytes_of(draw_contact_sheet(row, num_columns=2, cell=200)) for row in rows)
    head = slice(MARGIN, MARGIN + HEAD - 4)
    assert (long[head, 219:226] == 255).all()  # the middle of the row stays free
    assert (long[head] < 120).any(axis=-1).sum() > 3 * (short[head] < 120).any(axis=-1).sum()
    assert (other[head] < 120).any()


@pytest.mark.parametrize(("low", "high", "count", "expected"), [
    (0, 132, 3, [0, 50, 100, 150]), (0, 0.73, 4, [0, 0.2, 0.4, 0.6, 0.8]), (83, 104, 3, [80, 90, 100, 110]),
    (-2, 2, 4, [-2, -1, 0, 1, 2]), (5, 5, 4, None), (0, 1e-12, 4, None), (0, 1e9, 4, None),
])  # fmt: skip
def test_ticks_are_round_and_enclose_the_values(low, high, count, expected):
    ticks = round_ticks(low, high, count)
    assert expected is None or ticks == pytest.approx(expected)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9 and 2 <= len(ticks) <= count + 3
    texts = [tick_text(value, ticks) for value in ticks]
    assert len(set(texts)) == len(texts), "two ticks read the same"
    whole = round_ticks(low, high, count, whole=True)
    assert all(float(value).is_integer() for value in whole)


def drawn(y, index=0, **more):
    """Places (x, y) of the pixels of curve `index`, marks and ends included, in one panel."""
    curves = tuple(Curve(tuple(range(1, len(y) + 1)), tuple(y)) if n == index else None for n in range(index + 1))
    picture = bytes_of(draw_panels([Panel("t", "x", "y", curves, **more)], ["n"] * (index + 1), width=500, height=400))
    rows, columns = np.nonzero(is_colour(picture, SERIES[index]))
    return columns[rows > 90], rows[rows > 90]


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_straight_curve_is_drawn_straight_in_its_colour(index):
    x, y = drawn([0.0, 1.0, 2.0, 3.0, 4.0], index)
    assert len(x) > 300 and np.corrcoef(x, y)[0, 1] < -0.999
    slope, start = np.polyfit(x, y, 1)
    assert np.abs(y - slope * x - start).max() < 9, "farther from the line than a mark"


def test_a_value_that_is_not_finite_leaves_a_gap():
    whole, gap = drawn([1.0] * 9), drawn([1.0, 1.0, 1.0, float("nan"), float("nan"), 1.0, 1.0, 1.0, 1.0])
    columns = np.unique(whole[0])
    hole = columns[(columns - columns[0]) / np.ptp(columns) > 0.3]
    hole = hole[(hole - columns[0]) / np.ptp(columns) < 0.57]
    assert set(hole) and not set(hole) & set(gap[0])


def test_a_panel_without_curves_says_why():
    curves = (Curve((1.0, 2.0), (float("nan"),) * 2),)
    empty, noted = (bytes_of(draw_panels([Panel("t", "x", "y", curves, note=note)], ["n"])) for note in ("", "no cv2"))
    assert not is_colour(empty[90:], SERIES[0]).any()
    assert (empty != noted).any()


def test_tiny_noise_does_not_fill_a_panel():
    _, loud = drawn([0.0, 0.001, 0.0, 0.001])
    _, calm = drawn([0.0, 0.001, 0.0, 0.001], least_top=1.0)
    assert np.ptp(calm) < 15 < np.ptp(loud)


def test_colours_stay_apart_for_colour_blind_eyes():
    series = torch.tensor(SERIES, dtype=torch.float64) / 255
    linear = torch.where(series > 0.04045, ((series + 0.055) / 1.055) ** 2.4, series / 12.92)
    seen = (linear @ torch.tensor(DEUTERANOPIA, dtype=torch.float64).T).clamp(0, 1) ** (1 / 2.4)
    for colours in (series, seen):
        lab = srgb_to_lab(colours)
        apart = delta_e_2000(lab.unsqueeze(0), lab.unsqueeze(1)) + 100 * torch.eye(4)
        assert apart.min() > 9


def test_lines_are_anti_aliased_and_text_is_not_doubled():
    canvas = Canvas(60, 60)
    with canvas.smooth(0, 0, 60, 60) as region:
        region.curve([(5, 8), (55, 31)], SERIES[0])
    shades = {tuple(colour) for colour in bytes_of(canvas.as_frames()).reshape(-1, 3)}
    assert len(shades) > 6
    assert font_for("abc", 14).getlength("abc") > 5


@pytest.mark.slow
@needs_cv2
def test_clips_of_other_sizes_are_measured_in_pixels_of_the_first():
    small = sliding(2)
    large = torch.nn.functional.interpolate(small.movedim(-1, 1), scale_factor=2, mode="bicubic").movedim(1, -1)
    made = compare_clips([small, large.clamp(0, 1)], ["small", "large"], cell=64)
    rows = [line.split() for line in made.table.splitlines()[1:3]]
    assert rows[0][:3] == ["small", "6", "64x48"] and rows[1][:3] == ["large", "6", "128x96"]
    assert float(rows[0][3]) == pytest.approx(2, abs=0.1) and float(rows[1][3]) == pytest.approx(2, abs=0.1)
    assert "px of 'small'" in made.table
    assert made.reports[1].flow_px == pytest.approx(4, abs=0.2)
    assert made.plot.shape == (1, 860, 1280, 3) and made.contact_sheet.shape[-1] == 3


@pytest.mark.slow
@needs_cv2
def test_alignment_by_share_stretches_a_shorter_clip_over_the_whole_axis():
    clips = [sliding(1, 10), sliding(1, 4)]
    by_number, by_share = (compare_clips(clips, ["a", "b"], cell=64, by_share=share) for share in (False, True))
    ends = [np.nonzero(is_colour(bytes_of(made.plot)[90:430, 80:640], SERIES[1]))[1].max()
            for made in (by_number, by_share)]  # fmt: skip
    assert ends[0] < 0.45 * ends[1]
    assert not torch.equal(by_number.contact_sheet, by_share.contact_sheet)
    assert by_number.table == by_share.table


def test_without_cv2_the_comparison_is_made_and_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    made = compare_clips([sliding(1), sliding(3)], ["slow", "fast"], cell=64)
    assert made.table.splitlines()[1].split()[3:6] == ["-", "-", "-"]
    assert "pip install opencv-python-headless" in made.table
    panel = bytes_of(made.plot)[100:420, 80:620]
    tops = [np.nonzero(is_colour(panel, SERIES[index]))[0].min() for index in (0, 1)]
    assert tops[1] < tops[0], "the faster clip changes more"


def test_two_frames_are_enough_and_flat_ones_too():
    made = compare_clips([sliding(1, 2), torch.full((3, 40, 40, 3), 0.5)], ["two", "flat"], cell=64)
    assert made.plot.isfinite().all() and "flat" in made.table


def test_progress_runs_to_its_end_over_all_clips_and_a_cancel_passes():
    seen = []
    compare_clips([sliding(1, 3)] * 2, ["a", "b"], cell=64, on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 * PARTS, 2 * PARTS) and seen == sorted(seen) and seen[0][0] < PARTS

    def cancel(done, total):
        raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        compare_clips([sliding(1, 3)], ["a"], on_step=cancel)


def test_what_cannot_be_compared_is_refused_by_name():
    with pytest.raises(ShapeError, match="second: 1 frame; at least 2"):
        compare_clips([sliding(1), sliding(1, 1)], ["first", "second"])
    with pytest.raises(ConfigError, match="5 clips, 5 names; 1 to 4"):
        compare_clips([sliding(1)] * 5, list("abcde"))
    with pytest.raises(ConfigError, match="13 columns"):
        draw_contact_sheet([SheetRow("a", sliding(1))], num_columns=13)
    with pytest.raises(ConfigError, match="as many curves"):
        draw_panels([Panel("t", "x", "y", ())], ["a"])


def test_the_clips_are_not_written_into():
    clip = sliding(1, 3)
    kept = clip.clone()
    compare_clips([clip], ["a"], cell=64)
    assert torch.equal(clip, kept)
