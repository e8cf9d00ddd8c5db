"""How far the words of motionblocks-small stretch a photograph, with and without their caps. Writes JSON, draws sheets.

Stretch is read off the clip's own flow: at every place of the flow grid the larger of how much the picture is drawn
out and how much it is pressed together; what is turned over counts as 100. A clip's figure is that of the worst of its
frames 5, 9 and 16 of 16, where 1 in 100 places is worse. 1 = nothing is stretched. Beside it stands what
the pack says of `clouds` on the photographs, and on some with a sky drawn into them, so that it is known there is one.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from builtin_common import ROOT, load_model, photo_paths, sample, save
from builtin_motions import pasted
from pack.motion.data.procedural_scenes import SceneSource
from pack.motion.io.photo import read_photo
from pack.motion.metrics.what_moves import CELL, nothing_to_act_on
from pack.motion.text.safe_words import SAFE, TOP
from PIL import Image, ImageDraw, ImageFont

SIDE = 256  # px of a photograph's long side
SHIPPED = ("portrait", "raccoon", "city_at_night")
TAKEN = ("astronaut", "camera", "chelsea", "coffee", "rocket", "motorcycle", "china", "flower")  # of photo_paths()
UNCAPPED = ("sway", "pulse")
DEFAULT = 12  # of the slider
FRAMES = [0, 4, 8, 15]
SHOWN = {"slide left": 15, "slide right": 15, "slide up": 15, "slide down": 15, "bounce": 4, "orbit": 8, "swing": 4,
         "spin": 15, "clouds": 15, "waterfall": 15}  # frame at which a word is far from where it began
SHEETS = {"words_people.jpg": ("portrait", "astronaut"), "words_animals.jpg": ("raccoon", "chelsea"),
          "words_places.jpg": ("city_at_night", "rocket")}  # photographs in the public domain or CC0
TURNED_OVER = 100.0
TILE, HEAD = (160, 160), 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="photographs at once, one thread each")
    parser.add_argument("--photos", nargs="+", help="only these, by name")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further photographs, judged but never drawn")
    parser.add_argument("--sheets", type=Path, help="folder to draw the sheets into")
    parser.add_argument("--name", default="safe_words", help="of the results file")
    arguments = parser.parse_args()
    started = time.monotonic()
    paths = {name: ROOT / "assets" / f"{name}.jpg" for name in SHIPPED}
    paths |= {name: photo_paths()[name] for name in TAKEN} | {path.stem: path for path in arguments.more}
    paths = {name: path for name, path in paths.items() if name in (arguments.photos or paths)}
    rows, skies, tiles = [], [], {}
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for part in pool.map(one_photo, paths, paths.values()):
            rows, skies, tiles = rows + part[0], skies + part[1], tiles | part[2]
            print(rows[-1]["photo"], f"{time.monotonic() - started:.0f} s", flush=True)
    for sheet, names in SHEETS.items() if arguments.sheets else ():
        draw_sheet(names, tiles).save(arguments.sheets / sheet, quality=66, optimize=True)
    save(arguments.name, {"photographs": len(paths), **figures(rows), **sky_figures(rows, skies)}, [*rows, *skies])


def small(path: Path) -> torch.Tensor:
    """A photograph, whole, its long side SIDE px: (3, h, w)."""
    picture = read_photo(path)
    scale = SIDE / max(picture.shape[1:])
    size = [round(side * scale) for side in picture.shape[1:]]
    return torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def one_photo(name: str, path: Path) -> tuple[list[dict], list[dict], dict]:
    """Rows of every word, rows of drawn skies, and tiles for a sheet by (name, word, bucket)."""
    torch.set_num_threads(1)
    model, picture = load_model("motionblocks-small"), small(path)
    rows, tiles = words(model, name, picture)
    return rows, drawn_skies(model, name) if name in TAKEN else [], tiles


def words(model, name: str, picture: torch.Tensor) -> tuple[list[dict], dict]:
    """Every word at the default and at the top, and at its cap, which the words without one reach at the top."""
    asked = [(word, bucket) for word in SAFE for bucket in (DEFAULT, TOP, SAFE[word])]
    asked += [(word, bucket) for word in UNCAPPED for bucket in (DEFAULT, TOP)]
    first = model.codec.encode(picture[None, :, None]).expand(len(asked), -1, -1, -1, -1)
    latents = sample(model, first, [word for word, _ in asked], [bucket for _, bucket in asked], frames=FRAMES)
    rows, tiles = [], {}
    for place, (word, bucket) in enumerate(asked):
        mine = latents[place : place + 1]
        flow = model.codec.flow_of(mine)[0]
        rows.append({"photo": name, "word": word, "bucket": bucket, "stretch": stretch(flow)})
        if word == "clouds":
            rows[-1]["note"] = nothing_to_act_on([word], picture, flow)
        if word in SAFE and any(name in names for names in SHEETS.values()):
            shown = model.codec.decode_onto(mine[:, :, [0, FRAMES.index(SHOWN[word])]], picture)
            tiles[name, word, bucket] = shown[0, :, 1]
    return rows, tiles


def stretch(flow: torch.Tensor) -> float:
    """flow (t, 2, g, g) in working px -> the stretch of the clip, see above."""
    across = (flow[..., :-1, 1:] - flow[..., :-1, :-1]) / CELL
    down = (flow[..., 1:, :-1] - flow[..., :-1, :-1]) / CELL
    local = torch.stack((across, down), -1).movedim(1, -2) + torch.eye(2)
    most, least = torch.linalg.svdvals(local).unbind(-1)
    least = torch.where(torch.linalg.det(local) > 0, least, 0.0).clamp_min(1 / TURNED_OVER)
    worst = torch.maximum(most, 1 / least).clamp_max(TURNED_OVER)
    return float(worst.flatten(1).quantile(0.99, dim=1).max())


def drawn_skies(model, name: str) -> list[dict]:
    """The photograph with two skies drawn into it, and what is said of `clouds` on them."""
    source, rows = SceneSource(SIDE, num_textures=4, seed=99), []
    whole = torch.nn.functional.interpolate(read_photo(photo_paths()[name])[None], (SIDE, SIDE), mode="bilinear",
                                            antialias=True)[0].clamp(0, 1)
    for seed in (1003 + TAKEN.index(name), 2003 + TAKEN.index(name)):
        scene = pasted(source, whole, "clouds", SAFE["clouds"] / TOP, seed)
        picture = scene.render(torch.zeros(1, 1, dtype=torch.long))[0][0, :, 0]
        latents = sample(model, model.codec.encode(picture[None, :, None]), ["clouds"], SAFE["clouds"], frames=FRAMES)
        rows.append({"photo": name, "drawn sky": seed,
                     "note": nothing_to_act_on(["clouds"], picture, model.codec.flow_of(latents)[0])})
    return rows


def figures(rows: list[dict]) -> dict:
    """A line a word: its cap, and the stretch (middle and worst photograph) at default, top and cap."""
    lines = {}
    for word in (*SAFE, *UNCAPPED):
        cap = SAFE.get(word, TOP)
        line = {"cap": cap}
        for label, bucket in (("bucket 12", DEFAULT), ("bucket 19", TOP), ("at its cap", cap)):
            values = [row["stretch"] for row in rows if (row["word"], row["bucket"]) == (word, bucket)]
            line[label] = f"{statistics.median(values):.2f}, worst {max(values):.2f}"
        lines[word] = line
    return lines


def sky_figures(rows: list[dict], skies: list[dict]) -> dict:
    """What is said of `clouds` at its cap."""
    mine = [row for row in rows if (row["word"], row["bucket"]) == ("clouds", SAFE["clouds"])]
    told = {said: ", ".join(row["photo"] for row in mine if bool(row["note"]) == said) for said in (True, False)}
    return {"`clouds` found little sky on": told[True], "`clouds` found sky on": told[False],
            "photographs with a drawn sky, of which it found little sky on":
                f"{len(skies)}, {sum(row['note'] is not None for row in skies)}"}


def draw_sheet(names: list[str], tiles: dict) -> Image.Image:
    """Rows of words; of each photograph the default and the strongest without cap, and the strongest with it."""
    columns = [(name, kind) for name in names for kind in ("12 before", "19 before", "19 now")]
    pictures = {key: as_tile(picture) for key, picture in tiles.items() if key[0] in names}
    height = max(tile.height for tile in pictures.values()) + HEAD
    sheet = Image.new("RGB", (len(columns) * (TILE[0] + 2), len(SAFE) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, word in enumerate(SAFE):
        for column, (name, kind) in enumerate(columns):
            bucket = {"12 before": DEFAULT, "19 before": TOP, "19 now": SAFE[word]}[kind]
            left, top = column * (TILE[0] + 2), row * height
            draw.text((left + 2, top + 1), f"{word} {kind}", fill="black", font=font)
            sheet.paste(pictures[name, word, bucket], (left, top + HEAD))
    return sheet


def as_tile(picture: torch.Tensor) -> Image.Image:
    """(3, h, w) in [0, 1] as a picture that fits a tile."""
    tile = Image.fromarray((picture.movedim(0, -1) * 255).round().byte().contiguous().numpy())
    tile.thumbnail(TILE)
    return tile


if __name__ == "__main__":
    main()
