"""Layers whose weights stay as a file stores them, fp8 and its scale included, and become numbers where they are used.

For networks that are frozen: of such a weight nothing but the stored numbers outlives the call, in the backward pass
as well, where they are read a second time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dequantised(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A weight in another type: times its scale, in float32, rounded once."""
    return weight.to(dtype) if scale is None else (weight.float() * scale.float().reshape(())).to(dtype)


class StoredLinear(nn.Linear):
    """A Linear that computes in the type of its input, whatever its weight is stored in.

    weight_scale: one number that the stored weight is to be multiplied by, or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.register_buffer("weight_scale", None)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) -> (…, out), in the type of x, or in autocast's."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if _autocasts(kind) else x.dtype
        if self.weight_scale is None and self.weight.dtype == dtype:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        return _StoredProduct.apply(x.to(dtype), self.weight, self.weight_scale, bias)


class StoredLayers:
    """The `operations` of a network with such weights; all but the Linears are torch's own."""

    Linear = StoredLinear
    Conv3d, LayerNorm, RMSNorm = nn.Conv3d, nn.LayerNorm, nn.RMSNorm


class _StoredProduct(torch.autograd.Function):
    """x · Wᵀ + b with the gradient of x alone. Kept for it is W as it is stored."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, dequantised(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, scale = ctx.saved_tensors
        return grad @ dequantised(weight, scale, grad.dtype), None, None, None


def _autocasts(kind: str) -> bool:
    return kind != "meta" and torch.is_autocast_enabled(kind)
