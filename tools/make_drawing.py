"""Make the drawing that comes with the pack: `python tools/make_drawing.py`.

The first frame of one drawn clip, large; motionblocks-wan-i2v goes on from it. No training saw this clip.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from mounted_pack import ROOT, mount_pack

SEED = 3_000_001
LARGER = 4  # than the clip's 64 px, so that it looks like a picture somebody brings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "drawing.png")
    options = parser.parse_args()
    mount_pack()
    import torch
    from pack.motion.data.procedural.sprites import SpriteLook, SpriteSource
    from PIL import Image

    clip = SpriteSource().draw(torch.Generator().manual_seed(SEED), SpriteLook("red", "ball", "sand", "left"))
    ground = torch.nn.functional.interpolate(clip.ground[None], scale_factor=LARGER, mode="bicubic")[0].clamp(0, 1)
    large = replace(clip, ground=ground, path=LARGER * clip.path, width=LARGER * clip.width)
    picture = large.render(torch.tensor([0]))[0][:, 0]
    Image.fromarray((picture * 255).round().to(torch.uint8).movedim(0, -1).numpy()).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
