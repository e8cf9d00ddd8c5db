"""What motion adapters add to a large Wan, counted on tensors without values: products, and trained numbers."""

from dataclasses import replace

import torch
from evidence_common import verdict
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.network import WanDiT
from torch.utils.flop_counter import FlopCounterMode

CONFIG = PUBLISHED["T2V 1.3B"]
RANK = 128  # the paper's
SIZE = (60, 104)  # latent cells of 832x480 px
LIMITS = {17: {1: 1.08, 2: 1.21}, 81: {1: 1.05, 2: 1.12}}  # times the model alone, by frames and adapters
PARTS = {"cfa.q": "cross-frame reads", "cfa.o": "cross-frame reads", "cfa.lam": "their weights", "ca": "prompt"}


class _Unhooked:
    """In place of the counter's tracker of modules, whose hooks would have attention run in pieces."""

    parents = ("Global",)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None


def network(num_layers: int) -> WanDiT:
    return WanDiT(replace(CONFIG, num_layers=num_layers), device="meta")


def products(num_frames: int, adapters: int) -> int:
    """Multiplications and additions of one call with so many adapters, whose weights come to 1.

    All blocks cost the same, so two of them tell.
    """
    one, two = (_counted(network(count), num_frames, adapters) for count in (1, 2))
    return one + (CONFIG.num_layers - 1) * (two - one)


def _counted(dit: WanDiT, num_frames: int, adapters: int) -> int:
    frames = (num_frames - 1) // 4 + 1
    latents = torch.empty(1, dit.config.in_channels, frames, *SIZE, device="meta")
    told = Conditions(torch.empty(1, 512, dit.config.caption_channels, device="meta"))
    entries = tuple(StackEntry(MIVA(dit, MIVAConfig(rank=RANK)), 1 / adapters) for _ in range(adapters))
    grid = tuple(side // dit.config.patch_size for side in SIZE)
    held = AdapterStack(entries, temporal_ratio=4).attached(dit, sigma=0.5, num_frames=num_frames, grid=grid)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Unhooked()
    with torch.no_grad(), held as inside, counter:
        dit(latents, torch.empty(1, device="meta"), told, adapters=inside)
    return counter.get_total_flops()


def cost_table() -> dict:
    """Products of a call beside those of the model alone."""
    rows = []
    for num_frames, limits in LIMITS.items():
        alone = products(num_frames, 0)
        row = {"frames": num_frames, "model alone, 10^12": round(alone / 1e12, 1)}
        for count, most in limits.items():
            row[f"{count} adapter{'s' * (count > 1)}"] = verdict(round(products(num_frames, count) / alone, 3),
                                                                   high=most)  # fmt: skip
        rows.append(row)
    return {"Products of a call, Wan 1.3B, 832x480": rows}


def part_table() -> dict:
    """Trained numbers by part, as the paper has them: 23.6, 0.09 and 11.8 of 35.5 million."""
    miva = MIVA(network(CONFIG.num_layers), MIVAConfig(rank=RANK))
    counts: dict[str, int] = {}
    for name, value in miva.parameters().items():
        part = next(title for mark, title in PARTS.items() if f".{mark}." in name)
        counts[part] = counts.get(part, 0) + value.numel()
    return {"Trained numbers, Wan 1.3B, rank 128": [{**counts, "together": sum(counts.values())}]}
