"""Tiny Wan weights in every layout that the world has, with fp8 scales of both forms."""

import json

import torch
from pack.motion.io.networks.wan_names import wan_shapes
from pack.motion.models.wan.config import WanConfig

SIZES = {"num_layers": 2, "num_attention_heads": 1, "hidden_width": 24, "caption_channels": 8}
T2V = WanConfig(**SIZES)
CONFIGS = {
    "T2V": T2V, "A14B I2V": WanConfig(**SIZES, concat_channels=20),
    "I2V": WanConfig(**SIZES, concat_channels=20, image_tokens=True),
    "FLF2V": WanConfig(**SIZES, concat_channels=20, image_tokens=True, position_tokens=514),
}  # fmt: skip
PREFIX = "model.diffusion_model."
QUANTISED = (".q.weight", ".k.weight", ".v.weight", ".o.weight", "ffn.0.weight", "ffn.2.weight")


def tiny_wan_state(config=T2V, dtype=torch.float32):
    """Random weights under the host's names."""
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in wan_shapes(config).items()}


def as_diffusers(config, state):
    """The same weights under diffusers' names, by place in the table that `test_wan_names.py` checks."""
    return dict(zip(wan_shapes(config, "diffusers"), (state[name] for name in wan_shapes(config))))


def diffusers_config(config):
    """What diffusers writes into config.json."""
    return {
        "_class_name": "WanTransformer3DModel", "num_attention_heads": config.num_attention_heads,
        "attention_head_dim": 128, "in_channels": 16 + config.concat_channels, "out_channels": 16,
        "num_layers": config.num_layers, "ffn_dim": config.hidden_width, "text_dim": config.caption_channels,
        "patch_size": [1, 2, 2], "freq_dim": 256, "eps": 1e-6, "qk_norm": "rms_norm_across_heads",
        "cross_attn_norm": True,
    }  # fmt: skip


def scaled(state, form, dtype=torch.float8_e4m3fn):
    """(tensors, metadata, the numbers they mean in float64). form: "older", "newer" or "metadata"."""
    tensors, truth, said = {}, {}, {}
    for name, value in state.items():
        if not name.endswith(QUANTISED):
            tensors[name], truth[name] = value, value.double()
            continue
        scale = value.abs().max().float() / 448
        layer = name.removesuffix(".weight")
        tensors[name] = (value / scale).to(dtype)
        tensors[f"{layer}.{'scale_weight' if form == 'older' else 'weight_scale'}"] = scale
        truth[name] = tensors[name].double() * scale.double()
        said[layer] = {"format": str(dtype).removeprefix("torch.")}
    if form == "older":
        tensors["scaled_fp8"] = torch.empty(0, dtype=dtype)
    if form == "newer":
        tensors |= {f"{layer}.comfy_quant": torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)
                    for layer, text in said.items()}  # fmt: skip
    metadata = {"_quantization_metadata": json.dumps({"layers": said})} if form == "metadata" else {}
    return tensors, metadata, truth


def shards_of(folder, state, config=None, name="diffusion_pytorch_model"):
    """Write two shards with their index, and config.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names, where = list(state), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{name}-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
