"""Joint linear attention in torch: against a pairwise float64 loop, SANA-Video's public code, and at full length."""

import math

import pytest
import torch
from pack.kernels import joint_linear_attention as op
from pack.kernels.errors import ConfigError, ShapeError

GRID = (2, 3, 4)


def make(b, n, nh, dh, seed=0, dtype=torch.float32, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, n, nh, dh, generator=generator).to(dtype) for _ in range(count)]


def make_scale(b, n, width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(b, n, generator=generator) + 0.5, torch.randn(width, generator=generator)


def naive_rotation(x, grid, theta=10000.0):
    """Rotate each token of x (b, n, nh, dh) by its frame, row and column, one pair at a time, in float64."""
    frames, height, width = grid
    dh = x.shape[-1]
    side = 2 * (dh // 6)
    pairs = [(0, i, dh - 2 * side) for i in range(dh // 2 - side)]
    pairs += [(axis, i, side) for axis in (1, 2) for i in range(side // 2)]
    out = x.double().clone()
    for token in range(frames * height * width):
        place = (token // (height * width), token // width % height, token % width)
        for pair, (axis, i, features) in enumerate(pairs):
            angle = place[axis] * theta ** (-2 * i / features)
            even, odd = x[:, token, :, 2 * pair].double(), x[:, token, :, 2 * pair + 1].double()
            out[:, token, :, 2 * pair] = even * math.cos(angle) - odd * math.sin(angle)
            out[:, token, :, 2 * pair + 1] = even * math.sin(angle) + odd * math.cos(angle)
    return out


def naive(q, k, v, grid=None, q_scale=None, k_scale=None, eps=1e-15):
    def scaled(x, scale):
        x = x.double()
        return x if scale is None else x * scale[0].double()[..., None, None] * scale[1].double().view(x.shape[2:])

    q, k, v = torch.relu(scaled(q, q_scale)), torch.relu(scaled(k, k_scale)), v.double()
    turned_q, turned_k = (q, k) if grid is None else (naive_rotation(q, grid), naive_rotation(k, grid))
    out = torch.zeros_like(v)
    for i in range(q.shape[1]):
        above = (turned_q[:, i : i + 1] * turned_k).sum(-1, keepdim=True)  # (b, n, nh, 1)
        below = (q[:, i : i + 1] * k).sum(-1, keepdim=True)
        out[:, i] = (above * v).sum(1) / (below.sum(1) + eps)
    return out


@pytest.mark.parametrize("n", [1, 15, 63, 100])
def test_equals_the_pairwise_loop(n):
    q, k, v = make(2, n, 3, 16)
    assert torch.allclose(op.joint_linear_attention(q, k, v).double(), naive(q, k, v), atol=1e-5)


@pytest.mark.parametrize("dh", [2, 16, 32, 112])
def test_rotation_and_norms_equal_the_pairwise_loop(dh):
    q, k, v = make(2, math.prod(GRID), 2, dh)
    scales = {"q_scale": make_scale(2, math.prod(GRID), 2 * dh), "k_scale": make_scale(2, math.prod(GRID), 2 * dh, 2)}
    out = op.joint_linear_attention(q, k, v, rotary=op.axis_rotary(dh, *GRID), **scales)
    truth = naive(q, k, v, GRID, **scales)
    assert (out.double() - truth).norm() <= 1e-5 * truth.norm()


def test_several_pieces_of_frames_equal_one(monkeypatch):
    q, k, v = make(1, math.prod((5, 3, 4)), 2, 12)
    rotary = op.axis_rotary(12, 5, 3, 4)
    whole = op.joint_linear_attention(q, k, v, rotary=rotary)
    monkeypatch.setattr(op, "CHUNK", 25)  # two frames of twelve tokens
    assert torch.allclose(op.joint_linear_attention(q, k, v, rotary=rotary), whole, atol=1e-6)
    assert torch.allclose(op.joint_linear_attention(q, k, v).double(), naive(q, k, v), atol=1e-5)


@pytest.mark.slow  # importing diffusers
def test_equals_the_processor_of_the_public_code():
    """diffusers' SANA-Video: full-width norms, ReLU, rotation of the numerator only, at a tiny size in float64."""
    video = pytest.importorskip("diffusers.models.transformers.transformer_sana_video")
    from diffusers.models.attention_processor import Attention

    heads, dh, width = 2, 28, 56
    torch.manual_seed(0)
    layer = Attention(
        query_dim=width, heads=heads, dim_head=dh, kv_heads=heads, qk_norm="rms_norm_across_heads", dropout=0.0,
        bias=False, out_bias=True, processor=video.SanaLinearAttnProcessor3_0(),
    ).float()  # fmt: skip
    tokens = torch.randn(2, math.prod(GRID), width)
    for norm in (layer.norm_q, layer.norm_k):
        torch.nn.init.normal_(norm.weight, mean=1.0)
    table = video.WanRotaryPosEmbed(dh, (1, 1, 1), 16)(torch.zeros(1, 1, *GRID))
    with torch.no_grad():
        theirs = layer(tokens, rotary_emb=table)
        q, k, v = (linear(tokens) for linear in (layer.to_q, layer.to_k, layer.to_v))

        def scale(x, norm):
            return torch.rsqrt(x.square().mean(-1) + norm.eps), norm.weight

        ours = op.joint_linear_attention(
            *(x.unflatten(-1, (heads, dh)) for x in (q, k, v)), rotary=op.axis_rotary(dh, *GRID),
            q_scale=scale(q, layer.norm_q), k_scale=scale(k, layer.norm_k),
        )  # fmt: skip
        ours = layer.to_out[0](ours.flatten(2))
    assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


def test_rotation_of_a_single_place_changes_nothing():
    q, k, v = make(1, 1, 2, 12)
    turned = op.joint_linear_attention(q, k, v, rotary=op.axis_rotary(12, 1, 1, 1))
    assert torch.equal(turned, op.joint_linear_attention(q, k, v))


def test_tables_are_kept_by_axis():
    rotary = op.axis_rotary(112, 21, 30, 52)
    assert rotary.table.shape == (2, 21 + 30 + 52, 56) and rotary.table.dtype == torch.float32
    assert not rotary.table[:, :21, 20:].any() and not rotary.table[:, 21:51, 38:].any()
    assert rotary.table[0, 1, 0].item() == pytest.approx(math.cos(1.0), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_large_values_stay_finite_at_75600_tokens(dtype):
    """Sums of that many products would leave float16, and float32's at 1e17 too; each is kept the size of one share."""
    size = 200.0 if dtype == torch.float16 else 3e17
    q, k, v = make(1, 75_600, 1, 4, dtype=torch.float32)
    q, k, v = q.to(dtype), (k.abs() * size).to(dtype), ((v.abs() + 1) * size).to(dtype)
    out = op.joint_linear_attention(q, k, v, rotary=op.axis_rotary(4, 21, 45, 80), kernels="torch")
    state = torch.relu(k.double()).sum(1)  # (1, 1, 4): without rotation the truth is short
    plain = op.joint_linear_attention(q, k, v, kernels="torch")
    product = torch.einsum("bnhd,bnhe->bhde", torch.relu(k.double()), v.double())
    above = torch.einsum("bnhd,bhde->bnhe", torch.relu(q.double()), product)
    below = torch.einsum("bnhd,bhd->bnh", torch.relu(q.double()), state).unsqueeze(-1) + 1e-15
    truth = above / below
    assert torch.isfinite(out).all() and torch.isfinite(plain).all()
    assert (plain.double() - truth).norm() <= (1e-3 if dtype == torch.float16 else 1e-6) * truth.norm()


def test_half_precision_storage_sums_in_float32():
    q, k, v = make(1, 400, 2, 8, dtype=torch.bfloat16)
    error = (op.joint_linear_attention(q, k, v).double() - naive(q, k, v)).abs().max()
    rounding = (naive(q, k, v).bfloat16().double() - naive(q, k, v)).abs().max()
    assert error <= 2 * rounding + 1e-6


def test_token_with_no_positive_match_gives_zero_not_nan():
    q, k, v = make(1, 24, 1, 12)
    out = op.joint_linear_attention(-q.abs(), k, v, rotary=op.axis_rotary(12, *GRID))
    assert torch.equal(out, torch.zeros_like(out))


def test_no_tokens_give_no_tokens():
    assert op.joint_linear_attention(*make(2, 0, 2, 16)).shape == (2, 0, 2, 16)


@pytest.mark.parametrize("rotated", [False, True])
def test_backward_formulas_equal_autograd(rotated):
    b, n, nh, dh = 2, math.prod(GRID), 2, 12
    q, k, v, grad = (x.double() for x in make(b, n, nh, dh, count=4))
    rotary = op.axis_rotary(dh, *GRID) if rotated else None
    scales = [[x.double().requires_grad_() for x in make_scale(b, n, nh * dh, seed)] for seed in (1, 2)]
    inputs = [x.requires_grad_() for x in (q, k, v)] + scales[0] + scales[1]
    out = op.joint_linear_attention_torch(q, k, v, rotary=rotary, q_scale=tuple(scales[0]), k_scale=tuple(scales[1]))
    exact = torch.autograd.grad(out, inputs, grad)
    with torch.no_grad():
        state = op._state_torch(k, v, rotary, tuple(scales[1]))
        ours = op._backward_torch(grad, q, k, v, state, rotary, tuple(scales[0]), tuple(scales[1]), 1e-15)
    for one, other in zip(ours, exact):
        assert torch.allclose(one, other, atol=1e-10)


def test_operator_runs_without_triton_and_gives_the_same_gradients():
    q, k, v = (x.requires_grad_() for x in make(1, 24, 2, 12))
    rotary = op.axis_rotary(12, *GRID)
    out = op._operator(q, k, v, rotary.table, *GRID, None, None, None, None, 1e-15)[0]
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    plain = torch.autograd.grad(op.joint_linear_attention_torch(q, k, v, rotary=rotary).square().sum(), (q, k, v))
    for one, other in zip(grads, plain):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_meta_tensors_pass_through_the_operator_with_their_shape():
    q, k, v = (torch.empty(2, 24, 3, 12, device="meta", dtype=torch.bfloat16) for _ in range(3))
    out = op.joint_linear_attention(q, k, v, kernels="triton")
    assert out.is_meta and out.shape == (2, 24, 3, 12) and out.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": torch.zeros(1, 24, 2, 6)}, r"one shape \(b, n, nh, dh\) is needed"),
        ({"rotary": op.axis_rotary(12, 2, 3, 5)}, r"24 tokens .* 2 x 3 x 5 places"),
        ({"q_scale": (torch.ones(1, 23), torch.ones(24))}, r"q_scale has shapes \(1, 23\), \(24,\); rstd \(1, 24\)"),
        ({"k_scale": (torch.ones(1, 24), torch.ones(12))}, r"k_scale .*weight \(24,\) are needed"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_sizes(change, message):
    given = {**dict(zip("qkv", make(1, 24, 2, 12))), **change}
    with pytest.raises(ShapeError, match=message):
        op.joint_linear_attention(**given)


def test_odd_heads_cannot_turn_and_unknown_forms_are_refused():
    with pytest.raises(ShapeError, match="15 features; rotation needs an even number"):
        op.axis_rotary(15, *GRID)
    with pytest.raises(ConfigError, match="auto, torch, triton"):
        op.joint_linear_attention(*make(1, 4, 1, 4), kernels="fast")


def test_states_are_split_to_fill_a_card_but_not_into_crumbs():
    assert op.state_programs(40, 75_600, 112, 132) == 7  # two samples of 20 heads, two programs a processor
    assert op.state_programs(40, 1_000, 112, 132) == 1
    assert op.state_programs(1, 10**7, 32, 132) == 32
    assert op.output_programs(40, 75_600, 112, 132) == 19  # of 4,096 tokens: 760 programs
    assert op.output_programs(1, 75_600, 112, 132) == 74  # of 1,024 tokens, never fewer


def test_declared_bytes_are_near_the_least_possible_at_full_length():
    least = 4 * 2 * 75_600 * 20 * 112 * 2
    assert least < op.joint_linear_attention_bytes(2, 75_600, 20, 112) < 1.2 * least
