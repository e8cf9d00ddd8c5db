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
    """Tile sizes of one kernel: "forward", "input" or "weights". One row fits all archs that were compiled for.

    BLOCK is even. TILE 64 is 16 bytes a lane for half precision; more lines a block spill registers.
    """
    return dict(_TABLE.get((kind, dtype, arch)) or _TABLE[kind])


_TABLE = {
    "forward": {"BLOCK": 8, "TILE": 64, "STAGES": 2, "num_warps": 1},
    "input": {"BLOCK": 4, "TILE": 64, "num_warps": 1},
    "weights": {"BLOCK": 2, "TILE": 64, "num_warps": 1},
}
