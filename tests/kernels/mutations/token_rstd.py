"""The tokens' reciprocal root mean square, spoilt one line at a time; the quick tests that must notice."""

TESTS = "interpreted/test_token_rstd_triton.py"
CHECK = f"{TESTS}::test_equals_the_definition[shape2-dtype0]"

MUTANTS = {
    "forgets the tail": ("_total(head * head, tail * tail, D1)", "_total(head * head, tail * tail, 0)"),
    "walks past the last token": ("tl.minimum(first + CHUNK, m * n)", "first + CHUNK"),
    "takes all tokens from the first sample": ("(token // n) * x_stride_m + ", ""),
    "forgets a power of the root in the gradient": (
        "* r * r * r * INVERSE",
        "* r * r * INVERSE",
        f"{TESTS}::test_gradients_equal_the_definition[shape0-dtype0]",
    ),
}
