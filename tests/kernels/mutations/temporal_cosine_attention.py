"""Temporal 1 + cos attention, spoilt one line at a time; the quick tests that must notice."""

TESTS = "interpreted/test_temporal_cosine_attention_triton.py"
CHECK = f"{TESTS}::test_result_and_gradients_are_as_good_as_torch[13-1-3-24-fp16]"
LONG = f"{TESTS}::test_result_and_gradients_are_as_good_as_torch[70-1-5-6-fp16]"

MUTANTS = {
    "reads frames beyond the last": (
        "mask = (frames < t)[:, None, None] & (heads",
        "mask = (frames < T)[:, None, None] & (heads",
    ),
    "swaps cosine and sine": (
        "tl.join(even * cos - odd * sin, odd * cos + even * sin)",
        "tl.join(even * sin - odd * cos, odd * sin + even * cos)",
    ),
    "counts padded frames in the denominator": (
        "weight = tl.maximum(t + tl.sum(",
        "weight = tl.maximum(T + tl.sum(",
    ),
    "forgets that a unit vector's gradient has no part along it": (
        "return (grad - unit * along[:, :, None]) *",
        "return grad *",
    ),
    "forgets the denominator's gradient": (
        "_balance((slope - along[:, :, None]) *",
        "_balance(slope *",
    ),
    "gives all samples the first one's positions": (
        "sizes.append(cos.stride(0) if cos.shape[0] > 1 else 0)",
        "sizes.append(0)",
        f"{TESTS}::test_positions_may_differ_per_row_and_be_stretched[5]",
    ),
    "computes addresses in 32 bits": (
        "frames.to(tl.int64)[:, None, None] * stride_t",
        "frames[:, None, None] * stride_t",
        f"{TESTS}::test_addresses_beyond_two_to_the_31_are_reached[direct-t]",
    ),
    "forgets the sum of values in the linear algorithm": (
        "(mixed + value_sum[None, :, :]) /",
        "mixed /",
        LONG,
    ),
    "leaves the last chunk out of the sums": (
        "for start in range(0, t, CHUNK):",
        "for start in range(0, t - CHUNK, CHUNK):",
        LONG,
    ),
    "forgets the gradient of the keys' sum in the linear algorithm": (
        "tl.permute(slope, (1, 0, 2)) + key_sum[None, :, :]",
        "tl.permute(slope, (1, 0, 2))",
        LONG,
    ),
}
