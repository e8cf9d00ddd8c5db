"""Diffusers' own Wan class with the weights of ours."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from pack.motion.models.wan.config import IMAGE_WIDTH
from pack.motion.models.wan.network import WanDiT
from tiny_wan import PER_FRAME, VARIANTS, fill, given
from torch import Tensor

DIFFUSERS_NAMES = (
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("condition_embedder.image_embedder.norm1.", "img_emb.proj.0."),
    ("condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."),
    ("condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."),
    ("condition_embedder.image_embedder.norm2.", "img_emb.proj.4."),
    ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    (".attn1.", ".self_attn."), (".attn2.", ".cross_attn."), (".norm2.", ".norm3."), (".to_out.0.", ".o."),
    (".add_k_proj.", ".k_img."), (".add_v_proj.", ".v_img."), (".norm_added_k.", ".norm_k_img."),
    (".to_q.", ".q."), (".to_k.", ".k."), (".to_v.", ".v."),
    (".ffn.net.0.proj.", ".ffn.0."), (".ffn.net.2.", ".ffn.2."),
    ("scale_shift_table", "modulation"), ("proj_out.", "head.head."),
)  # fmt: skip


def our_name(name):
    """The name that a tensor of diffusers' has with us."""
    in_block = name.startswith("blocks.")
    for theirs, ours in DIFFUSERS_NAMES:
        if theirs != ".norm2." or in_block:
            name = name.replace(theirs, ours)
    return f"head.{name}" if name == "modulation" else name


def diffusers_network(config):
    from diffusers import WanTransformer3DModel

    image = {"image_dim": IMAGE_WIDTH, "added_kv_proj_dim": config.width} if config.image_tokens else {}
    tokens = {"pos_embed_seq_len": config.position_tokens} if config.position_tokens else {}
    return WanTransformer3DModel(
        num_attention_heads=config.num_attention_heads, attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels + config.concat_channels, out_channels=config.in_channels,
        text_dim=config.caption_channels, ffn_dim=config.hidden_width, num_layers=config.num_layers, **image, **tokens,
    ).eval()  # fmt: skip


def velocities(name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(ours, diffusers') of a tiny variant: one noise level, then one a frame."""
    config = VARIANTS[name]
    theirs, own = diffusers_network(config), fill(WanDiT(config))
    state = own.state_dict()
    names = {key: our_name(key) for key in theirs.state_dict()}
    assert set(names.values()) == state.keys()
    theirs.load_state_dict({key: state[name] for key, name in names.items()})
    latents, timestep, told = given(config)
    tokens, context = told.image_tokens, told.context
    if tokens is not None:  # it takes the last 512 tokens it is given for text, and an image a row for first and last
        context = torch.cat((context, torch.zeros(2, 505, context.shape[-1])), dim=1)
    if config.position_tokens:
        tokens = torch.cat((tokens, tokens.flip(1)), dim=1)
    told = replace(told, context=context, image_tokens=tokens)
    beside = [latents] if told.concat_latents is None else [latents, told.concat_latents]
    image = tokens.reshape(4, 3, -1) if config.position_tokens else tokens
    tokens_a_frame = latents.shape[-2] * latents.shape[-1] // 4
    for ours, each in ((timestep, timestep), (PER_FRAME, PER_FRAME.repeat_interleave(tokens_a_frame, 1))):
        yield own(latents, ours, told), theirs(torch.cat(beside, dim=1), each, context, image, return_dict=False)[0]
