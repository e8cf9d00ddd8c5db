"""The linear video DiT written out naively, from the paper: quadratic attentions, nine shifted pictures, float64.

Takes a state dict; nothing of the pack is used. Sources: MiraMo (arXiv 2508.07246) Eq. 5-9, SANA (arXiv 2410.10629)
for the 2-D parts; the extensions' formulas stand in docs and config.
"""

import math

import torch


def linear(state, name, x):
    out = x @ state[f"{name}.weight"].flatten(1).T
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def silu(x):
    return x * torch.sigmoid(x)


def layer_norm(x, eps=1e-6):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def rms_norm(state, name, x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]


def scalar(state, name, value):
    """Two-layer embedding of a number: [cos | sin] of 128 frequencies, angles in float32 as in the published code."""
    angle = value.float()[..., None] * frequencies()
    features = torch.cat((angle.cos(), angle.sin()), -1).double()
    inner = f"{name}.timestep_embedder"
    return linear(state, f"{inner}.linear_2", silu(linear(state, f"{inner}.linear_1", features)))


def frequencies():
    return torch.exp(torch.arange(128, dtype=torch.float32) * (-torch.log(torch.tensor(10000.0)) / 128))


def two_layers(state, name, x):
    return linear(state, f"{name}.linear_2", silu(linear(state, f"{name}.linear_1", x)))


def heads(x, count):
    return x.unflatten(-1, (count, -1)).movedim(-2, 0)  # (nh, ..., n, dh)


def self_projections(state, name, config, x):
    q, k, v = (linear(state, f"{name}.to_{part}", x) for part in "qkv")
    if config.qk_norm:
        q, k = rms_norm(state, f"{name}.norm_q", q), rms_norm(state, f"{name}.norm_k", k)
    return (heads(y, config.num_attention_heads) for y in (q, k, v))


def merged(x):
    return x.movedim(0, -2).flatten(-2)


def spatial(state, name, config, x):
    """Eq. 5-6 with φ = ReLU. x (b, t, n, d), tokens of a frame see each other."""
    q, k, v = self_projections(state, name, config, x)
    weight = q.relu() @ k.relu().transpose(-1, -2)
    return linear(state, f"{name}.to_out.0", merged(weight @ v / (weight.sum(-1, keepdim=True) + 1e-15)))


def rotation(positions, dh):
    """Matrices (..., t, dh, dh) that turn the pairs (2i, 2i+1) by position · 10000^(-2i/dh)."""
    turn = torch.zeros(*positions.shape, dh, dh, dtype=torch.float64)
    for i in range(0, dh, 2):
        angle = positions.double() * 10000.0 ** (-i / dh)
        turn[..., i, i] = turn[..., i + 1, i + 1] = angle.cos()
        turn[..., i, i + 1], turn[..., i + 1, i] = -angle.sin(), angle.sin()
    return turn


def temporal(state, name, config, x, positions):
    """Eq. 8-9: weights 1 + cos of turned unit vectors, along the frames of each site."""
    q, k, v = self_projections(state, name, config, x.transpose(1, 2))  # (nh, b, n, t, dh)
    turn = rotation(positions, q.shape[-1]).reshape(-1, x.shape[1], q.shape[-1], q.shape[-1]).expand(len(x), -1, -1, -1)
    q, k = (y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12) for y in (q, k))
    q, k = (torch.einsum("btij,hbntj->hbnti", turn, y) for y in (q, k))
    weight = 1 + q @ k.transpose(-1, -2)
    if x.shape[1] == 1:
        weight = torch.ones_like(weight)
    out = weight @ v / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    return linear(state, f"{name}.to_out.0", merged(out)).transpose(1, 2)


def cross(state, name, config, x, texts):
    """Softmax over the real tokens of each sample's text. texts: one (m, d) a sample."""
    rows = []
    for tokens, text in zip(x, texts):
        q, k, v = (linear(state, f"{name}.to_{part}", y) for part, y in zip("qkv", (tokens, text, text)))
        if config.qk_norm:
            q, k = rms_norm(state, f"{name}.norm_q", q), rms_norm(state, f"{name}.norm_k", k)
        q, k, v = (heads(y, config.num_cross_attention_heads) for y in (q, k, v))  # q (nh, t, n, dh), k, v (nh, m, dh)
        score = q @ k[:, None].transpose(-1, -2) / math.sqrt(q.shape[-1])
        rows.append(merged(score.softmax(-1) @ v[:, None]))
    return linear(state, f"{name}.to_out.0", torch.stack(rows))


def mix_ffn(state, name, x, grid):
    b, t, n, _ = x.shape
    wide = silu(linear(state, f"{name}.conv_inverted", x)).reshape(b, t, *grid, -1)
    padded = torch.nn.functional.pad(wide, (0, 0, 1, 1, 1, 1))
    kernel = state[f"{name}.conv_depth.weight"]  # (c, 1, 3, 3)
    out = state[f"{name}.conv_depth.bias"] + sum(
        padded[:, :, i : i + grid[0], j : j + grid[1]] * kernel[:, 0, i, j] for i in range(3) for j in range(3)
    )
    value, gate = out.reshape(b, t, n, -1).chunk(2, -1)
    return linear(state, f"{name}.conv_point", value * silu(gate))


def block(state, index, config, x, modulation, texts, grid, positions):
    name = f"transformer_blocks.{index}"
    table = torch.cat((state[f"{name}.scale_shift_table"], state[f"{name}.scale_shift_table_attn3d"]))
    rows = (modulation + table)[..., None, :].unbind(2)
    shift, scale, gate, shift_ff, scale_ff, gate_ff, shift_t, scale_t, gate_t = rows
    x = x + gate * spatial(state, f"{name}.attn1", config, layer_norm(x) * (1 + scale) + shift)
    normed = layer_norm(x) * (1 + scale_t) + shift_t
    x = x + gate_t * temporal(state, f"{name}.attn_temporal", config, normed, positions)
    x = x + cross(state, f"{name}.attn2", config, x, texts)
    return x + gate_ff * mix_ffn(state, f"{name}.ff", layer_norm(x) * (1 + scale_ff) + shift_ff, grid)


def patches(latents, p):
    """(b, c, t, h, w) -> (b, t, n, c·p·p)."""
    b, c, t, h, w = latents.shape
    cells = latents.reshape(b, c, t, h // p, p, w // p, p)
    return cells.permute(0, 2, 3, 5, 1, 4, 6).reshape(b, t, (h // p) * (w // p), c * p * p)


def places(height, width):
    y, x = ((torch.arange(size).double() + 0.5) / size * 2 - 1 for size in (height, width))
    grid = torch.stack((y[:, None].expand(-1, width), x.expand(height, -1)), -1).reshape(-1, 2)
    turned = torch.cat([grid * math.pi * 2**k / 2 for k in range(4)], -1)
    return torch.cat((grid, turned.sin(), turned.cos()), -1)


def embedded_text(state, context, attention_mask):
    gelu = torch.nn.functional.gelu(linear(state, "caption_projection.linear_1", context), approximate="tanh")
    states = rms_norm(state, "caption_norm", linear(state, "caption_projection.linear_2", gelu))
    if attention_mask is None:
        return list(states)
    return [row[mask.bool()] if mask.any() else row for row, mask in zip(states, attention_mask)]


def raw_output(
    state, config, latents, timestep, context, *, attention_mask=None, bucket=None, pooled=None, first=None,
    positions=None,
):  # fmt: skip
    """What `LinearVideoDiT.predict_raw` is to give, float64. state: float64 tensors by name."""
    b, c, t, h, w = latents.shape
    p = config.patch_size
    grid = (h // p, w // p)
    positions = torch.arange(t) if positions is None else positions
    e = scalar(state, "time_embed.emb", timestep)
    if config.motion_buckets:
        bucket = torch.full((b,), config.default_motion_bucket) if bucket is None else bucket
        e = e + scalar(state, "time_embed.motion_guidance_emb", bucket)
    if config.pooled_text_embedding:
        e = e + two_layers(state, "pooled_projection", pooled)
    if config.first_frame_texture:
        strength = (1 + 20 * first[:, :, 0].abs()).log().mean((-2, -1)) - 1.5
        e = e + two_layers(state, "texture_projection", strength)
    e = e[:, None]
    if config.frame_index_embedding:
        e = e + scalar(state, "frame_index_embed", positions)
    modulation = linear(state, "time_embed.linear", silu(e)).unflatten(-1, (9, -1))
    x = linear(state, "patch_embed.proj", patches(latents, p))
    if config.concat_first_frame:
        x = x + linear(state, "first_frame_embed.proj", patches(first[:, :, :1], p))
    if config.position_features:
        x = x + linear(state, "position_embed.linear", places(*grid))
    texts = embedded_text(state, context, attention_mask)
    for index in range(config.num_layers):
        x = block(state, index, config, x, modulation, texts, grid, positions)
    shift, scale = (state["scale_shift_table"] + e[:, :, None])[..., None, :].unbind(2)
    x = linear(state, "proj_out", layer_norm(x) * (1 + scale) + shift)
    cells = x.reshape(b, t, *grid, p, p, c)
    return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c, t, h, w)
