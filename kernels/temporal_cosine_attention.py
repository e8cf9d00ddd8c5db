"""Temporal attention with the weights 1 + cos(q, k), rotary positions, in linear or direct form."""

import torch
from torch import Tensor

# Multiply-adds per site and head: linear 2·t·dh·(dh+1), direct 2·t²·dh; they meet at t = dh + 1.
FORMS = ("auto", "linear", "direct")


def rotary_angles(positions: Tensor, dh: int, *, theta: float = 10000.0) -> Tensor:
    """Angles position · theta^(-2i/dh) for i < dh/2, float64 where the device has it.

    positions (..., t) -> (..., t, dh/2).
    """
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    index = torch.arange(0, dh, 2, device=positions.device, dtype=precise)
    return positions.to(precise).unsqueeze(-1) * theta ** (-index / dh)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i+1) of x (..., dh) by angles given as cosine and sine (..., dh/2)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def choose_form(num_frames: int, dh: int) -> str:
    """The cheaper of the two equal forms by multiply-adds."""
    return "linear" if num_frames > dh + 1 else "direct"


def temporal_cosine_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, *, form: str = "auto", positions: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Plain torch form, any dtype; sums are float32 (float64 for float64 inputs)."""
    num_frames, dh = q.shape[1], q.shape[-1]
    if num_frames == 1:
        return v
    compute = torch.float64 if v.dtype == torch.float64 else torch.float32
    if positions is None:
        positions = torch.arange(num_frames, device=q.device)
    angles = rotary_angles(positions.reshape(-1, 1, 1, num_frames), dh)
    cos, sin = (table.to(compute) for table in (angles.cos(), angles.sin()))  # (b or 1, 1, 1, t, dh/2)
    with torch.autocast(v.device.type, enabled=False):
        query, key, value = (x.permute(0, 2, 3, 1, 4).to(compute) for x in (q, k, v))  # (b, s, nh, t, dh)
        query, key = (
            rotate_pairs(torch.nn.functional.normalize(x, dim=-1, eps=1e-12), cos, sin) for x in (query, key)
        )
        chosen = choose_form(num_frames, dh) if form == "auto" else form
        if chosen == "direct":
            weight = 1 + query @ key.transpose(-1, -2)  # (b, s, nh, t, t)
            out = (weight @ value) / weight.sum(-1, keepdim=True).clamp_min(eps)
        else:
            state = key.transpose(-1, -2) @ value  # (b, s, nh, dh, dv)
            key_sum = key.sum(-2).unsqueeze(-1)
            numerator = value.sum(-2, keepdim=True) + query @ state
            out = numerator / (num_frames + query @ key_sum).clamp_min(eps)
    return out.permute(0, 3, 1, 2, 4).to(v.dtype).contiguous()


def temporal_cosine_attention(
    q: Tensor, k: Tensor, v: Tensor, *, form: str = "auto", positions: Tensor | None = None
) -> Tensor:
    """Mix the frames of one site with the weights 1 + q̂·k̂, hats unit length and rotated by frame index.

    q, k, v: (b, t, s, nh, dh), mixed along t for each site s. positions: (t,) or (b, t) frame indices, default
    0..t-1. form: "linear", "direct" (t x t weights) or "auto", the cheaper; they agree to rounding.
    Returns (b, t, s, nh, dh) in v's dtype. One frame returns v itself. The denominator is clamped at 1e-6.
    Source: MiraMo (arXiv 2508.07246) Eq. 8-9; rotation in numerator and denominator.
    """
    return temporal_cosine_attention_torch(q, k, v, form=form, positions=positions)
