"""What motion adapters add to a large Wan, counted on tensors without values: products, and trained numbers."""

from dataclasses import replace

import torch
from evidence_common import verdict
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.models.conditions import Conditions
from pack.motion.models.subject_masks import SubjectMasks
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.network import WanDiT
from pack.motion.sampling.mask_stream import mask_steps
from torch.utils.flop_counter import FlopCounterMode

CONFIG = PUBLISHED["T2V 1.3B"]
RANK = 128  # the paper's
SIZE = (60, 104)  # latent cells of 832x480 px
LIMITS = {17: {1: 1.08, 2: 1.21}, 81: {1: 1.05, 2: 1.12}}  # times the model alone, by frames and adapters
STEPS, MASKED_LIMITS = 50, {17: 1.36, 81: 1.36}
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


def products(num_frames: int, adapters: int, told: str = "") -> int:
    """Multiplications and additions of one call with so many adapters, whose weights come to 1.

    told: "scores" or "masks" where they are masked ones, on a video that scores steer or on the masks themselves.
    All blocks cost the same, so two of them tell.
    """
    one, two = (_counted(network(count), num_frames, adapters, told) for count in (1, 2))
    return one + (CONFIG.num_layers - 1) * (two - one)


def _counted(dit: WanDiT, num_frames: int, adapters: int, told_of: str) -> int:
    frames = (num_frames - 1) // 4 + 1
    latents = torch.empty(1, dit.config.in_channels, frames, *SIZE, device="meta")
    grid = tuple(side // dit.config.patch_size for side in SIZE)
    scores = torch.empty(1, frames, grid[0] * grid[1], device="meta") if told_of == "scores" else None
    context = torch.empty(1, 512, dit.config.caption_channels, device="meta")
    told = Conditions(context, masks=SubjectMasks(scores) if told_of else None)
    config = MIVAConfig(rank=RANK, masked=bool(told_of))
    entries = tuple(StackEntry(MIVA(dit, config), 1 / adapters) for _ in range(adapters))
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


def masked_table() -> dict:
    """Products of a run of 50 calls with a masked adapter, 8 calls on masks among them, and of its parts."""
    made = len(mask_steps(STEPS))
    rows = []
    for num_frames, most in MASKED_LIMITS.items():
        alone = products(num_frames, 0)
        video, masks = (products(num_frames, 1, told) / alone for told in ("scores", "masks"))
        rows.append({
            "frames": num_frames, "a call on the video": round(video, 3), "a call on masks": round(masks, 3),
            "calls on masks": f"{made} of {STEPS}",
            "the run": verdict(round((STEPS * video + made * masks) / STEPS, 3), high=most),
        })  # fmt: skip
    return {"Products with a masked adapter, Wan 1.3B, 832x480, times the model alone": rows}


def part_table() -> dict:
    """Trained numbers by part, as the paper has them: 23.6, 0.09 and 11.8 of 35.5 million."""
    miva = MIVA(network(CONFIG.num_layers), MIVAConfig(rank=RANK))
    counts: dict[str, int] = {}
    for name, value in miva.parameters().items():
        part = next(title for mark, title in PARTS.items() if f".{mark}." in name)
        counts[part] = counts.get(part, 0) + value.numel()
    return {"Trained numbers, Wan 1.3B, rank 128": [{**counts, "together": sum(counts.values())}]}
