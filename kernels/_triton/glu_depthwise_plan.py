"""How glu_depthwise's kernels are launched: tile sizes, and which way programs march; needs no Triton."""

from typing import NamedTuple

import torch


class Plan(NamedTuple):
    """Which way programs march over frames of h x w tokens: lines `across`, their length `along`, blocks of lines."""

    over_height: bool  # the lines are rows
    across: int
    along: int
    blocks: int

    @property
    def lines_read(self) -> int:
        """Lines of one frame that its programs read when each also takes the line above and below its block."""
        return self.across + 2 * (self.blocks - 1)


def plan(h: int, w: int, block: int) -> Plan:
    """The direction that reads less, among those within a quarter of the fewest steps."""
    both = [Plan(True, h, w, -(-h // block)), Plan(False, w, h, -(-w // block))]
    limit = 1.25 * min(x.blocks * (x.along + 1) for x in both)
    return min((x for x in both if x.blocks * (x.along + 1) <= limit), key=lambda x: x.lines_read * x.along)


def launch_options(kind: str, dtype: torch.dtype, arch: int) -> dict:
    """Tile sizes of one kernel: "forward", "input" or "weights". One row serves all archs that were compiled for.

    A pair of lines is 16 bytes a lane: TILE 64 in half precision, 32 in float32. BLOCK is even; larger ones spill.
    """
    size = "float32" if dtype == torch.float32 else "half"
    return dict(_TABLE.get((kind, size, arch)) or _TABLE[kind, size])


_TABLE = {
    ("forward", "half"): {"BLOCK": 8, "TILE": 64, "STAGES": 2, "num_warps": 1},
    ("forward", "float32"): {"BLOCK": 8, "TILE": 32, "STAGES": 2, "num_warps": 1},
    ("input", "half"): {"BLOCK": 4, "TILE": 64, "num_warps": 1},
    ("input", "float32"): {"BLOCK": 4, "TILE": 32, "num_warps": 1},
    ("weights", "half"): {"BLOCK": 2, "TILE": 64, "num_warps": 1},
    ("weights", "float32"): {"BLOCK": 4, "TILE": 32, "num_warps": 1},
}
