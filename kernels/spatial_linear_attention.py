"""Spatial ReLU linear attention: every token sees every other token, in time linear in their number."""

import torch
from torch import Tensor

FLOAT16_MAX = 65504.0


def spatial_linear_attention_torch(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """Plain torch form, any dtype; sums are float32 (float64 for float64 inputs)."""
    compute = torch.float64 if v.dtype == torch.float64 else torch.float32
    with torch.autocast(v.device.type, enabled=False):
        query, key, value = (x.to(compute).transpose(1, 2) for x in (q, k, v))  # (b, nh, n, dh)
        query, key = torch.relu(query), torch.relu(key)
        state = key.transpose(-1, -2) @ value  # (b, nh, dh, dv)
        key_sum = key.sum(dim=-2).unsqueeze(-1)  # (b, nh, dh, 1)
        out = (query @ state) / (query @ key_sum + eps)
    out = out.transpose(1, 2)
    if v.dtype == torch.float16:
        out = out.clamp(-FLOAT16_MAX, FLOAT16_MAX)
    return out.to(v.dtype)


def spatial_linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """Mix tokens with the weights relu(q)·relu(k), normalised over the keys; no 1/sqrt(dh).

    q, k, v: (b, n, nh, dh). Returns (b, n, nh, dh) in v's dtype.
    Source: SANA's ReLU linear attention, MiraMo (arXiv 2508.07246) Eq. 5-6; eps is added to the denominator.
    """
    return spatial_linear_attention_torch(q, k, v, eps=eps)
