"""Middle of Mix-FFN: SiLU, depthwise 3x3 convolution on the token grid, gate by SiLU; channels last throughout."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend_choice import FLOAT16_MAX, check_same, register, through_operator, triton_problem, use_triton
from .errors import ShapeError

SLICE = 2**24  # elements of half-precision input that the torch backend widens to float32 at a time


def glu_depthwise(
    u: Tensor, weight: Tensor, bias: Tensor | None, *, grid: tuple[int, int], kernels: str = "auto"
) -> Tensor:
    """Gate one half of a depthwise convolution by the other: value · silu(gate), (value, gate) = conv(silu(u)) + bias.

    u: (m, h·w, 2c), frames of tokens row by row, channels last; the first c channels become values, the rest gates.
    weight: (2c, 1, 3, 3). bias: (2c,) or None. grid: (h, w). kernels: "auto", "torch" or "triton".
    The picture is padded by zeros; silu(0) = 0, so padding before or after SiLU is the same.
    Returns (m, h·w, c) in u's dtype, contiguous; sums are float32 (float64 for float64 u), float16 saturates.
    Raises ShapeError for shapes that do not fit, ConfigError for `kernels` that cannot run.
    Source: GLUMBConv, SANA (arXiv 2410.10629) section 2.3, between its two pointwise convolutions.
    """
    _check(u, weight, bias, grid)
    if not use_triton(kernels, u, weight, bias):
        return glu_depthwise_torch(u, weight, bias, grid=grid)
    if through_operator(u, weight, bias):
        return _operator(u, weight, bias, *grid)
    from ._triton.glu_depthwise import glu_depthwise_triton

    return glu_depthwise_triton(u, weight, bias, grid=grid)


def glu_depthwise_torch(u: Tensor, weight: Tensor, bias: Tensor | None, *, grid: tuple[int, int]) -> Tensor:
    """The torch backend, any dtype. Half precision is widened a few frames at a time."""
    compute = torch.float64 if u.dtype == torch.float64 else torch.float32
    frames = u.shape[0] if u.dtype == compute else SLICE // (u.shape[1] * u.shape[2])
    with _no_autocast(u.device):
        weight, bias = weight.to(compute), None if bias is None else bias.to(compute)
        parts = [_stored(_middle(part.to(compute), weight, bias, grid), u.dtype) for part in u.split(max(1, frames))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _middle(u: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]) -> Tensor:
    value, gate = _convolved(F.silu(u), weight, bias, grid).chunk(2, dim=-1)
    return value * F.silu(gate)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """Depthwise 3x3 of (m, h·w, 2c); the convolution sees a view whose channels come last in memory."""
    return _tokens(F.conv2d(_picture(x, grid), weight, bias, padding=1, groups=weight.shape[0]))


def _picture(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return x.unflatten(1, grid).permute(0, 3, 1, 2)  # (m, 2c, h, w)


def _tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)  # (m, h·w, 2c)


def _stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16:
        x = x.clamp(-FLOAT16_MAX, FLOAT16_MAX)
    return x.to(dtype).contiguous()


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Sums stay float32 where a caller turned autocast on; it does not know the meta device."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _check(u: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]) -> None:
    if u.ndim != 3 or u.shape[2] < 2 or u.shape[2] % 2:
        raise ShapeError(f"u is {tuple(u.shape)}; it must be (m, h·w, 2c), values and gates side by side")
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != u.shape[1]:
        raise ShapeError(f"grid is {tuple(grid)} for {u.shape[1]} tokens; it must be (h, w) with h·w tokens")
    channels = u.shape[2]
    if weight.shape != (channels, 1, 3, 3):
        raise ShapeError(f"weight is {tuple(weight.shape)}; {channels} channels need ({channels}, 1, 3, 3)")
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"bias is {tuple(bias.shape)}; {channels} channels need ({channels},)")
    for name, tensor in (("u", u), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise ShapeError(f"{name} is {tensor.dtype}; it must be a floating-point tensor")
    check_same(u=u, weight=weight, bias=bias)


def glu_depthwise_bytes(m: int, grid: tuple[int, int], c: int, itemsize: int, *, biased: bool = True) -> int:
    """Bytes the Triton backend loads and stores for u (m, h·w, 2c), weights of the same item size.

    Lines next to a block count for each program that reads them, and weights for each program, caches or not.
    """
    from ._triton.glu_depthwise_plan import launch_options, plan

    march = plan(*grid, launch_options("forward", torch.bfloat16, 0)["BLOCK"])
    return m * itemsize * (
        march.lines_read * march.along * 2 * c + march.blocks * (9 + biased) * 2 * c + grid[0] * grid[1] * c
    )  # fmt: skip


def _input_gradient_torch(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]
) -> Tensor:
    """Gradient of u, as formulas: an operator's body knows no autograd."""
    _, slope, dz = _recomputed(dout, u, weight, bias, grid)
    return _stored(_convolved(dz, weight.to(dz.dtype).flip(2, 3), None, grid) * slope, u.dtype)


def _weight_gradient_torch(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias, float32 (float64 for float64 u)."""
    a, _, dz = _recomputed(dout, u, weight, bias, grid)
    dweight = torch.nn.grad.conv2d_weight(
        _picture(a, grid), weight.shape, _picture(dz, grid), padding=1, groups=weight.shape[0]
    )
    return dweight.contiguous(), dz.sum((0, 1))


def _recomputed(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(silu(u), silu'(u), gradient of the convolution's output), all (m, h·w, 2c)."""
    compute = torch.float64 if u.dtype == torch.float64 else torch.float32
    u, dout, weight = u.to(compute), dout.to(compute), weight.to(compute)
    a = F.silu(u)
    value, gate = _convolved(a, weight, None if bias is None else bias.to(compute), grid).chunk(2, dim=-1)
    dz = torch.cat((dout * F.silu(gate), dout * value * _silu_slope(gate)), dim=-1)
    return a, _silu_slope(u), dz


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _forward(u: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
    """Body of the operator; a graph traced for a card also runs where there is none."""
    if triton_problem(u.device):
        return glu_depthwise_torch(u, weight, bias, grid=(height, width))
    from ._triton.glu_depthwise import glu_depthwise_triton

    return glu_depthwise_triton(u, weight, bias, grid=(height, width))


def _input_gradient(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int
) -> Tensor:
    if triton_problem(u.device):
        return _input_gradient_torch(dout, u, weight, bias, (height, width))
    from ._triton.glu_depthwise import glu_depthwise_input_gradient_triton

    return glu_depthwise_input_gradient_triton(dout, u, weight, bias, grid=(height, width))


def _weight_gradient(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int
) -> tuple[Tensor, Tensor]:
    if triton_problem(u.device):
        return _weight_gradient_torch(dout, u, weight, bias, (height, width))
    from ._triton.glu_depthwise import glu_depthwise_weight_gradient_triton

    return glu_depthwise_weight_gradient_triton(dout, u, weight, bias, grid=(height, width))


def _remember(ctx, inputs, output) -> None:
    u, weight, bias, height, width = inputs
    ctx.save_for_backward(u, weight, bias)
    ctx.grid = (height, width)


def _backward(ctx, dout: Tensor) -> tuple:
    u, weight, bias = ctx.saved_tensors
    of_u, of_weight, of_bias = ctx.needs_input_grad[:3]
    du = dweight = dbias = None
    if of_u:
        du = _input_gradient_operator(dout, u, weight, bias, *ctx.grid)
    if of_weight or of_bias:
        dweight, dbias = _weight_gradient_operator(dout, u, weight, bias, *ctx.grid)
        dweight = dweight.to(weight.dtype) if of_weight else None
        dbias = dbias.to(bias.dtype) if of_bias else None
    return du, dweight, dbias, None, None


_input_gradient_operator = register(
    "glu_depthwise_input_gradient", _input_gradient,
    fake=lambda dout, u, weight, bias, height, width: u.new_empty(u.shape),
)  # fmt: skip
_weight_gradient_operator = register(
    "glu_depthwise_weight_gradient", _weight_gradient,
    fake=lambda dout, u, weight, bias, height, width: (
        u.new_empty(weight.shape, dtype=torch.float32), u.new_empty(weight.shape[:1], dtype=torch.float32)
    ),
)  # fmt: skip
_operator = register(
    "glu_depthwise", _forward,
    fake=lambda u, weight, bias, height, width: u.new_empty((u.shape[0], u.shape[1], u.shape[2] // 2)),
    backward=_backward, setup_context=_remember,
)  # fmt: skip
