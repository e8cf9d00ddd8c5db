"""Joint linear attention in Triton, interpreted: forward, backward, rotation, norms, splits, addresses, traffic."""

import math

import pytest
import torch
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, relative_error, strided
from pack.kernels import joint_linear_attention as op
from pack.kernels._triton import joint_linear_attention as launchers
from pack.kernels.errors import ShapeError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
GRID = (2, 3, 7)


def make(b, n, nh, dh, dtype=torch.float32, seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, n, nh, dh, generator=generator).to(dtype) for _ in range(count)]


def make_scale(b, n, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(b, n, generator=generator) + 0.5, torch.randn(width, generator=generator)


def turn(x, rotary):
    """Rotate x (b, n, nh, dh) in float64 with angles computed here, axis by axis."""
    frames, height, width, _ = rotary
    side = 2 * (x.shape[-1] // 6)
    place = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in (frames, height, width)))
    angles = [
        place[:, axis : axis + 1] * 10000.0 ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
        for axis, features in enumerate((x.shape[-1] - 2 * side, side, side))
    ]
    angle = torch.cat(angles, dim=-1)[:, None]  # (n, 1, dh/2)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack(
        (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()), dim=-1
    ).flatten(-2)


def truth_of(q, k, v, rotary=None, q_scale=None, k_scale=None, eps=1e-15):
    """All pairs at once, in float64, differentiable."""

    def features(x, scale):
        x = x.double()
        if scale is not None:
            x = x * scale[0].double()[..., None, None] * scale[1].double().view(x.shape[2:])
        return torch.relu(x)

    q, k = features(q, q_scale), features(k, k_scale)
    below = torch.einsum("bnhd,bmhd->bhnm", q, k).sum(-1) + eps
    if rotary is not None:
        q, k = turn(q, rotary), turn(k, rotary)
    weight = torch.einsum("bnhd,bmhd->bhnm", q, k) / below[..., None]
    return torch.einsum("bhnm,bmhd->bnhd", weight, v.double())


def both(given, options):
    with poisoned():
        out = op.joint_linear_attention(*given, **options, kernels="triton")
    return out, op.joint_linear_attention_torch(*given, **options)


@pytest.mark.parametrize(
    "n, dh, dtype",
    [(n, dh, torch.float32) for n, dh in ((1, 32), (15, 15), (63, 32), (250, 48))]
    + [(100, 112, dtype) for dtype in DTYPES] + [(1399, 32, torch.bfloat16)],
)  # fmt: skip
def test_forward_is_as_good_as_torch(n, dh, dtype):
    given = [strided(x) for x in make(1, n, 2, dh, dtype)]
    out, plain = both(given, {})
    assert out.is_contiguous()
    assert_as_good_as_torch(out, plain, truth_of(*given))


@pytest.mark.parametrize("dh, dtype", [(20, torch.float32), (20, torch.float16), (112, torch.bfloat16)])
def test_rotation_and_norms_are_as_good_as_torch(dh, dtype):
    n = math.prod(GRID)
    given = [strided(x) for x in make(2, n, 2, dh, dtype)]
    options = {
        "rotary": op.axis_rotary(dh, *GRID), "q_scale": make_scale(2, n, 2 * dh, 1),
        "k_scale": make_scale(2, n, 2 * dh, 2),
    }  # fmt: skip
    out, plain = both(given, options)
    assert_as_good_as_torch(out, plain, truth_of(*given, **options))


def small_tiles(monkeypatch, block=16, programs=3):
    """Several tiles a row and several programs a state, as long sequences have them."""
    options = {"BLOCK": block, "num_warps": 1, "num_stages": 1}
    monkeypatch.setattr(launchers, "launch_options", lambda *_: dict.fromkeys(("state", "output", "gradient"), options))
    monkeypatch.setattr(launchers, "state_programs", lambda *_: programs)
    monkeypatch.setattr(launchers, "output_programs", lambda *_: programs)


def test_many_tiles_and_programs_with_rotation_and_norms(monkeypatch):
    """All that the kernels can do in one quick case: the one that has to catch planted mistakes."""
    small_tiles(monkeypatch)
    check_backward(torch.float32, 1, (2, 2, 20), 12, rotated=True, scaled=True)


@pytest.mark.parametrize(
    "n, dh, dtype",
    [(1, 16, torch.float32), (250, 112, torch.float32)] + [(63, 32, dtype) for dtype in DTYPES]
    + [(15, 112, torch.float16)],  # the one case whose d(v) has a launch of its own
)  # fmt: skip
def test_backward_is_as_good_as_torch(n, dh, dtype):
    check_backward(dtype, 1, (1, 1, n), dh, rotated=False, scaled=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_through_rotation_and_norms_is_as_good_as_torch(dtype):
    check_backward(dtype, 1, GRID, 112, rotated=True, scaled=True)


def check_backward(dtype, b, grid, dh, rotated, scaled, nh=2):
    n = math.prod(grid)
    given = [strided(x).requires_grad_() for x in make(b, n, nh, dh, dtype)]
    grad = strided(make(b, n, nh, dh, dtype, seed=9)[0])
    options = {"rotary": op.axis_rotary(dh, *grid)} if rotated else {}
    leaves = list(given)
    if scaled:
        for name, seed in (("q_scale", 1), ("k_scale", 2)):
            options[name] = tuple(x.requires_grad_() for x in make_scale(b, n, nh * dh, seed))
            leaves += options[name]
    with poisoned():
        out = op.joint_linear_attention(*given, **options, kernels="triton")
        ours = torch.autograd.grad(out, leaves, grad)
    plain = torch.autograd.grad(op.joint_linear_attention_torch(*given, **options), leaves, grad)
    wide = [x.detach().double().requires_grad_() for x in leaves]  # else truth would be rounded as the leaves are
    names = list(options)[len(options) - (len(leaves) - 3) // 2 :]
    exact = truth_of(*wide[:3], **{**options, **dict(zip(names, (wide[3:5], wide[5:7])))})
    assert_as_good_as_torch(out, op.joint_linear_attention_torch(*given, **options), exact)
    truth = torch.autograd.grad(exact, wide, grad.double())
    for place, (one, other, right) in enumerate(zip(ours, plain, truth)):
        if place == 3:  # out does not change with the length of q: this gradient is zero but for rounding
            assert one.abs().max() <= 1e-3
        else:
            assert_as_good_as_torch(one, other, right, floor=2e-6)


def test_splits_agree_and_repeat_bit_by_bit(monkeypatch):
    """Seven partial states instead of one, added in order: equal to rounding, and the same bits every time."""
    q, k, v = make(1, 200, 1, 16)
    once = op.joint_linear_attention(q, k, v, kernels="triton")
    small_tiles(monkeypatch, programs=7)
    with counted_bytes() as moved:
        split = [op.joint_linear_attention(q, k, v, kernels="triton") for _ in range(2)]
    assert moved.launches == 6  # states, their sum, outputs; twice
    assert torch.equal(*split) and relative_error(split[0], once) < 1e-6


def test_tiles_end_with_the_rows_of_the_grid():
    """Rows of 130 places need two tiles of 128, the second nearly empty; a flat walk would rotate it wrongly."""
    given, options = make(1, 2 * 130, 1, 12), {"rotary": op.axis_rotary(12, 1, 2, 130)}
    out, plain = both(given, options)
    assert_as_good_as_torch(out, plain, truth_of(*given, **options))


def test_one_frame_without_rows_and_empty_batches():
    assert op.joint_linear_attention(*make(0, 5, 2, 16), kernels="triton").shape == (0, 5, 2, 16)
    q, k, v = (x.requires_grad_() for x in make(2, 0, 2, 16))
    op.joint_linear_attention(q, k, v, kernels="triton").sum().backward()
    assert q.grad.shape == (2, 0, 2, 16)


def test_mixed_types_give_the_type_of_v():
    q, k, v = make(1, 20, 1, 16)
    out = op.joint_linear_attention(q.bfloat16(), k, v.half(), kernels="triton")
    assert out.dtype == torch.float16
    assert relative_error(out, truth_of(q.bfloat16(), k, v.half())) < 1e-3


def test_columns_that_do_not_lie_together_are_copied_first():
    q, k, v = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in make(1, 20, 3, 16))
    assert_as_good_as_torch(*both((q, k, v), {}), truth_of(q, k, v))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_large_values_stay_finite_at_75600_tokens(monkeypatch, dtype):
    """Sums of that many products would leave float16, and float32's at 1e35 too; each is kept the size of one share."""
    small_tiles(monkeypatch, block=8192, programs=2)
    size = 200.0 if dtype == torch.float16 else 3e17
    q, k, v = make(1, 75_600, 1, 16)
    q, k, v = q.to(dtype), (k.abs() * size).to(dtype), ((v.abs() + 1) * size).to(dtype)
    out = op.joint_linear_attention(q, k, v, kernels="triton")
    query, key = torch.relu(q.double()), k.double()
    state = torch.einsum("bnhd,bnhe->bhde", key, v.double())
    truth = torch.einsum("bnhd,bhde->bnhe", query, state) / torch.einsum("bnhd,bhd->bnh", query, key.sum(1))[..., None]
    live = torch.isfinite(truth)
    assert torch.isfinite(out).all()
    assert relative_error(out[live], truth[live]) < (1e-3 if dtype == torch.float16 else 1e-6)


def test_float16_results_saturate():
    q, k, v = make(1, 30, 1, 16, torch.float16)
    q = -q.abs()
    q[..., 0], k[:, 1:, :, 0] = 1e-3, 0.0
    k[:, 0, :, 0], v[:, 0] = 1e-3, 6e4
    out = op.joint_linear_attention(q, k, v, kernels="triton")
    assert torch.isfinite(out).all() and out.max() >= 5.9e4


def test_queries_without_a_match_have_zero_gradients():
    q, k, v = make(1, 20, 1, 16)
    q[:, 3] = -1.0
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = op.joint_linear_attention(q, k, v, kernels="triton")
    out.sum().backward()
    assert not out[:, 3].any() and not q.grad[:, 3].any()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_addresses_beyond_two_to_the_31_are_reached():
    """Three tokens, each 2^30 + 16 elements after the other, in memory that is never touched elsewhere."""
    step = 2**30 + 16
    base = torch.empty(3, 2 * step + 64, dtype=torch.bfloat16)
    q, k, v = (row.as_strided((1, 3, 1, 16), (0, step, 16, 1)) for row in base)
    small = make(1, 3, 1, 16, torch.bfloat16)
    for view, values in zip((q, k, v), small):
        view.copy_(values)
    out = op.joint_linear_attention(q, k, v, kernels="triton")
    assert torch.equal(out, op.joint_linear_attention(*small, kernels="triton"))
    grads = launchers.joint_linear_attention_backward_triton(
        small[0], q, k, v, launchers.attend(q, k, v, eps=1e-15)[1], eps=1e-15
    )
    assert all(torch.isfinite(x).all() for x in grads[:3])


def test_declared_bytes_are_the_bytes_that_are_moved():
    b, n, nh, dh = 1, 512, 1, 16
    given = [x.requires_grad_() for x in make(b, n, nh, dh)]
    with counted_bytes() as forward:
        out = op.joint_linear_attention(*given, kernels="triton")
    assert forward.total == op.joint_linear_attention_bytes(b, n, nh, dh, 4, processors=4) and forward.launches == 3
    with counted_bytes() as backward:
        out.backward(make(b, n, nh, dh, seed=3)[0])
    declared = op.joint_linear_attention_bytes(b, n, nh, dh, 4, processors=4, backward=True)
    assert backward.total == declared and backward.launches == 4


def test_norms_and_tables_add_little_traffic():
    n, dh = 256, 16
    q, k, v = make(1, n, 1, dh)
    scales = {"q_scale": make_scale(1, n, dh, 1), "k_scale": make_scale(1, n, dh, 2)}
    with counted_bytes() as moved:
        op.joint_linear_attention(q, k, v, **scales, kernels="triton")
    declared = op.joint_linear_attention_bytes(1, n, 1, dh, 4, scaled=True, processors=4)
    assert 0 <= moved.total - declared <= 2 * (n // 128) * dh * 4  # the weight row, once a tile


def test_wide_heads_are_refused_when_triton_is_named_and_take_torch_otherwise():
    q, k, v = make(1, 3, 1, 130)
    with pytest.raises(ShapeError, match="130 features; the Triton backend takes 128"):
        op.joint_linear_attention(q, k, v, kernels="triton")
    assert torch.equal(op.joint_linear_attention(q, k, v), op.joint_linear_attention_torch(q, k, v))


@pytest.mark.slow
def test_operators_pass_torchs_own_checks():
    n, dh = math.prod((1, 2, 3)), 4
    q, k, v = (x.requires_grad_() for x in make(1, n, 1, dh))
    rotary = op.axis_rotary(dh, 1, 2, 3)
    scale = [x.requires_grad_() for x in make_scale(1, n, dh, 1)]
    torch.library.opcheck(
        torch.ops.motionblocks.joint_linear_attention.default,
        (q, k, v, rotary.table, *rotary[:3], *scale, *scale, 1e-15),
    )
    torch.library.opcheck(
        torch.ops.motionblocks.joint_linear_attention.default, (q, k, v, None, 0, 0, 0, None, None, None, None, 1e-15)
    )


def test_eps_carries_the_factor_of_the_state():
    given = make(1, 60, 1, 16)
    assert_as_good_as_torch(*both(given, {"eps": 50.0}), truth_of(*given, eps=50.0))
