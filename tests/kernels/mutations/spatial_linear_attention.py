"""Spoilt spatial kernels; each must fail the quick test."""

CHECK = "interpreted/test_spatial_linear_attention_triton.py::test_as_good_as_torch_forward_and_backward"
ROUTE = "interpreted/test_spatial_linear_attention_triton.py::test_long_sequences_take_three_launches"
SPLIT = (
    "interpreted/test_spatial_linear_attention_triton.py::test_two_float16_tiles_hold_a_state_of_any_size_to_float32"
)

NO_MATCH = (
    "interpreted/test_spatial_linear_attention_triton.py::test_token_with_no_positive_match_gives_zero_and_finite_gradients"
)

MUTANTS = {
    "keys keep their sign": ("keys = _relu(tl.load(", "keys = (tl.load("),
    "queries keep their sign": ("queries = _relu(tl.load(q", "queries = (tl.load(q"),
    "heads of a group mix": (
        "sums = tl.where(same_head, sums * factor, 0.0)  # (C, C), rows k, columns v",
        "sums = sums * factor",
    ),
    "eps is left out": ("weight = _head_sums(queries * z[None, :], HB, D) + eps\n        mixed",
                        "weight = _head_sums(queries * z[None, :], HB, D)\n        mixed", NO_MATCH),
    "the last tile reads past the end": (
        "mask = (token < n)[:, None] & kept[None, :]", "mask = (token < n + BN)[:, None] & kept[None, :]"
    ),
    "a missing head is read": ("kept = (head < nh) & (within < DH)", "kept = within < DH"),
    "padded features are read": ("kept = (head < nh) & (within < DH)", "kept = head < nh"),
    "the second part of the state is lost": ("(scaled - high.to(tl.float32)).to(DOT), back",
                                             "(scaled * 0.0).to(DOT), back", SPLIT),
    "the state is not scaled back": ("mixed = _product(queries, high, low, DOT) * back / weight",
                                     "mixed = _product(queries, high, low, DOT) / weight"),
    "gradient passes where the query was cut": ("slope = tl.where(raw <= 0.0, 0.0, g / weight",
                                                "slope = tl.where(raw < -9e9, 0.0, g / weight"),
    "gradient of the denominator has the wrong sign": ("grad_weight = -_head_sums(", "grad_weight = _head_sums("),
    "gradient of the key sum is lost": ("* back + grad_z[None, :]", "* back"),
    "long sequences stay with one program": ("wide or n > LONGEST", "wide or n > 10**9", ROUTE),
}
