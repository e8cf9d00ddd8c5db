"""How joint_linear_attention's kernels are launched: tiles, programs, the factor of a state; needs no Triton."""

import torch

WIDEST_HEAD = 128  # features; spatial attention gives its wide heads to the same kernels


def factor_of(n: int) -> float:
    """The power of two at or below 1/n: it keeps a state the size of one token's share and rounds nothing."""
    return 2.0 ** -max(n - 1, 0).bit_length()


def state_programs(groups: int, n: int, dh: int, processors: int) -> int:
    """Programs that share one state: two programs a processor, each of 16·dh tokens or more, 32 at most.

    A partial state of dh·(dh + 1) float32 is written and read once, so longer chunks cost less.
    """
    wanted = -(-2 * processors // max(groups, 1))
    return max(1, min(wanted, n // (16 * dh), 32))


def output_programs(groups: int, n: int, dh: int, processors: int) -> int:
    """Programs that read one finished state: of 1,024 tokens or more each at dh 112, of 256 at dh 32."""
    chunk = 1 << (8 * max(dh, 16) - 1).bit_length()
    while chunk < 8192 and groups * -(-n // chunk) > 8 * processors:
        chunk *= 2
    return max(1, -(-n // chunk))


def launch_options(arch: int, dh: int, n: int, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """Tile sizes, warps and stages of each launch, by compute capability (90 = 9.0), head size, tokens and type.

    The widest tiles that compile without spills and fit 101,376 bytes of shared memory (8.6, 8.9, 12.0).
    """
    if arch == 0:  # the interpreter pays by the operation, not by the size
        return {name: {"BLOCK": 128, "num_warps": 1, "num_stages": 1} for name in ("state", "output", "gradient")}
    warps, stages = (4, 2) if dh <= 64 else (8, 2)
    blocks = {"state": 64, "output": 64, "gradient": 32} if dh <= 32 else {"state": 32, "output": 32, "gradient": 16}
    if dh > 64:
        blocks = {"state": 32 if dtype == torch.bfloat16 else 16, "output": 16, "gradient": 16}
    if dtype == torch.float32:
        stages = 1
        blocks = {name: min(block, 32 if dh <= 32 else 16) for name, block in blocks.items()}
    return {name: {"BLOCK": block if n >= block else 16, "num_warps": warps, "num_stages": stages}
            for name, block in blocks.items()}  # fmt: skip
