"""A LoRA of some heads of Wan's self-attention: the others answer as before, but for one thing.

Head h of a block owns outputs h·dh to (h+1)·dh - 1 of q, k and v, and the same inputs of o. So a difference beside q, k
and v is held to rows of these, beside o to columns: the sum of a temporal and a spatial branch is an ordinary LoRA of
the whole layer, with zeros. What is left between heads is the norm of q and k over the full width: whoever changes some
rows scales the others by one number a token.
Source: Follow-Your-Motion, arXiv 2506.05207, Alg. 2.
"""

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .lora import LoRA, LoRAPart, weight_shape

READ, WRITTEN = ("q", "k", "v"), "o"  # projections whose outputs, and whose inputs, lie side by side by head


def head_lora(
    module: nn.Module, chosen: Tensor, *, rank: int, alpha: float, include_o: bool = True, seed: int = 0,
    device: torch.device | None = None,
) -> LoRA:  # fmt: skip
    """A fresh LoRA beside the self-attention of the chosen heads, (layers, heads) bool; a layer without any gets none.

    module: a Wan, ours or the host's. include_o: also beside the projection behind attention.
    Raises ConfigError where no head is chosen, and for a bad rank or alpha.
    """
    parts = head_parts(module, chosen, include_o=include_o)
    if not parts:
        raise ConfigError("no head is chosen for the LoRA; choose at least one, by alpha or target_fraction")
    return LoRA(module, parts=parts, rank=rank, alpha=alpha, seed=seed, device=device)


def head_parts(module: nn.Module, chosen: Tensor, *, include_o: bool) -> dict[str, LoRAPart]:
    """Layers by name, each with the rows or columns of its chosen heads. Raises ConfigError for another network."""
    blocks = module.blocks
    if chosen.shape != (len(blocks), blocks[0].self_attn.num_heads):
        raise ConfigError(f"heads are chosen of {tuple(chosen.shape)} layers and heads; this network has "
                          f"({len(blocks)}, {blocks[0].self_attn.num_heads})")  # fmt: skip
    parts = {}
    for index, row in enumerate(chosen.bool()):
        if not row.any():
            continue
        width = weight_shape(blocks[index].self_attn.q)[0] // len(row)
        places = None if row.all() else torch.arange(len(row) * width).view(len(row), width)[row].flatten()
        name = f"blocks.{index}.self_attn"
        parts |= {f"{name}.{layer}": LoRAPart(rows=places) for layer in READ}
        if include_o:
            parts[f"{name}.{WRITTEN}"] = LoRAPart(columns=places)
    return parts
