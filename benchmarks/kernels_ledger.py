"""What one block moves through memory beside its GEMMs, counted on the meta device: true on every machine, no timing.

The unit c is one pass over one activation tensor: tokens x width x 2 bytes.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext

import torch
from builtin_common import save
from kernels_common import CONFIGS, eager_block
from ledger_common import Ledger, meta_ledger, pack_operators
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.config import LinearVideoDiTConfig
from pack.motion.models.linear_video.network import LinearVideoDiT
from pack.motion.models.module_weights import plain_weights
from pack.motion.models.text_cache import TextCache

FRAMES, SAMPLES, TEXT = 16, 2, 300


@functools.cache
def softmax_operator() -> tuple:
    """Attention to the text as one operation that reads its three tensors and writes one."""
    library = torch.library.Library("motionblocks_ledger", "DEF")
    library.define("softmax_attention(Tensor q, Tensor k, Tensor v) -> Tensor")
    library.impl("softmax_attention", lambda q, k, v: torch.empty_like(q), "Meta")
    return library, lambda q, k, v, num_heads, mask: torch.ops.motionblocks_ledger.softmax_attention(q, k, v)


def empty(*shape: int) -> torch.Tensor:
    """A bfloat16 tensor without memory."""
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def step_ledger(name: str, num_layers: int, called: Callable | None) -> tuple[Ledger, LinearVideoDiT]:
    """A whole step of a network of so many blocks, text cached. called(block): layers whose weights are kept back."""
    channels, patch, height, width = CONFIGS[name]
    config = LinearVideoDiTConfig(in_channels=channels, patch_size=patch, num_layers=num_layers)
    only_called = set()

    def weights_of(module, like):
        return nullcontext() if module in only_called else plain_weights(module, like)

    model = LinearVideoDiT(config, kernels="triton", attention=softmax_operator()[1], weights_of=weights_of,
                           dtype=torch.bfloat16, device="meta").eval()  # fmt: skip
    for block in model.transformer_blocks if called else ():
        only_called |= set(called(block))
    latents, context = empty(SAMPLES, channels, FRAMES, height, width), empty(SAMPLES, TEXT, config.caption_channels)
    timestep, cache = torch.empty(SAMPLES, device="meta"), TextCache()

    def step():
        return model(latents, timestep, Conditions(context), text_cache=cache, text_keys=tuple(range(SAMPLES)))

    with torch.no_grad():
        step()  # fills the cache
    return meta_ledger(step, operators=pack_operators()), model


@functools.cache
def block_ledger(name: str, called: Callable | None = None) -> dict:
    """One block of ours: half the difference between networks of four and of two blocks. called: as in step_ledger."""
    two, model = step_ledger(name, 2, called)
    four, _ = step_ledger(name, 4, called)
    c = unit(name, model.config.width)
    return {
        "c": (four.bytes - two.bytes) / 2 / c, "c declared": (four.declared - two.declared) / 2 / c,
        "launches": (four.launches - two.launches) / 2, "peak c": four.peak / c,
        "by operator": {key: (four.by_name[key] - two.by_name[key]) / 2 / c for key in four.by_name
                        if four.by_name[key] > two.by_name[key] + c / 100},
    }  # fmt: skip


@functools.cache
def eager_ledger(name: str) -> dict:
    """The same block in the released manner, one torch operation after the other."""
    channels, patch, height, width = CONFIGS[name]
    config = LinearVideoDiTConfig(in_channels=channels, patch_size=patch, num_layers=1)
    block = LinearVideoDiT(config, dtype=torch.bfloat16, device="meta").transformer_blocks[0]
    grid = (height // patch, width // patch)
    x, context = empty(SAMPLES, FRAMES, grid[0] * grid[1], config.width), empty(SAMPLES, TEXT, config.width)
    modulation = empty(SAMPLES, 1, 9, config.width)
    told = meta_ledger(lambda: eager_block(block, x, modulation, context, grid, softmax_operator()[1]), x)
    c = unit(name, config.width)
    return {"c": told.bytes / c, "launches": told.launches, "peak c": told.peak / c,
            "by operator": {key: value / c for key, value in told.by_name.items() if value > c / 10}}  # fmt: skip


def unit(name: str, width: int) -> int:
    """Bytes of one activation tensor."""
    _, patch, rows, columns = CONFIGS[name]
    return SAMPLES * FRAMES * (rows // patch) * (columns // patch) * width * 2


def main() -> None:
    rows, figures = [], {}
    for name in CONFIGS:
        ours, eager = block_ledger(name), eager_ledger(name)
        rows += [{"config": name, "form": "ours", **ours}, {"config": name, "form": "released eager", **eager}]
        for what, key in (("traffic, c", "c"), ("launches", "launches"), ("peak, c", "peak c")):
            figures[f"{name}: {what}, released eager → ours"] = f"{eager[key]:.1f} → {ours[key]:.1f}"
    save("kernels_ledger", figures, rows)


if __name__ == "__main__":
    main()
