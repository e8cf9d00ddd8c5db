"""Gate, residual, norm and modulation, spoilt one line at a time; the quick tests that must notice."""

TESTS = "interpreted/test_gate_norm_modulate_triton.py"
CHECK = f"{TESTS}::test_narrow_tokens_are_masked[31]"
GRADIENTS = f"{TESTS}::test_backward_kernel_equals_the_formulas"

MUTANTS = {
    "forgets the tail in a token's sums": ("total += tl.sum(tail, axis=0)", "total += 0.0"),
    "reads past a token's last channel": (
        "tl.load(pointer + at, mask=mask, other=0.0)",
        "tl.load(pointer + at)",
    ),
    "counts masked channels in the variance": ("tail = tl.where(tail_kept, tail - mean, 0.0)", "tail = tail - mean"),
    "walks past a frame's last token": ("tl.minimum(first + CHUNK, n)", "first + CHUNK"),
    "gives all frames the first one's rows": ("rows.stride(1) if rows.shape[1] == frames else 0", "0"),
    "forgets what rounding left in the mean": (
        "rest = _total(head, tail, D1) * INVERSE",
        "rest = mean * 0.0",
        f"{TESTS}::test_constant_tokens_give_the_shift[12345.678]",
    ),
    "forgets that the norm removes the gradient's mean": (
        "rstd * (given - mean - head * slope)",
        "rstd * (given - head * slope)",
        GRADIENTS,
    ),
}
