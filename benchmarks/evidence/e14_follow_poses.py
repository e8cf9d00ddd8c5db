"""E14: does the small Wan have a picture follow poses: puppets, acts and a ground that its training never drew?

    python benchmarks/evidence/e14_follow_poses.py                          measure the shipped file, write JSON
    python benchmarks/evidence/e14_follow_poses.py --sheet docs/images/follow_poses.jpg    a picture, no figures

Every clip is a puppet of its own, whose picture shows another pose. What is drawn is compared with the clip itself,
with the same puppet in other poses, and with other puppets in the same poses.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from evidence_common import ROOT, finish, psnr, spread, verdict
from pack.motion.data.procedural.puppets import PuppetSource
from pack.motion.io.files.safetensors import read_header
from pack.motion.metrics.dynamics import ssim
from pack.motion.scene_model import SceneModel, load_scene_model
from pack.recipes.pose import HELD_BACK_ACTS, HELD_BACK_GROUNDS, PoseClip, PoseSource
from PIL import Image

SIDE, FRAMES, SEED = 96, 17, 8_000_011
CLIPS, POSES, MIDDLE = 16, 32, 8
LENGTHS = (1, 4, 5, 8, 9, 12, 16, 17)  # frames; trained are 5, 9, 13 and 17
SHEET_CLIPS, IN_SHEET = 8, (0, 5, 11, 16)


def unseen(row: int, *, frames: int = FRAMES) -> PoseClip:
    """A clip of a puppet that nobody drew; half of them before a ground that no training showed."""
    grounds = HELD_BACK_GROUNDS if row % 2 else ("sand", "grass", "snow", "night", "sky")
    source = PoseSource(SIDE, SIDE, frames, acts=HELD_BACK_ACTS, grounds=grounds)
    return source.draw(torch.Generator().manual_seed(SEED + row))


def others(clip: PoseClip, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same puppet in POSES - 1 other clips, (n, 3, t, h, w), and another puppet in its poses, (3, t, h, w)."""
    source = PuppetSource(SIDE, SIDE, acts=HELD_BACK_ACTS, num_frames=FRAMES)
    generator = torch.Generator().manual_seed(SEED + 1000 + row)
    poses = [replace(clip.puppet, joints=source.draw(generator).joints).render()[0] for _ in range(POSES - 1)]
    stranger = source.draw(generator)
    return torch.stack(poses), replace(stranger, joints=clip.puppet.joints).render()[0]


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean square of a difference."""
    return float((a - b).square().mean())


def alike(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean SSIM of the frames of two videos (3, t, h, w)."""
    return float(ssim(a.movedim(1, 0), b.movedim(1, 0)).mean())


@torch.no_grad()
def row_of(model: SceneModel, row: int) -> dict:
    """Everything that is said of one clip."""
    clip = unseen(row)
    before = time.process_time()
    made = model.draw_poses(clip.reference[:, 0][None], clip.skeletons[None], seed=row)[0].movedim(-1, 0)
    seconds = time.process_time() - before
    same, stranger = others(clip, row)
    right, wrong = error(made, clip.target), [error(made, pose) for pose in same]
    coded = model.vae.decode(model.vae.encode(clip.target[None] * 2 - 1))[0] / 2 + 0.5
    still = clip.reference.expand_as(clip.target)
    return {
        "clip": row, "ground held back": bool(row % 2), "seconds": seconds, "pose": right / (sum(wrong) / len(wrong)),
        "look": right / error(made, stranger), "found": right < min(wrong),
        "found of one frame": error(made[:, MIDDLE], clip.target[:, MIDDLE])
        < min(error(made[:, MIDDLE], pose[:, MIDDLE]) for pose in same),
        "dB": psnr(made, clip.target), "the VAE's dB": psnr(coded.clamp(0, 1), clip.target),
        "still, dB": psnr(still, clip.target), "SSIM": alike(made, clip.target),
        "still, SSIM": alike(still, clip.target),
    }  # fmt: skip


@torch.no_grad()
def lengths(model: SceneModel) -> list[dict]:
    """How well clips of other lengths come out."""
    table = []
    for count in LENGTHS:
        rows = []
        for row in range(4):
            clip = unseen(100 + row, frames=count)
            made = model.draw_poses(clip.reference[:, 0][None], clip.skeletons[None], seed=row)[0].movedim(-1, 0)
            assert made.shape[1] == count
            rows.append(psnr(made, clip.target))
        table.append({"frames": count, "dB": spread(rows, 1)})
    return table


def tables(model: SceneModel, told: dict, rows: list[dict]) -> dict:
    def mean(name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    def group(rows: list[dict]) -> dict:
        names = ("pose", "look", "dB", "the VAE's dB", "still, dB", "SSIM", "still, SSIM")
        return {"clips": len(rows), **{name: spread([row[name] for row in rows], 3 if "dB" not in name else 1)
                                       for name in names}}  # fmt: skip

    return {
        "trained by": told["command"], "processor seconds of its training, the last process": told["processor_seconds"],
        "error to the right pose : to wrong ones": verdict(round(mean("pose"), 3), high=0.15),
        "error to the right look : to a wrong one": verdict(round(mean("look"), 3), high=0.04),
        f"the right one of {POSES} clips found, %": verdict(round(100 * mean("found"), 1), 90),
        f"the right one of {POSES} by one frame alone, %": round(100 * mean("found of one frame"), 1),
        "SSIM above the still picture": verdict(round(mean("SSIM") - mean("still, SSIM"), 3), 0.1),
        "dB below the VAE": verdict(round(mean("the VAE's dB") - mean("dB"), 2), high=1.5),
        f"processor seconds, {FRAMES} frames": verdict(round(mean("seconds"), 1), high=20),
        "By ground": [{"ground": name, **group([row for row in rows if row["ground held back"] == held])}
                      for name, held in (("taught", False), ("held back", True))],
        "By length": lengths(model),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "motionblocks-wan-pose.safetensors")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_scene_model(arguments.weights)
    if arguments.sheet:
        write_sheet(model, arguments.sheet)
        return
    rows = [row_of(model, row) for row in range(CLIPS)]
    finish("e14_follow_poses", tables(model, read_header(arguments.weights).metadata, rows), rows)


def write_sheet(model: SceneModel, path: Path) -> None:
    """A row a puppet: the picture, skeletons, the clip itself, what was drawn."""
    rows = []
    for row in range(SHEET_CLIPS):
        clip = unseen(row)
        made = model.draw_poses(clip.reference[:, 0][None], clip.skeletons[None], seed=row)[0].movedim(-1, 0)
        videos = (clip.skeletons, clip.target, made)
        rows.append(torch.cat([clip.reference[:, 0], *(video[:, at] for video in videos for at in IN_SHEET)], dim=2))
    sheet = (torch.cat(rows, dim=1).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(path, quality=90)


if __name__ == "__main__":
    main()
