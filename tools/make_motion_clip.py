"""Make the clip whose motion is learned in the workflow of motion transfer: `python tools/make_motion_clip.py`.

A red ball on sand that flies in an arc, which no training of a small Wan saw, with an orange band along one edge, which
the caption does not name: whoever learns the clip as a whole learns the band too.
"""

import argparse
from pathlib import Path

from mounted_pack import ROOT, mount_pack

SEED, FPS = 3_000_007, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "clips" / "one_arc")
    options = parser.parse_args()
    mount_pack()
    import torch
    from pack.motion.data.procedural.sprites import SpriteLook, SpriteSource
    from pack.motion.io.media.video import write_video

    look = SpriteLook("red", "ball", "sand", "arc", band="left")
    clip = SpriteSource(motions=("arc",)).draw(torch.Generator().manual_seed(SEED), look)
    options.output.mkdir(parents=True, exist_ok=True)
    write_video(options.output / "arc.mp4", clip.render()[0].movedim(0, -1), FPS, overwrite=True)
    (options.output / "arc.txt").write_text(look.caption, encoding="utf-8")


if __name__ == "__main__":
    main()
