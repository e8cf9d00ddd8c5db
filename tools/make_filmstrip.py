#!/usr/bin/env python3
"""Make the README's filmstrip from real output of the shell command.

    .venv/bin/python tools/make_filmstrip.py -o docs/images/filmstrip.jpg
    .venv/bin/python tools/make_filmstrip.py -o docs/images/filmstrip_small.jpg --model motionblocks-small \
        --row raccoon.jpg sway 16
    .venv/bin/python tools/make_filmstrip.py -o docs/images/edges.jpg --edges mirror crop \
        --row raccoon.jpg "zoom out" 12 --row portrait.jpg "pan up" 12 --row city_at_night.jpg "rotate right" 12
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
ROWS = (("raccoon.jpg", "zoom in", 16), ("city_at_night.jpg", "pan left", 16), ("portrait.jpg", "rotate right", 16))
SHOWN = (0, 5, 10, 15)
CELL = (264, 198)
LABEL_HEIGHT = 22


def animate(photo, motion, dynamics, folder, model=None, edges=None):
    """Run the shell command on a shipped photo and return the paths of its PNG frames, in order."""
    command = [sys.executable, str(ROOT), "animate", str(ROOT / "assets" / photo), "--motion", motion]
    command += ["--model", model] if model else []
    command += ["--edges", edges] if edges else []
    subprocess.run([*command, "--dynamics", str(dynamics), "--frames", "16", "-o", str(folder)], check=True)
    return sorted(Path(folder).glob("*.png"))


def centre_cut(image, size):
    """Cut the middle of an image to the shape of size, then scale it there."""
    width, height = image.size
    scale = min(width / size[0], height / size[1])
    cut = (size[0] * scale, size[1] * scale)
    left, top = (width - cut[0]) / 2, (height - cut[1]) / 2
    return image.resize(size, Image.LANCZOS, box=(left, top, left + cut[0], top + cut[1]))


def make_strip(rows, num_columns):
    """Put labelled rows of frames under each other; rows: [(label, [images]), ...]."""
    row_height = CELL[1] + LABEL_HEIGHT
    sheet = Image.new("RGB", (num_columns * (CELL[0] + 4) - 4, len(rows) * row_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (label, images) in enumerate(rows):
        draw.text((2, row * row_height + 2), label, fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(centre_cut(image, CELL), (column * (CELL[0] + 4), row * row_height + LABEL_HEIGHT))
    return sheet


def main():
    """Animate each row's photo and write the strip."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", help="name of a built-in model or a weight file")
    parser.add_argument("--edges", nargs="+", help="draw every row with each of these (default: the shell's own)")
    parser.add_argument("--row", nargs=3, action="append", metavar=("PHOTO", "MOTION", "DYNAMICS"))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        wanted = [(*row, edges) for row in args.row or ROWS for edges in args.edges or [None]]
        for number, (photo, motion, dynamics, edges) in enumerate(wanted):
            paths = animate(photo, motion, dynamics, Path(scratch) / str(number), args.model, edges)
            shown = f", edges {edges}" if edges else ""
            label = f'"{motion}", dynamics {dynamics}{shown}: frames ' + ", ".join(str(i + 1) for i in SHOWN)
            rows.append((label, [Image.open(paths[i]).convert("RGB") for i in SHOWN]))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        make_strip(rows, len(SHOWN)).save(args.output, quality=88, optimize=True)
    print(args.output)


if __name__ == "__main__":
    main()
