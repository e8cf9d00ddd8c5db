"""The network as it was before it had kernels, one torch operation after the other: what ours is measured against."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

CONFIGS = {  # in_channels, patch, latent height and width: 16 frames, two samples (guidance)
    "512x512 f32p1": (32, 1, 16, 16), "480x768 f32p1": (32, 1, 15, 24), "512x512 f8p2": (4, 2, 64, 64),
    "480x768 f8p2": (4, 2, 60, 96), "1024x1024 f8p2": (4, 2, 128, 128),
}  # fmt: skip


def eager_spatial(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-15) -> Tensor:
    """ReLU linear attention over (m, n, nh, dh) in the published manner: float32 copies, a row of ones, two bmm."""
    query, key = torch.relu(q.permute(0, 2, 3, 1)).float(), torch.relu(k.transpose(1, 2)).float()
    value = F.pad(v.permute(0, 2, 3, 1).float(), (0, 0, 0, 1), value=1.0)  # (m, nh, dh + 1, n)
    out = (value @ key) @ query
    out = out[:, :, :-1] / (out[:, :, -1:] + eps)
    return out.permute(0, 3, 1, 2).to(v.dtype)


def rotated(x: Tensor) -> Tensor:
    """Interleaved rotation of (..., t, dh) by the frame index, float32."""
    t, dh = x.shape[-2:]
    frequency = 10000.0 ** (-torch.arange(0, dh, 2, device=x.device, dtype=torch.float32) / dh)
    angle = torch.arange(t, device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().repeat_interleave(2, -1), angle.sin().repeat_interleave(2, -1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x.float() * cos + torch.stack((-odd, even), -1).flatten(-2).float() * sin


def eager_temporal(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    """1 + cos attention over t of (b, t, s, nh, dh) in the published manner: rearranged copies, linear."""
    b, t = q.shape[:2]
    query, key, value = (rearrange(x, "b t s nh dh -> (b s) nh t dh").contiguous() for x in (q, k, v))
    if t == 1:
        return v
    query, key = (rotated(F.normalize(x.float(), dim=-1, eps=1e-12)) for x in (query, key))
    value = value.float()
    numerator = value.sum(-2, keepdim=True) + query @ (key.transpose(-1, -2) @ value)
    out = numerator / (t + query @ key.sum(-2).unsqueeze(-1)).clamp_min(eps)
    return rearrange(out, "(b s) nh t dh -> b t s nh dh", b=b).to(v.dtype)


def eager_glu_depthwise(u: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """SiLU, depthwise 3x3, gate over (m, h·w, 2c), through channels-first copies as a plain Conv2d wants them."""
    image = rearrange(u, "m (h w) c -> m c h w", h=grid[0]).contiguous()
    value, gate = F.conv2d(F.silu(image), weight, bias, padding=1, groups=weight.shape[0]).chunk(2, dim=1)
    return rearrange(value * F.silu(gate), "m c h w -> m (h w) c").contiguous()


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights, then scale and shift rows (b, t or 1, 1, d)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def self_attention(module, x: Tensor, mix) -> Tensor:
    """Projections of a block's attention around `mix` over (..., nh, dh)."""
    q, k, v = (rearrange(layer(x), "... (nh dh) -> ... nh dh", dh=module.head_dim)
               for layer in (module.to_q, module.to_k, module.to_v))  # fmt: skip
    return module.to_out[0](rearrange(mix(q, k, v), "... nh dh -> ... (nh dh)"))


def eager_block(block, x: Tensor, modulation: Tensor, context: Tensor, grid: tuple[int, int], attention) -> Tensor:
    """One block with the weights of `block`: x (b, t, n, d), modulation (b, t or 1, 9, d), context (b, m, d)."""
    b, t, n, d = x.shape
    table = torch.cat((block.scale_shift_table, block.scale_shift_table_attn3d)).to(x)
    shift, scale, gate, shift_ff, scale_ff, gate_ff, shift_t, scale_t, gate_t = (
        (modulation + table).unsqueeze(3).unbind(2)
    )
    spatial = rearrange(modulated(x, shift, scale), "b t n d -> (b t) n d")
    x = x + gate * rearrange(self_attention(block.attn1, spatial, eager_spatial), "(b t) n d -> b t n d", b=b)
    x = x + gate_t * self_attention(block.attn_temporal, modulated(x, shift_t, scale_t), eager_temporal)
    cross = block.attn2
    text = context.repeat_interleave(t, dim=0)  # once per frame, as published
    query = cross.to_q(rearrange(x, "b t n d -> (b t) n d"))
    mixed = attention(query, cross.to_k(text), cross.to_v(text), cross.num_heads, None)
    x = x + rearrange(cross.to_out[0](mixed), "(b t) n d -> b t n d", b=b)
    image = rearrange(modulated(x, shift_ff, scale_ff), "b t (h w) d -> (b t) d h w", h=grid[0]).contiguous()
    value, opening = block.ff.conv_depth(F.silu(block.ff.conv_inverted(image))).chunk(2, dim=1)
    out = block.ff.conv_point(value * F.silu(opening))
    return x + gate_ff * rearrange(out, "(b t) d h w -> b t (h w) d", b=b)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention over (b, n, d) tensors."""
    parts = (rearrange(x, "b n (nh dh) -> b nh n dh", nh=num_heads) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(*parts, attn_mask=mask), "b nh n dh -> b n (nh dh)")


def eager_step(model, latents: Tensor, timestep: Tensor, context: Tensor, *, run=eager_block) -> Tensor:
    """One evaluation of a velocity network without extensions, with the weights of `model`; `run` may be compiled."""
    b, _, _, h, w = latents.shape
    patch, dtype = model.config.patch_size, latents.dtype
    grid = (h // patch, w // patch)
    bucket = torch.full_like(timestep, model.config.default_motion_bucket)
    embedding = model.time_embed.emb(timestep, dtype) + model.time_embed.motion_guidance_emb(bucket, dtype)
    embedding = embedding.unsqueeze(1)
    modulation = model.time_embed.linear(F.silu(embedding)).unflatten(-1, (9, -1))
    x = model.patch_embed.proj(rearrange(latents, "b c t h w -> (b t) c h w"))
    x = rearrange(x, "(b t) d h w -> b t (h w) d", b=b)
    hidden = F.gelu(model.caption_projection.linear_1(context), approximate="tanh")
    text = model.caption_norm(model.caption_projection.linear_2(hidden))
    for block in model.transformer_blocks:
        x = run(block, x, modulation, text, grid, softmax_attention)
    shift, scale = (model.scale_shift_table.to(x) + embedding.unsqueeze(2)).unsqueeze(3).unbind(2)
    x = model.proj_out(modulated(x, shift, scale))
    return rearrange(x, "b t (h w) (p q c) -> b c t (h p) (w q)", h=grid[0], w=grid[1], p=patch, q=patch)
