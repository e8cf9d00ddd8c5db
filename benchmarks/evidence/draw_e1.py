"""Draw docs/images/evidence_e1.png: the arms of E1 side by side, and PSNR by frame from the results file."""

import argparse
import json
import statistics
from pathlib import Path

from arms import ARMS, FRAMES
from e1_residual import STILL, pick, seeds
from evidence_common import RESULTS, ROOT
from PIL import Image, ImageDraw

TARGET = ROOT / "docs" / "images" / "evidence_e1.png"
CELL, SHOWN, ZOOM = 64, 5, 2  # px a frame and frames a row of the pictures e1_residual.py leaves; enlargement
COLOURS = {"direct": "#c85028", "residual": "#1e6ebe", "difference": "#3c9646", "repeated": "#828282"}
LOW, HIGH = 15, 30  # dB of the plot
MARGIN, PLOT = 44, (360, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "evidence_e1", help="E1's finished trainings")
    parser.add_argument("--clip", type=int, default=1, choices=range(4), help="which of the clips shown there")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    runs = json.loads((RESULTS / "evidence_e1_residual.json").read_text())["rows"]
    pictures = strips(arguments.folder, arguments.clip, arguments.seed)
    plot = curves(runs)
    width = pictures.width + plot.width
    page = Image.new("RGB", (width, max(pictures.height, plot.height)), "white")
    page.paste(pictures, (0, 0))
    page.paste(plot, (pictures.width, 0))
    page.quantize(128, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    print(f"{TARGET.relative_to(ROOT)}: {page.size}, {TARGET.stat().st_size / 1024:.0f} KiB, clip {arguments.clip}, "
          f"seed {arguments.seed}")


def strips(folder: Path, clip: int, seed: int) -> Image.Image:
    """The truth and the three arms, one row each, with names."""
    tall = CELL * ZOOM + 14
    page = Image.new("RGB", (CELL * SHOWN * ZOOM, 4 * tall), "white")
    draw = ImageDraw.Draw(page)
    for place, name in enumerate(("truth", *ARMS)):
        source = Image.open(folder / f"{'direct' if name == 'truth' else name}-{seed}.png")
        top = CELL * (2 * clip + (name != "truth"))
        row = source.crop((0, top, CELL * SHOWN, top + CELL)).resize((CELL * SHOWN * ZOOM, CELL * ZOOM), Image.NEAREST)
        draw.text((2, place * tall + 1), name, fill="black")
        page.paste(row, (0, place * tall + 14))
    return page


def curves(runs: list[dict]) -> Image.Image:
    """PSNR by frame of moving clips: a line an arm, mean over seeds, bars of one standard deviation."""
    page = Image.new("RGB", PLOT, "white")
    draw = ImageDraw.Draw(page)
    lines = {arm: [[pick(runs, arm, seed, "psnr_db", n) for seed in seeds(runs)] for n in range(FRAMES - 1)]
             for arm in ARMS}
    lines["repeated"] = [[pick(runs, "direct", 0, "static_db", n)] for n in range(FRAMES - 1)]
    axes(draw)
    for place, (name, values) in enumerate(lines.items()):
        points = [at(n, statistics.fmean(value)) for n, value in enumerate(values)]
        draw.line(points, fill=COLOURS[name], width=2)
        for n, value in enumerate(values):
            half = statistics.stdev(value) if len(value) > 1 else 0
            draw.line([at(n, statistics.fmean(value) - half), at(n, statistics.fmean(value) + half)],
                      fill=COLOURS[name], width=4)
        label = {"repeated": "first frame repeated"}.get(name, name)
        draw.text((PLOT[0] - 160, 30 + 14 * place), label, fill=COLOURS[name])
    return page


def at(n: int, level: float) -> tuple[float, float]:
    """Where frame n + 2 at a level in dB lies on the plot."""
    x = MARGIN + (PLOT[0] - 2 * MARGIN) * n / (FRAMES - 2)
    return x, PLOT[1] - MARGIN - (PLOT[1] - 2 * MARGIN) * (min(max(level, LOW), HIGH) - LOW) / (HIGH - LOW)


def axes(draw: ImageDraw.ImageDraw) -> None:
    for level in range(LOW, HIGH + 1, 5):
        draw.line([at(0, level), at(FRAMES - 2, level)], fill=(225, 225, 225))
        draw.text((12, at(0, level)[1] - 6), f"{level}", fill="black")
    for n in range(FRAMES - 1):
        draw.text((at(n, LOW)[0] - 3, PLOT[1] - MARGIN + 6), f"{n + 2}", fill="black")
    draw.text((8, 8), f"dB to the truth, {STILL - 1} pans", fill="black")
    draw.text((PLOT[0] - MARGIN - 30, PLOT[1] - 20), "frame", fill="black")


if __name__ == "__main__":
    main()
