"""The dynamics slider of the built-in models as the way of a camera move over a whole clip, in % of the long side.

Medians over photographs of three shapes, by the models' own flow. These commands print them anew:
  python benchmarks/slider_flow.py --models motionblocks-tiny --name slider_tiny
  python benchmarks/slider_flow.py --models motionblocks-small --photos 4 --name slider_small
A clip of 16 frames and a longer one of the same move take the same way. motionblocks-small keeps to its table on every
photo (3 %). motionblocks-tiny moves smooth photos farther than rough ones, since its slider was learned from how much a
picture changes: one photo may be 34 % from the median at dynamics 1, 17 % at 12, 6 % at 19.
"""

from bisect import bisect_left

SLIDERS = (0, 1, 4, 8, 12, 16, 19)
WAYS = {
    "motionblocks-tiny": {
        "pan": (0, 5.5, 10.1, 14.5, 17.7, 19.5, 30.6), "zoom in": (0, 5.8, 9.6, 14.0, 16.6, 17.8, 24.1),
        "zoom out": (0, 5.0, 7.6, 10.1, 11.4, 12.0, 14.7), "rotate": (0, 5.3, 8.7, 12.0, 13.8, 14.6, 18.6),
    },
    "motionblocks-small": {
        "pan": (0, 1.6, 6.8, 14.6, 22.2, 30.1, 35.6), "zoom in": (0, 0.8, 3.3, 7.4, 11.5, 16.0, 19.6),
        "zoom out": (0, 1.0, 3.5, 7.3, 10.6, 13.7, 15.6), "rotate": (0, 1.2, 4.2, 8.8, 13.4, 18.1, 21.4),
    },
}  # fmt: skip


def like_sliders(model: str, way: float) -> dict[str, float] | None:
    """Slider position of each camera move that goes this way (% of the long side); None for a model without a table.

    Between two places of the table along a straight line; beyond its ends, the end.
    """
    ways = WAYS.get(model)
    return ways and {move: _place(row, way) for move, row in ways.items()}


def _place(row: tuple[float, ...], way: float) -> float:
    at = bisect_left(row, way)
    if at == 0 or at == len(row):
        return float(SLIDERS[min(at, len(row) - 1)])
    share = (way - row[at - 1]) / (row[at] - row[at - 1])
    return SLIDERS[at - 1] + share * (SLIDERS[at] - SLIDERS[at - 1])
