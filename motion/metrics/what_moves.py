"""Whether a motion word found what it is about: a sky, a subject with room around it. Notes, never refusals.

The words of motionblocks-small always move something. What they move is known from the flow itself; whether that is
what the word means is judged from the photo beneath it. `waterfall` is not judged: by what can be measured, a pale
upright thing looks like falling water.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..layers.letterbox import Letterbox, fit_square
from .colour import LUMA

CELL = 4  # px of a working square per cell of the flow grid
SMOOTH = 0.06  # steepest change of brightness a px in a cell of sky
ON_SKY = 0.55  # share of the motion of `clouds` that must fall on sky
CORE = 0.5  # share of the longest way from which a cell counts as moved
AT_EDGE = 0.5  # share of an edge of the photo along which the moved part touches it
OBJECTS = ("slide left", "slide right", "slide up", "slide down", "bounce", "orbit", "spin", "swing")
BESIDE = ("still", "rain", "snow")  # words without a flow of their own
EDGES = ("top", "bottom", "left", "right")


def nothing_to_act_on(words: Sequence[str], photo: Tensor, flow: Tensor) -> str | None:
    """A sentence where the one word that moves a part of the photo did not find what it is about, else None.

    words: motions as the vocabulary names them; beside a camera word, whose flow covers all, nothing is said.
    photo: (3, h, w) in [0, 1]. flow: (t, 2, g, g), the clip's own in working px (`FlowCodec.flow_of`, one row).
    Raises ShapeError for other shapes.
    """
    if photo.ndim != 3 or photo.shape[0] != 3 or flow.ndim != 4 or flow.shape[1] != 2 or flow.shape[2] != flow.shape[3]:
        raise ShapeError(
            f"photo is {tuple(photo.shape)}, flow {tuple(flow.shape)}; (3, h, w) and (t, 2, g, g) are needed; pass one "
            "row of flow_of"
        )
    moving = [word for word in words if word not in BESIDE]
    if len(moving) != 1 or moving[0] not in (*OBJECTS, "clouds"):
        return None
    box = Letterbox(*photo.shape[-2:], CELL * flow.shape[-1])
    way = _on_photo(flow.float().norm(dim=1).amax(0), box).cpu()
    if not way.any():
        return None
    if moving[0] == "clouds":
        return _about_sky(way, _on_photo(_steepness(photo.float().cpu(), box.size), box) < SMOOTH)
    return _about_edges(moving[0], way)


def sky_cells(smooth: Tensor) -> Tensor:
    """The smooth cells (rows, columns) that hang together with smooth cells of the top row."""
    sky = torch.zeros_like(smooth)
    sky[0] = smooth[0]
    while True:
        grown = (F.max_pool2d(sky[None].float(), 3, 1, 1)[0] > 0) & smooth
        if torch.equal(grown, sky):
            return sky
        sky = grown


def _about_sky(way: Tensor, smooth: Tensor) -> str | None:
    on_sky = float((way * sky_cells(smooth)).sum() / way.sum())
    if on_sky >= ON_SKY:
        return None
    return (
        f"'clouds' found little sky: {100 * (1 - on_sky):.0f}% of its motion falls on what does not look like sky; use "
        "a photo with a sky at the top, or a region"
    )


def _about_edges(word: str, way: Tensor) -> str | None:
    core = way > CORE * way.max()
    lines = (core[0], core[-1], core[:, 0], core[:, -1])
    touched = [edge for edge, line in zip(EDGES, lines) if line.float().mean() >= AT_EDGE]
    if not touched:
        return None
    return (
        f"what {word!r} moves reaches the {' and the '.join(touched)} edge of the photo, so it is stretched there; use "
        "a photo with room around the subject, or a region"
    )


def _steepness(photo: Tensor, size: int) -> Tensor:
    """Largest change of brightness between neighbouring px, a cell each: (3, h, w) -> (g, g)."""
    square = fit_square(photo[None], size)[0]
    light = (square * torch.tensor(LUMA).view(3, 1, 1)).sum(0)
    across, down = ((light - light.roll(2, axis)).abs().roll(-1, axis) / 2 for axis in (1, 0))
    across[:, [0, -1]], down[[0, -1]] = 0, 0
    return F.max_pool2d((across + down)[None], CELL)[0]


def _on_photo(cells: Tensor, box: Letterbox) -> Tensor:
    """The cells (g, g) of the working square that lie mostly on the photo; at least one a side."""
    top, left = (_first(start) for start in (box.top, box.left))
    rows, columns = max(1, len(cells) - 2 * top), max(1, len(cells) - 2 * left)
    return cells[top : top + rows, left : left + columns]


def _first(start: float) -> int:
    return round(start / CELL)
