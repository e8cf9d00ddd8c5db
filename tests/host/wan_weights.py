"""A models/ tree of random weights for core's own loaders, under the names that the workflows for Wan give them.

Networks have two blocks of width 256, the least that core's loader builds on old hosts. The VAE has its full width,
since those know no other. The text encoder has one layer (see small_umt5): core tells it by a tensor of its last one,
which is here too, as zeros.
"""

import json
from pathlib import Path

import tiny_gemma
import torch
from safetensors.torch import save_file
from shipped_workflows import FOLDERS, WAN_WEIGHTS, api_graph
from tiny_weights import seeded

SMALL_UMT5 = Path(__file__).with_name("small_umt5")
LAST = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"  # hosts ask for it, and for its shape
FULL = {"d_model": 4096, "d_ff": 10240}


def write_models(models: Path) -> Path:
    """Fill models/ with every file that the workflows name."""
    made = {"unet_name": _write_network, "clip_name": _write_text_encoder, "vae_name": _write_vae}
    for graph in map(api_graph, WAN_WEIGHTS):
        for node in graph.values():
            for name, folder in FOLDERS.items():
                if name in node["inputs"] and not (path := models / folder / node["inputs"][name]).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made[name](path)
    return models


def _write_network(path: Path) -> None:
    """By its name: 16 channels, or 36 and no CLIP vision layers as the experts of image to video have."""
    from pack.motion.models.wan.config import WanConfig
    from pack.motion.models.wan.network import WanDiT

    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 128, "hidden_width": 512}
    config = WanConfig(**sizes, concat_channels=20 if "i2v" in path.name else 0)
    save_file(seeded(_shapes(lambda: WanDiT(config)), seed=len(path.name)), path)


def _write_vae(path: Path) -> None:
    from pack.motion.models.wan.vae import WIDTH, WanVAE

    save_file(seeded(_shapes(lambda: WanVAE(WIDTH)), dtype=torch.float16), path)


def _write_text_encoder(path: Path) -> None:
    sizes = FULL | json.loads((SMALL_UMT5 / "sizes.json").read_text())
    width, inner, inside = sizes["d_model"], sizes["d_kv"] * sizes["num_heads"], sizes["d_ff"]
    attention, between = "layer.0.SelfAttention", "layer.1.DenseReluDense"
    block = {f"{attention}.{part}": (inner, width) for part in "qkv"} | {
        f"{attention}.o": (width, inner), f"{attention}.relative_attention_bias": (32, sizes["num_heads"]),
        f"{between}.wi_0": (inside, width), f"{between}.wi_1": (inside, width), f"{between}.wo": (width, inside),
        "layer.0.layer_norm": (width,), "layer.1.layer_norm": (width,),
    }  # fmt: skip
    shapes = {"shared.weight": (sizes["vocab_size"], width), "encoder.final_layer_norm.weight": (width,)}
    shapes |= {f"encoder.block.0.{name}.weight": shape for name, shape in block.items()}
    words = torch.frombuffer(bytearray(tiny_gemma.tokenizer_model(sizes["vocab_size"])), dtype=torch.uint8)
    last = torch.zeros(FULL["d_ff"], FULL["d_model"], dtype=torch.float8_e4m3fn)
    save_file(seeded(shapes, dtype=torch.float16) | {LAST: last, "spiece_model": words}, path)


def _shapes(make) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in make().state_dict().items()}
