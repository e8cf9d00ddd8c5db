"""Spoilt lines of the long linear attention's kernels; each must fail the quick test below."""

TESTS = "interpreted/test_joint_linear_attention_triton.py"
CHECK = f"{TESTS}::test_many_tiles_and_programs_with_rotation_and_norms"
STATES = "interpreted/test_spatial_state_triton.py::test_as_good_as_torch_forward_and_backward[float32-20]"

MUTANTS = {
    "swaps cosine and sine": (
        "return even * cos - odd * sin, even * sin + odd * cos",
        "return even * sin - odd * cos, even * cos + odd * sin",
    ),
    "rotates the gradient forwards": ("return even * cos + odd * sin, odd * cos - even * sin",
                                      "return even * cos - odd * sin, odd * cos + even * sin"),
    "lets a tile run into the next row": ("column, column < width", "column, column < width + BLOCK"),
    "leaves out the last partial state": ("for split in range(splits):", "for split in range(splits - 1):"),
    "rotates by the wrong frame": ("at_frame = row // height", "at_frame = row % height"),
    "forgets the sign of k": (
        "even, odd = _halves(tl.maximum(rows, 0.0), BLOCK, HALF)\n        if WEIGHTED:",
        "even, odd = _halves(rows, BLOCK, HALF)\n        if WEIGHTED:",
    ),
    "lets eps grow with the tokens": (
        "state, rotary=rotary, scale=q_scale, eps=eps * factor_of(n), divide=True",
        "state, rotary=rotary, scale=q_scale, eps=eps / factor_of(n), divide=True",
        f"{TESTS}::test_eps_carries_the_factor_of_the_state",
    ),
    "forgets the scale in the gradient of a state": (
        "scaled = (grad * factor_of(k.shape[1])).contiguous()", "scaled = grad.contiguous()", STATES,
    ),
    "leaves its own scale in a given state's gradient": (
        "return dq, summed / factor_of(q.shape[1])", "return dq, summed", STATES,
    ),
    "reads an expanded state as if it were dense": (
        "_outputs(_rows_last(q), state.contiguous(), rotary=None", "_outputs(_rows_last(q), state, rotary=None",
        "interpreted/test_spatial_state_triton.py::test_states_that_are_not_dense_are_taken",
    ),
}
