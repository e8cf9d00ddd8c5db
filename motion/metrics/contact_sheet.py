"""A contact sheet: for every clip one row of evenly spaced frames, labelled, all at one scale, nothing stretched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .drawing import INK, MAT, SERIES, SOFT, Canvas

MARGIN, GAP, HEAD, FOOT, ROW_GAP = 20, 6, 34, 22, 14  # px: border, between cells, above a row, below it, between rows
MAX_COLUMNS = 12
MAX_CELL = 512
MAX_ASPECT = 2.5  # cells are never wider or taller than this times their other side


@dataclass(frozen=True)
class SheetRow:
    """One clip of the sheet: its label, its frames (t, h, w, 3) in [0, 1], and a remark at the right of the label.

    Of the frames only their shape and single frames, by number, are asked for.
    """

    label: str
    frames: Tensor
    remark: str = ""


def frame_places(num_frames: int, longest: int, num_columns: int, *, by_share: bool) -> list[int | None]:
    """Which frame (from 0) stands in each column of a row; None leaves the column empty.

    by_share: each clip runs from its own first to its own last frame; otherwise all columns show one frame number,
    spread over the longest clip, and a shorter clip ends with empty columns.
    """
    last = (num_frames if by_share else longest) - 1
    columns = max(1, min(num_columns, longest))
    places = [round(column * last / max(1, columns - 1)) for column in range(columns)]
    return [place if place < num_frames else None for place in places]


def draw_contact_sheet(
    rows: Sequence[SheetRow],
    *,
    num_columns: int = 6,
    cell: int = 256,
    by_share: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the sheet: an image (1, height, width, 3) float32 in [0, 1].

    Every frame is scaled, aspect kept, to fit a cell of one size whose long side is `cell` px; what the frame leaves of
    its cell is light grey. Cells have the shape of the clips, of the mean of widest and tallest where these differ.
    on_step(row, num_rows) is called after each row. Raises ConfigError for rows, columns or cells out of range.
    """
    if not 1 <= len(rows) <= len(SERIES) or not 2 <= num_columns <= MAX_COLUMNS or not 32 <= cell <= MAX_CELL:
        raise ConfigError(
            f"{len(rows)} clips, {num_columns} columns, cells of {cell} px; 1 to {len(SERIES)} clips, 2 to "
            f"{MAX_COLUMNS} columns and 32 to {MAX_CELL} px are needed"
        )
    width, height = cell_size([row.frames.shape[1:3] for row in rows], cell)
    longest = max(row.frames.shape[0] for row in rows)
    columns = min(num_columns, longest)
    row_height = HEAD + height + FOOT
    canvas = Canvas(
        2 * MARGIN + columns * (width + GAP) - GAP, 2 * MARGIN + len(rows) * (row_height + ROW_GAP) - ROW_GAP
    )
    for index, row in enumerate(rows):
        top = MARGIN + index * (row_height + ROW_GAP)
        _draw_head(canvas, row, index, top)
        places = frame_places(row.frames.shape[0], longest, num_columns, by_share=by_share)
        for column, place in enumerate(places):
            _draw_cell(canvas, row.frames, place, (MARGIN + column * (width + GAP), top + HEAD, width, height))
        if on_step:
            on_step(index + 1, len(rows))
    return canvas.as_frames()


def cell_size(sizes: Sequence[tuple[int, int]], cell: int) -> tuple[int, int]:
    """Width and height of the cells for clips of these (height, width), long side `cell` px."""
    shapes = [width / height for height, width in sizes]
    aspect = (min(shapes) * max(shapes)) ** 0.5
    aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)
    return (cell, round(cell / aspect)) if aspect >= 1 else (round(cell * aspect), cell)


def _draw_head(canvas: Canvas, row: SheetRow, index: int, top: int) -> None:
    """Colour of the clip (as in the plot), its label, and the remark at the right."""
    inner = canvas.width - 2 * MARGIN
    canvas.box(MARGIN, top + 4, 5, 20, SERIES[index])
    canvas.text((MARGIN + 14, top + 14), row.label, size=18, anchor="lm", width=inner // 2 - 20)
    canvas.text((MARGIN + inner, top + 14), row.remark, size=14, colour=SOFT, anchor="rm", width=inner // 2)


def _draw_cell(canvas: Canvas, frames: Tensor, place: int | None, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    canvas.box(left, top, width, height, MAT)
    caption = (left + width / 2, top + height + 5)
    if place is None:
        canvas.text((left + width / 2, top + height / 2), "ended", size=14, colour=SOFT, anchor="mm")
        return
    picture = _fitted(frames[place], width, height)
    canvas.paste(picture, left + (width - picture.width) // 2, top + (height - picture.height) // 2)
    canvas.text(caption, f"frame {place + 1}" if place == 0 else str(place + 1), size=13, colour=INK, anchor="ma")


def _fitted(frame: Tensor, width: int, height: int):
    """A frame (h, w, 3) as a Pillow picture that fits into width x height px, aspect kept."""
    from PIL import Image

    h, w, _ = frame.shape
    scale = min(width / w, height / h)
    size = (max(1, round(h * scale)), max(1, round(w * scale)))
    mode = "bilinear" if scale < 1 else "bicubic"
    values = frame.detach().cpu().float().movedim(-1, 0).unsqueeze(0)
    values = F.interpolate(values, size=size, mode=mode, antialias=scale < 1)[0].movedim(0, -1)
    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().contiguous().numpy())
