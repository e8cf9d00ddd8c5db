"""How gate_norm_modulate's kernels are launched: columns, tokens a program, warps; needs no Triton."""

TOKENS_A_PROGRAM = 16  # rows are read once for so many tokens
LARGE = 32_768  # tokens from which programs that walk twice as far still fill every card
# {(direction, compute capability, d): options}, measured rows; all others follow from the width
TUNED: dict[tuple[str, int, int], dict] = {}


def columns(d: int) -> tuple[int, int]:
    """Columns of head and tail, powers of two; a tail of 0 when d is one."""
    head = 1 << (d.bit_length() - 1)
    return head, 0 if head == d else 1 << (d - head - 1).bit_length()


def launch_options(arch: int, d: int, tokens: int, direction: str = "forward") -> dict:
    """Tokens a program walks over, warps and stages, by capability (90 for 9.0), width and size of the launch."""
    head, _ = columns(d)
    longer = direction == "backward" and tokens >= LARGE  # there a program's own sums are traffic, too
    options = {"CHUNK": TOKENS_A_PROGRAM * (2 if longer else 1), "num_stages": 1}
    options["num_warps"] = max(1, min(16, head // 256))  # a thread holds 8 columns: loads of 16 bytes
    return {**options, **TUNED.get((direction, arch, d), {})}
