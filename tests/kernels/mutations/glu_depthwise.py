"""Spoilt lines of glu_depthwise's kernels; each must fail the quick test below."""

CHECK = "interpreted/test_glu_depthwise_triton.py::test_launchers_match_the_loop_with_tiles_that_stick_out"
MUTANTS = {
    "forgets the mask of channels": ("(lane[None, :] < c) & (half < 2)", "(lane[None, :] < 2 * c) & (half < 2)"),
    "reads the line after the frame": ("(line >= 0) & (line < across)", "(line >= 0) & (line < across + 1)"),
    "swaps value and gate": (
        "tl.join(dout * gate * s, dout * value * s * (1 + gate * (1 - s)))",
        "tl.join(dout * value * s * (1 + gate * (1 - s)), dout * gate * s)",
    ),
    "correlates where it must convolve": (
        "da_begun[r] + taps[7] * dz[r] + taps[4] * dz[r + 1] + taps[1] * dz[r + 2]",
        "da_begun[r] + taps[1] * dz[r] + taps[4] * dz[r + 1] + taps[7] * dz[r + 2]",
    ),
    "takes the taps along lines for those across": ("(3, 1) if march.over_height else (1, 3)", "(3, 1)"),
    "stores the first column too early": ("(channel * 0 + j > 1)", "(channel * 0 + j > 0)"),
}
