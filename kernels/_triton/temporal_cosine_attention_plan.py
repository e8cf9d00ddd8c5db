"""How temporal 1 + cos attention is launched: tiles, warps, and how many heads one program walks through.

Nothing here needs Triton, so that traffic can be counted where it is not installed.
"""

import functools
from typing import NamedTuple

import torch

from ..backend_choice import interpreting

QUADRATIC_FRAMES = 64  # longest sequence whose t x t weights stay in registers
WIDEST_HEAD = 128  # dims of a head; wider ones leave no registers
SHORTEST = 1e-12  # length a vector is divided by at least
LEAST = 1e-6  # denominator
WANTED = 2048  # programs that fill a large card several times over; fewer heads a program below it

# (arch, padded dims, padded frames; 0: the linear algorithm) -> frames and heads of a tile, warps, stages; None: any.
# A warp takes whole heads, or all warps share one (_product); dims times heads of 128 fill whole cache lines.
FORWARD = {
    (None, 16, 16): (16, 4, 4, 2), (None, 16, 32): (32, 2, 2, 2), (None, 16, 64): (64, 1, 4, 2),
    (None, 32, 16): (16, 4, 4, 2), (None, 32, 32): (32, 1, 2, 2), (None, 32, 64): (64, 1, 4, 2),
    (None, 64, 16): (16, 2, 2, 2), (None, 64, 32): (32, 1, 4, 2), (None, 64, 64): (64, 1, 4, 2),
    (None, 128, 16): (16, 1, 2, 2), (None, 128, 32): (32, 1, 4, 2), (None, 128, 64): (64, 1, 8, 2),
    (None, 16, 0): (16, 4, 4, 2), (None, 32, 0): (16, 4, 4, 2), (None, 64, 0): (32, 1, 4, 1),
    (None, 128, 0): (16, 1, 8, 1),
}  # fmt: skip
BACKWARD = {
    (None, 16, 16): (16, 4, 4, 1), (None, 16, 32): (32, 2, 2, 1), (None, 16, 64): (64, 1, 4, 1),
    (None, 32, 16): (16, 4, 4, 1), (None, 32, 32): (32, 1, 4, 1), (None, 32, 64): (64, 1, 8, 1),
    (None, 64, 16): (16, 1, 2, 1), (None, 64, 32): (32, 1, 4, 1), (90, 64, 64): (64, 1, 8, 1),
    (None, 128, 16): (16, 1, 4, 1), (None, 128, 32): (32, 1, 8, 1),
    (None, 16, 0): (16, 4, 4, 1), (None, 32, 0): (16, 4, 4, 1), (None, 64, 0): (32, 1, 4, 1),
    (None, 128, 0): (16, 1, 8, 1),
}  # fmt: skip


class Plan(NamedTuple):
    """One launch: constants of the kernel, and programs = samples x sites x groups."""

    linear: bool
    frames: int  # of a tile, a power of two
    dims: int  # of a tile, a power of two
    heads: int  # of a tile
    blocks: int  # tiles one program walks through
    groups: int  # programs that share one site's heads
    num_warps: int
    num_stages: int


@functools.cache
def architecture(device: torch.device) -> int | None:
    """Compute capability as 10 x major + minor; None without a card."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def launch_options(
    arch: int | None, dims: int, frames: int, *, backward: bool, wide: bool = False
) -> dict[str, int] | None:
    """Row of the table for padded dims and frames (0: the linear algorithm), its common one for an unknown arch.

    wide: float32 is stored. None where the table has no row, and the linear algorithm is taken.
    """
    table = BACKWARD if backward else FORWARD
    row = table.get((arch, dims, frames)) or table.get((None, dims, frames))
    if row is None:
        return None
    options = dict(zip(("frames", "heads", "num_warps", "num_stages"), row))
    if wide and backward:
        options["num_warps"] = min(8, 2 * options["num_warps"])  # products without tensor cores need more registers
    return options


def make_plan(
    b: int, t: int, s: int, nh: int, dh: int, *, arch: int | None, algorithm: str = "auto", backward: bool = False,
    wide: bool = False,
) -> Plan:  # fmt: skip
    """Tiles and programs for (b, t, s, nh, dh). "auto" and "direct" take the quadratic algorithm where it fits."""
    dims, options = padded(dh), None
    if algorithm != "linear" and t <= QUADRATIC_FRAMES:
        options = launch_options(arch, dims, padded(t), backward=backward, wide=wide)
    linear = options is None
    if linear:
        options = launch_options(arch, dims, 0, backward=backward, wide=wide)
        if interpreting():
            options["frames"] = 64  # its time goes by the number of steps, not by their size
    tiles = -(-nh // options["heads"])
    groups = tiles if linear else 1 if interpreting() else min(tiles, -(-WANTED // (b * s)))
    blocks = -(-tiles // groups)
    return Plan(linear, dims=dims, blocks=blocks, groups=-(-tiles // blocks), **options)


def padded(size: int) -> int:
    """Next power of two, at least 16, the smallest side of a matrix product."""
    return max(16, 1 << (size - 1).bit_length())


def dot_type(*tensors: torch.Tensor) -> torch.dtype:
    """What matrix products are fed with: the stored type when all agree, float32 else and under the interpreter."""
    types = {x.dtype for x in tensors}
    return types.pop() if len(types) == 1 and not interpreting() else torch.float32
