"""Line plots of several clips in panels, drawn with Pillow: axes with round ticks and units, one legend, marks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from .drawing import INK, LINE, MARKS, PAPER, SERIES, SOFT, Canvas, font_for

MARGIN, LEGEND, TITLE, AXIS, SIDE = 24, 44, 34, 46, 62  # px: border, legend, panel title, x axis, y axis
GAP = 30
MANY_POINTS = 40  # beyond this only some points get a mark


@dataclass(frozen=True)
class Curve:
    """One line: its x and y values, equally many; a y that is not finite leaves a gap."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One diagram: title, what stands on the axes, a curve (or None) for each clip, and why there may be none."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve | None, ...]
    least_top: float = 0.0  # the y axis reaches at least this far, so that noise does not fill the panel
    whole_x: bool = True  # x counts frames: only whole numbers get a tick
    note: str = ""  # stands in a panel without curves


def draw_panels(panels: Sequence[Panel], names: Sequence[str], *, width: int = 1280, height: int = 860) -> Tensor:
    """Draw panels two in a row with one legend above: an image (1, height, width, 3) float32 in [0, 1].

    names: one a clip, at most 4; every panel holds as many curves. Raises ConfigError for other counts.
    """
    if not 1 <= len(names) <= len(SERIES) or any(len(panel.curves) != len(names) for panel in panels):
        raise ConfigError(f"{len(names)} clips; 1 to {len(SERIES)} are needed, and as many curves in every panel")
    canvas = Canvas(width, height)
    _draw_legend(canvas, names)
    xs = [x for panel in panels for curve in panel.curves if curve for x in curve.x] or [0.0, 1.0]
    x_span = (min(xs), max(max(xs), min(xs) + 1e-6))  # one for all panels, so that frames stand above each other
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    cell_width = (width - 2 * MARGIN - (columns - 1) * GAP) / columns
    cell_height = (height - MARGIN - LEGEND - MARGIN / 2) / rows
    for index, panel in enumerate(panels):
        left = MARGIN + index % 2 * (cell_width + GAP)
        top = MARGIN + LEGEND + index // 2 * cell_height
        _draw_panel(canvas, panel, (round(left), round(top), round(cell_width), round(cell_height)), x_span)
    return canvas.as_frames()


def round_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About `count` round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) from at or below low to past high.

    whole: only steps of whole numbers.
    """
    span = max(high - low, 1e-3 * abs(high), 1e-4)
    power = 10.0 ** math.floor(math.log10(span / count))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(factor * power for factor in factors if factor * power * count >= span * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick with as many decimals as its axis needs."""
    step = abs(ticks[1] - ticks[0])
    decimals = next((n for n in range(7) if abs(step * 10**n - round(step * 10**n)) < 1e-6 * 10**n * step), 7)
    return f"{value:.{decimals}f}" if value else "0"


def _draw_legend(canvas: Canvas, names: Sequence[str]) -> None:
    """One row of mark, line and name for each clip."""
    share = (canvas.width - 2 * MARGIN) // len(names)
    left, top = MARGIN, MARGIN - 6
    for index, name in enumerate(names):
        with canvas.smooth(left, top, 44, 24) as region:
            region.curve([(left + 6, top + 12), (left + 38, top + 12)], SERIES[index], 2.4)
            region.mark((left + 22, top + 12), MARKS[index], SERIES[index], 5.0)
        canvas.text((left + 52, top + 12), name, size=17, anchor="lm", width=share - 76)
        left += min(share, 52 + 28 + round(font_for(name, 17).getlength(name)))


def _draw_panel(canvas: Canvas, panel: Panel, box: tuple[int, int, int, int], x_span: tuple[float, float]) -> None:
    left, top, width, height = box
    canvas.text((left + SIDE, top + 6), panel.title, size=18, width=width - SIDE)
    area = (left + SIDE, top + TITLE, width - SIDE - 12, height - TITLE - AXIS)
    curves = [(index, curve) for index, curve in enumerate(panel.curves) if curve and _finite(curve)]
    if not curves:
        canvas.box(*area, (246, 247, 250))
        middle = (area[0] + area[2] / 2, area[1] + area[3] / 2)
        canvas.text(middle, panel.note or "nothing to draw", size=14, colour=SOFT, anchor="mm", width=area[2] - 20)
        return
    y_ticks = _y_ticks([y for _, curve in curves for _, y in _finite(curve)], panel.least_top, area[3])
    x_ticks = round_ticks(*x_span, max(4, area[2] // 60), whole=panel.whole_x)
    y_span = (y_ticks[0], y_ticks[-1])
    _draw_axes(canvas, panel, area, (x_ticks, y_ticks), (x_span, y_span))
    with canvas.smooth(area[0] - 8, area[1] - 8, area[2] + 16, area[3] + 16) as region:
        for index, curve in curves:
            _draw_curve(region, curve, index, area, x_span, y_span)


def _y_ticks(ys: Sequence[float], least_top: float, height: int) -> list[float]:
    """Ticks of the y axis; it begins at 0 unless the curves stay far above it."""
    top = max(*ys, least_top)
    low = min(0.0, min(ys)) if min(ys) < 0.6 * top else min(ys)
    return round_ticks(low, max(top, low + 1e-6), max(3, height // 55))


def _draw_axes(canvas: Canvas, panel: Panel, area, ticks, spans) -> None:
    left, top, width, height = area
    for value in ticks[1]:
        y = round(_along(value, spans[1], top + height, top))
        canvas.box(left, y, width, 1, LINE)
        canvas.text((left - 8, y), tick_text(value, ticks[1]), size=13, colour=SOFT, anchor="rm")
    for value in ticks[0]:
        if not spans[0][0] <= value <= spans[0][1]:
            continue
        x = round(_along(value, spans[0], left, left + width))
        canvas.box(x, top + height, 1, 5, SOFT)
        canvas.text((x, top + height + 9), tick_text(value, ticks[0]), size=13, colour=SOFT, anchor="ma")
    canvas.box(left, top + height, width, 1, INK)
    canvas.text((left + width / 2, top + height + 26), panel.x_label, size=13, colour=SOFT, anchor="ma")
    canvas.sideways((left - SIDE + 14, top + height / 2), panel.y_label, size=13)


def _draw_curve(region, curve: Curve, index: int, area, x_span, y_span) -> None:
    left, top, width, height = area
    run, runs = [], []
    for x, y in zip(curve.x, curve.y):
        if math.isfinite(y):
            run.append((_along(x, x_span, left, left + width), _along(y, y_span, top + height, top)))
        elif run:
            runs, run = [*runs, run], []
    runs += [run] if run else []
    for points in runs:
        region.curve(points, PAPER, 4.0)
        region.curve(points, SERIES[index], 2.2)
    points = [point for points in runs for point in points]
    every = 1 if len(points) <= MANY_POINTS else math.ceil(len(points) / (MANY_POINTS / 2))
    for point in points[index * every // len(SERIES) :: every]:
        region.mark(point, MARKS[index], SERIES[index])


def _along(value: float, span: tuple[float, float], start: float, end: float) -> float:
    return start + (value - span[0]) / (span[1] - span[0]) * (end - start)


def _finite(curve: Curve) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(curve.x, curve.y) if math.isfinite(y)]
