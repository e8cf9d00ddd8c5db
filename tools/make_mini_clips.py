"""Draw the mini-clips that come with the pack, ten a set: `python tools/make_mini_clips.py [--set sprite_arc]`.

Set "jelly": the picture is squashed, wide and low, then stretched, narrow and tall, once in 16 frames, like a jelly
that was touched. No built-in model knows this motion, so a LoRA has something to learn; every clip swings by another
amount, so the dynamics slider keeps its meaning. Set "sprite_arc": a shape goes from left to right in half an ellipse,
which no small Wan model of the pack has seen. Everything is drawn from one seed; nothing is photographed.
"""

import argparse
import math
from pathlib import Path

import torch
from mounted_pack import ROOT, mount_pack

NUM_CLIPS, NUM_FRAMES, FPS, SIDE = 10, 16, 8.0, 128
JELLY, ARC = "jelly", "sprite_arc"
CANVAS = 192  # px of the drawn texture; what the window does not show at first comes in at its edges
SWINGS = (0.04, 0.16)  # of the log-scale at the turning point, first and last clip
SHOWN = (0, 2, 4, 8, 12, 15)  # frames of the contact sheet


def places(swing: float) -> torch.Tensor:
    """Where each pixel of each frame looks in frame 0: (1, t, y, x, 2) px."""
    squash = swing * torch.sin(torch.arange(NUM_FRAMES) * (2 * math.pi / NUM_FRAMES))
    axis = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    wide, high = (torch.exp(sign * squash).view(-1, 1, 1) for sign in (-1, 1))
    return (torch.stack((x * wide, y * high), -1) + (SIDE - 1) / 2).unsqueeze(0)


def draw_clips(seed: int) -> list[torch.Tensor]:
    """Frames (t, h, w, 3) of each clip."""
    from pack.motion.data.procedural.textures import canvases, sample_periodic

    generator = torch.Generator().manual_seed(seed)
    textures = canvases(NUM_CLIPS, CANVAS, generator)
    swings = torch.linspace(*SWINGS, NUM_CLIPS).tolist()
    return [sample_periodic(texture.unsqueeze(0), places(swing))[0].movedim(0, -1).clamp(0, 1)
            for texture, swing in zip(textures, swings)]  # fmt: skip


def draw_arcs(seed: int) -> list[torch.Tensor]:
    """Frames (t, h, w, 3) of each clip, 64 px, 17 frames."""
    from pack.motion.data.procedural.sprites import SpriteSource

    source = SpriteSource(motions=("arc",), band_share=0.0, stripe_share=0.0)
    clips = [source.draw(torch.Generator().manual_seed(seed + 100 * index)) for index in range(NUM_CLIPS)]
    return [clip.render()[0].movedim(0, -1) for clip in clips]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--set", choices=(JELLY, ARC), default=JELLY)
    parser.add_argument("--output", type=Path, help="folder (default: that of the set in assets/clips)")
    parser.add_argument("--sheet", type=Path, help="also write a PNG that shows some frames of every clip")
    args = parser.parse_args()
    mount_pack()
    from pack.motion.io.media.video import write_video

    folder = args.output or ROOT / "assets" / "clips" / args.set
    folder.mkdir(parents=True, exist_ok=True)
    clips = (draw_clips if args.set == JELLY else draw_arcs)(args.seed)
    for index, frames in enumerate(clips):
        written = write_video(folder / f"{args.set}_{index:02d}.mp4", frames, FPS, overwrite=True)
        written.path.with_suffix(".txt").write_text("", encoding="utf-8")  # no wish: the motion needs no word
        print(f"{written.path.name}: {written.num_frames} frames, {written.path.stat().st_size // 1024} KiB")
    if args.sheet:
        from PIL import Image

        rows = [torch.cat(list(frames[list(SHOWN)]), dim=1) for frames in clips]
        Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(args.sheet)


if __name__ == "__main__":
    main()
