"""The part of a photo that a video shows, so that no frame looks beyond the photo's edges.

A frame reads the photo at x + flow(x). Where that lies outside, there is nothing to show but a mirror image. Since all
flows are known before the first frame is drawn, the largest part of the photo can be found whose every place stays
inside in every frame: one part for the whole clip, of the photo's own shape, shown at the photo's own size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers.letterbox import Letterbox
from ...layers.warp import FlowResampler

LARGEST_SCALE = 1.35  # beyond it the rest is mirrored: a photo that is enlarged further looks soft
PLACES = 192  # places looked at along the long side
SLACK = 0.25  # of a place's width: rounding of a flow that leads exactly to the edge


@dataclass(frozen=True)
class PhotoWindow:
    """Where the shown part lies: its upper left corner in px of the photo, and how much it is enlarged.

    mirrored: share of its places that lie outside the photo in some frame.
    """

    height: int  # px of the photo, and of the video
    width: int
    top: float = 0.0
    left: float = 0.0
    scale: float = 1.0
    mirrored: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the photo is shown as it is."""
        return self.scale == 1.0

    def rows(self, band: slice = slice(None), *, device=None) -> Tensor:
        """Height in px of the photo at which the middle of each row of the video lies, float32."""
        return self.top + (torch.arange(self.height, device=device)[band].float() + 0.5) / self.scale

    def columns(self, *, device=None) -> Tensor:
        """The same for columns."""
        return self.left + (torch.arange(self.width, device=device).float() + 0.5) / self.scale


def find_window(
    flow: Tensor, box: Letterbox, *, share: Tensor | None = None, largest_scale: float = LARGEST_SCALE
) -> PhotoWindow:
    """The largest part of a photo that stays inside it in all frames, nearest to the middle; see the module's text.

    flow: (t, 2, gh, gw), working pixels over the whole square. box: where the photo lies in the square. share: (height,
    width), how much of the flow acts at each pixel. When no part down to 1 / largest_scale of the photo stays inside,
    the one of that size with the fewest places outside.
    """
    height, width = box.height, box.width
    unit = max(height, width) / PLACES
    rows, columns = (max(2, round(side / unit)) for side in (height, width))
    outside = _outside(flow, box, rows, columns, share)
    counts = F.pad(outside.double().cumsum(0).cumsum(1), (1, 0, 1, 0))  # of all places above and to the left
    for taken in range(rows + columns):
        scale = 1 / (1 - taken / (2 * max(rows, columns)))
        scale = min(scale, largest_scale)
        h, w = (min(side, math.ceil(side / scale - 1e-6)) for side in (rows, columns))
        inside = counts[h:, w:] - counts[:-h, w:] - counts[h:, :-w] + counts[:-h, :-w]
        least = inside.min()
        if least == 0 or scale == largest_scale:
            break
    top, left = _nearest_to_middle(inside == least)
    place = {"top": top / rows * height, "left": left / columns * width}
    place = {"top": min(place["top"], height - height / scale), "left": min(place["left"], width - width / scale)}
    return PhotoWindow(height, width, place["top"], place["left"], scale, float(least) / (h * w))


def _outside(flow: Tensor, box: Letterbox, rows: int, columns: int, share: Tensor | None) -> Tensor:
    """Cells (rows, columns) of the photo of which a corner is read from outside it in some frame."""
    y = torch.linspace(0, box.height, rows + 1, dtype=torch.float32)
    x = torch.linspace(0, box.width, columns + 1, dtype=torch.float32)
    found = torch.zeros(rows + 1, columns + 1, dtype=torch.bool)
    acts = 1.0
    if share is not None:
        corners = (rows + 1, columns + 1)
        acts = F.interpolate(share.cpu()[None, None], corners, mode="bilinear", align_corners=True)[0, 0]
    slack = SLACK * max(box.height, box.width) / PLACES
    for grid in flow.float().cpu():
        moved = FlowResampler(grid.unsqueeze(0), box, at=(y, x)).rows()[0] * acts
        to_x, to_y = x + moved[0], y.unsqueeze(1) + moved[1]
        found |= (to_x < -slack) | (to_x > box.width + slack) | (to_y < -slack) | (to_y > box.height + slack)
    return found[:-1, :-1] | found[1:, :-1] | found[:-1, 1:] | found[1:, 1:]


def _nearest_to_middle(allowed: Tensor) -> tuple[int, int]:
    """Row and column of the allowed place that is nearest to the middle of the map."""
    rows, columns = allowed.nonzero(as_tuple=True)
    middle = [(side - 1) / 2 for side in allowed.shape]
    best = int(((rows - middle[0]).square() + (columns - middle[1]).square()).argmin())
    return int(rows[best]), int(columns[best])
