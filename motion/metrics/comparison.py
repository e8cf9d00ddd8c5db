"""Several clips side by side: a contact sheet, a plot of what changes frame by frame, and a table of figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .contact_sheet import SheetRow, draw_contact_sheet
from .dynamics import ms_ssim
from .motion_track import shrink
from .plot import Curve, Panel, draw_panels
from .quality import QualityReport, check_frames, measure_quality

MAX_CLIPS = 4
PARTS = 1000  # progress counts so many parts a clip
COLUMNS = ("", "frames", "size", "px/frame", "moving", "way px", "drift dE", "flicker %", "smooth dB", "sharp %")


@dataclass(frozen=True)
class Comparison:
    """What `compare_clips` made: pictures (1, h, w, 3) in [0, 1], the table as text, a report for each clip."""

    contact_sheet: Tensor
    plot: Tensor
    table: str
    reports: tuple[QualityReport, ...]


def compare_clips(
    clips: Sequence[Tensor],
    names: Sequence[str],
    *,
    num_columns: int = 6,
    cell: int = 256,
    by_share: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure and draw up to four clips.

    clips: each (t, h, w, 3) in [0, 1], t >= 2; lengths and sizes may differ. by_share: False sets frame n beside frame
    n; True sets each clip's first and last frame beside those of the others, for clips of other rates or lengths.
    Motion is given in px of the first clip: that of a clip of another size is scaled by their short sides.
    on_step(done, total) may raise to cancel. Raises ConfigError for other counts, ShapeError for unusable clips.
    """
    if not 1 <= len(clips) <= MAX_CLIPS or len(names) != len(clips):
        raise ConfigError(f"{len(clips)} clips, {len(names)} names; 1 to {MAX_CLIPS} are needed, and a name for each")
    for clip, name in zip(clips, names):
        check_frames(clip, name)
    reports = tuple(_measure(clip, index, len(clips), on_step) for index, clip in enumerate(clips))
    units = [_unit(report, reports[0]) for report in reports]
    rows = [SheetRow(*item) for item in zip(names, clips, map(_remark, reports, units))]
    sheet = draw_contact_sheet(rows, num_columns=num_columns, cell=cell, by_share=by_share)
    plot = draw_panels(_panels(clips, reports, units, by_share), names)
    if on_step:
        on_step(PARTS * len(clips), PARTS * len(clips))
    return Comparison(sheet, plot, table_of(reports, names), reports)


def table_of(reports: Sequence[QualityReport], names: Sequence[str]) -> str:
    """Figures of clips as aligned columns under a heading; "-" for what was not measured."""
    rows = [COLUMNS]
    for report, name in zip(reports, names):
        unit = _unit(report, reports[0])
        way = None if report.distance_px is None else float(report.distance_px[-1]) * unit
        speed = None if report.flow_px is None else report.flow_px * unit
        moving = None if report.moving_share is None else 100 * report.moving_share
        rows.append((
            name, str(report.num_frames), f"{report.width}x{report.height}", _number(speed, 2),
            _number(moving, 0, "%"), _number(way, 1), _number(report.max_drift, 2), _number(report.flicker_percent, 2),
            _number(report.smoothness_db, 1), _number(float(report.sharpness_percent[-1]), 0),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))).rstrip() for row in rows]
    return "\n".join([*lines, *_remarks(reports, names)])


def _remarks(reports: Sequence[QualityReport], names: Sequence[str]) -> list[str]:
    remarks = ["drift: largest mean colour difference against frame 1; sharp: last frame against frame 1"]
    if not reports[0].missing and any(_unit(report, reports[0]) != 1 for report in reports):
        remarks.append(f"sizes differ: px are px of {names[0]!r}, scaled by the short side")
    if reports[0].missing:
        remarks.append(f"optical flow {reports[0].missing}")
    return remarks


def _number(value: float | None, decimals: int, unit: str = "") -> str:
    if value is None or math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.{decimals}f}{unit}"


def _measure(clip: Tensor, index: int, count: int, on_step) -> QualityReport:
    def tell(done: int, total: int) -> None:
        if on_step:
            on_step(PARTS * index + (PARTS - 1) * done // total, PARTS * count)

    return measure_quality(clip, on_step=tell)


def _unit(report: QualityReport, first: QualityReport) -> float:
    """Px of the first clip per px of this one."""
    return min(first.height, first.width) / min(report.height, report.width)


def _remark(report: QualityReport, unit: float) -> str:
    size = f"{report.num_frames} frames, {report.width} x {report.height} px"
    return f"{size}, {report.flow_px:.1f} px a frame" if report.flow_px is not None and unit == 1 else size


def _panels(clips, reports, units, by_share: bool) -> list[Panel]:
    """Motion, colour, flicker and sharpness; what cannot be measured has its reason in its place."""
    x_label = "share of the clip, %" if by_share else "frame"

    def panel(title: str, y_label: str, curves, least_top: float, first: int = 1) -> Panel:
        made = [
            Curve(_places(len(curve), first, report.num_frames, by_share), tuple(float(y) for y in curve))
            for curve, report in zip(curves, reports)
        ]
        return Panel(title, x_label, y_label, tuple(made), least_top, True, "at least 3 frames are needed")

    if reports[0].missing:
        motion = panel("Change against frame 1 (without cv2)", "1 - MS-SSIM", [_change(clip) for clip in clips], 0.05)
    else:
        unit = "px" if all(unit == 1 for unit in units) else "px of the first clip"
        ways = [report.distance_px * unit for report, unit in zip(reports, units)]
        motion = panel("Motion against frame 1", unit, ways, 1.0)
    return [
        motion,
        panel("Colour drift against frame 1", "Delta E 2000", [report.colour_drift for report in reports], 1.0),
        panel("Flicker", "% of white", [100 * report.flicker for report in reports], 1.0, first=2),
        panel("Sharpness", "% of frame 1", [report.sharpness_percent for report in reports], 105.0),
    ]


def _places(count: int, first: int, num_frames: int, by_share: bool) -> tuple[float, ...]:
    """Where the values of a curve stand: frame numbers from `first`, or shares of the clip in %."""
    numbers = range(first, first + count)
    return tuple(100 * (n - 1) / (num_frames - 1) if by_share else float(n) for n in numbers)


def _change(clip: Tensor) -> Tensor:
    """1 - MS-SSIM of each frame against frame 1, at the measured size: (t,)."""
    small = shrink(clip)[0].movedim(-1, 1)
    return torch.cat([1 - ms_ssim(small[:1], frame.unsqueeze(0)) for frame in small])
