"""How far the words of motionblocks-small stretch a photograph, with and without their caps. Writes JSON, draws sheets.

Stretch is read off the clip's own flow: at every place of the flow grid the larger of how much the picture is drawn
out and how much it is pressed together; what is turned over counts as 100. A clip's figure is that of the worst of its
frames 5, 9 and 16 of 16, where 1 in 100 places is worse. 1 = nothing is stretched. Beside it stands what
the pack says of `clouds` on the photographs, and on some with a sky drawn into them, so that it is known there is one.

At its cap each word is played once more with a region around what stands out (for `clouds` the upper half). There the
stretch is read at every px of the region, its feather included, with and without the region, and so are the longest way
and the largest change of a px outside it.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from builtin_common import ROOT, load_model, photo_paths, sample, save
from builtin_motions import pasted
from pack.motion.choices import MIRROR
from pack.motion.data.procedural.scenes import SceneSource
from pack.motion.io.media.photo import read_photo
from pack.motion.layers.warp import resample_flow
from pack.motion.metrics.what_moves import CELL, nothing_to_act_on
from pack.motion.models.playback.photo_player import PhotoPlayer
from pack.motion.text.safe_words import SAFE, TOP
from PIL import Image, ImageDraw, ImageFont

SIDE = 256  # px of a photograph's long side
SHIPPED = ("portrait", "raccoon", "city_at_night")
TAKEN = ("astronaut", "camera", "chelsea", "coffee", "rocket", "china", "flower", "coins", "hubble")  # of photo_paths()
CLOSE = {"astronaut (close)": (0.28, 0.0, 0.68, 0.4), "camera (close)": (0.2, 0.08, 0.65, 0.53)}  # a face: x, y to x, y
ELLIPSES = {  # around what stands out: middle and half axes, in shares of width and height (x, y, x, y)
    "portrait": (0.52, 0.38, 0.28, 0.36), "raccoon": (0.62, 0.38, 0.32, 0.36), "city_at_night": (0.54, 0.6, 0.18, 0.38),
    "astronaut": (0.42, 0.3, 0.25, 0.28), "camera": (0.4, 0.32, 0.28, 0.25), "chelsea": (0.5, 0.5, 0.42, 0.45),
    "coffee": (0.5, 0.45, 0.42, 0.42), "rocket": (0.5, 0.62, 0.12, 0.36), "china": (0.32, 0.5, 0.27, 0.44),
    "flower": (0.48, 0.5, 0.24, 0.36), "coins": (0.5, 0.5, 0.4, 0.4), "hubble": (0.5, 0.5, 0.4, 0.4),
    "astronaut (close)": (0.47, 0.45, 0.3, 0.4), "camera (close)": (0.5, 0.48, 0.4, 0.4),
}  # fmt: skip
UNCAPPED = ("sway", "pulse")
DEFAULT = 12  # of the slider
FRAMES = [0, 4, 8, 15]
SHOWN = {"slide left": 15, "slide right": 15, "slide up": 15, "slide down": 15, "bounce": 4, "orbit": 8, "swing": 4,
         "spin": 15, "clouds": 15, "waterfall": 15}  # frame at which a word is far from where it began
SHEETS = {"words_people.jpg": ("portrait", "astronaut"), "words_animals.jpg": ("raccoon", "chelsea"),
          "words_places.jpg": ("city_at_night", "rocket")}  # photographs in the public domain or CC0
REGION_SHEET, REGION_NAMES = "words_region.jpg", ("portrait", "raccoon")
REGION_WORDS = ("slide left", "bounce", "orbit", "swing", "clouds")
REGION_KINDS = ("whole photo", "changed", "region", "changed there")
LOUDER = 4  # times a change is drawn
TURNED_OVER = 100.0
TILE, SMALL_TILE, HEAD = (160, 160), (120, 120), 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="photographs at once, one thread each")
    parser.add_argument("--photos", nargs="+", help="only these, by name")
    parser.add_argument("--sheets", type=Path, help="folder to draw the sheets into")
    parser.add_argument("--name", default="safe_words", help="of the results file")
    arguments = parser.parse_args()
    started = time.monotonic()
    paths = {name: ROOT / "assets" / f"{name}.jpg" for name in SHIPPED}
    paths |= {name: photo_paths()[name] for name in TAKEN}
    paths |= {name: photo_paths()[name.removesuffix(" (close)")] for name in CLOSE}
    paths = {name: path for name, path in paths.items() if name in (arguments.photos or paths)}
    rows, skies, tiles = [], [], {}
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for part in pool.map(one_photo, paths, paths.values()):
            rows, skies, tiles = rows + part[0], skies + part[1], tiles | part[2]
            print(rows[-1]["photo"], f"{time.monotonic() - started:.0f} s", flush=True)
    for sheet, names in SHEETS.items() if arguments.sheets else ():
        draw_sheet(names, tiles).save(arguments.sheets / sheet, quality=66, optimize=True)
    if arguments.sheets:
        draw_region_sheet(tiles).save(arguments.sheets / REGION_SHEET, quality=66, optimize=True)
    found = {"photographs": len(set(paths.values())), "of these once more, cropped close to a face": len(CLOSE)}
    found |= figures(rows) | sky_figures(rows, skies) | {"with a region": region_figures(rows)}
    save(arguments.name, found, [*rows, *skies])


def small(path: Path, crop: tuple[float, ...] = (0, 0, 1, 1)) -> torch.Tensor:
    """A photograph, or a part of it (x, y to x, y in shares of its sides), its long side SIDE px: (3, h, w)."""
    picture = read_photo(path)
    h, w = picture.shape[1:]
    picture = picture[:, round(crop[1] * h) : round(crop[3] * h), round(crop[0] * w) : round(crop[2] * w)]
    scale = SIDE / max(picture.shape[1:])
    size = [round(side * scale) for side in picture.shape[1:]]
    return torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def one_photo(name: str, path: Path) -> tuple[list[dict], list[dict], dict]:
    """Rows of every word, rows of drawn skies, and tiles for a sheet by (name, word, bucket)."""
    torch.set_num_threads(1)
    model, picture = load_model("motionblocks-small"), small(path, CLOSE.get(name, (0, 0, 1, 1)))
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
        if bucket == SAFE.get(word):
            rows[-1]["region"], played = with_region(model, mine, picture, name, word)
            tiles |= {(name, word, kind): tile for kind, tile in zip(REGION_KINDS, played) if name in REGION_NAMES}
        if word in SAFE and any(name in names for names in SHEETS.values()):
            shown = model.codec.decode_onto(mine[:, :, [0, FRAMES.index(SHOWN[word])]], picture)
            tiles[name, word, bucket] = shown[0, :, 1]
    return rows, tiles


def with_region(model, latents: torch.Tensor, picture: torch.Tensor, name: str, word: str) -> tuple[dict, list]:
    """A clip played on the whole photograph and in a region of it: what was measured, tiles of REGION_KINDS."""
    region = region_of(word, name, *picture.shape[1:])
    inside, found, tiles = region > 0, {}, []
    for kind, mask in (("whole photo", None), ("region", region)):
        player = PhotoPlayer(model.codec, latents, picture, edges=MIRROR, region=mask)
        flow = torch.cat([resample_flow(grid[None], player.box) for grid in player.flow])
        flow = flow if mask is None else flow * player.share
        changes = [(frame[:, : len(region), : region.shape[1]] - picture).abs() for frame in player]
        shown = FRAMES.index(SHOWN[word])
        found[kind] = {
            "stretch": stretch(flow, cell=1, inside=inside),
            "longest way, % of the long side": 100 * float(flow.norm(dim=1)[:, inside].max()) / max(picture.shape[1:]),
            "largest change outside, of 255": 255 * max(float(change[:, ~inside].max()) for change in changes),
        }
        rim = torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0].bool() & ~inside
        changed = (LOUDER * changes[shown]).clamp(0, 1).masked_fill(rim, 1.0)
        tiles += [player.frame(shown)[:, : len(region), : region.shape[1]], changed]
    return found, tiles


def region_of(word: str, name: str, height: int, width: int) -> torch.Tensor:
    """(height, width), 1 where something may move: the upper half for a sky, else an ellipse around the subject."""
    y, x = (torch.arange(side).add(0.5) / side for side in (height, width))
    if word == "clouds":
        return (y < 0.5).float()[:, None].expand(height, width)
    middle_x, middle_y, half_x, half_y = ELLIPSES[name]
    return (((x - middle_x) / half_x).square() + ((y - middle_y) / half_y).square()[:, None] < 1).float()


def stretch(flow: torch.Tensor, cell: int = CELL, inside: torch.Tensor | None = None) -> float:
    """flow (t, 2, h, w) in px, a place every `cell` px -> the stretch of the clip, see above.

    inside: (h, w), the places that count; all by default.
    """
    across = (flow[..., :-1, 1:] - flow[..., :-1, :-1]) / cell
    down = (flow[..., 1:, :-1] - flow[..., :-1, :-1]) / cell
    local = torch.stack((across, down), -1).movedim(1, -2) + torch.eye(2)
    most, least = torch.linalg.svdvals(local).unbind(-1)
    least = torch.where(torch.linalg.det(local) > 0, least, 0.0).clamp_min(1 / TURNED_OVER)
    worst = torch.maximum(most, 1 / least).clamp_max(TURNED_OVER)
    worst = worst.flatten(1) if inside is None else worst[:, inside[:-1, :-1]]
    return float(worst.quantile(0.99, dim=1).max())


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


def region_figures(rows: list[dict]) -> list[dict]:
    """A line a word at its cap: stretch (middle and worst photograph), longest way (middle), change outside (worst)."""
    lines = []
    for word, cap in SAFE.items():
        mine = [row["region"] for row in rows if (row["word"], row["bucket"]) == (word, cap)]
        line = {"word": f"`{word}`"}
        for kind in ("whole photo", "region"):
            values = [found[kind]["stretch"] for found in mine]
            line[f"stretch there, {kind}"] = f"{statistics.median(values):.2f}, worst {max(values):.2f}"
        for kind in ("whole photo", "region"):
            ways = [found[kind]["longest way, % of the long side"] for found in mine]
            line[f"longest way there, %, {kind}"] = round(statistics.median(ways), 1)
        for kind in ("whole photo", "region"):
            changes = [found[kind]["largest change outside, of 255"] for found in mine]
            line[f"change outside, of 255, {kind}"] = round(max(changes), 2)
        lines.append(line)
    return lines


def draw_sheet(names: Sequence[str], tiles: dict) -> Image.Image:
    """Rows of words; of each photograph the default and the strongest without cap, and the strongest with it."""
    kinds = {"12 before": lambda word: DEFAULT, "19 before": lambda word: TOP, "19 now": SAFE.__getitem__}
    return sheet_of([[(f"{word} {kind}", tiles[name, word, bucket(word)]) for name in names
                            for kind, bucket in kinds.items()] for word in SAFE], TILE)


def draw_region_sheet(tiles: dict) -> Image.Image:
    """Rows of words at their caps, on the whole photograph and in a region; what changed beside it, LOUDER times."""
    return sheet_of([[(kind if kind.startswith("changed") else f"{word}: {kind}", tiles[name, word, kind])
                                    for name in REGION_NAMES for kind in REGION_KINDS] for word in REGION_WORDS],
                    SMALL_TILE)


def sheet_of(rows: list[list[tuple[str, torch.Tensor]]], size: tuple[int, int]) -> Image.Image:
    """Rows of (what it is, picture), each picture as large as fits `size`, with its title above."""
    pictures = [[(title, as_tile(picture, size)) for title, picture in row] for row in rows]
    height = max(tile.height for row in pictures for _, tile in row) + HEAD
    sheet = Image.new("RGB", (len(pictures[0]) * (size[0] + 2), len(pictures) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12 if size == TILE else 10)
    for number, row in enumerate(pictures):
        for column, (title, tile) in enumerate(row):
            left, top = column * (size[0] + 2), number * height
            draw.text((left + 2, top + 1), title, fill="black", font=font)
            sheet.paste(tile, (left, top + HEAD))
    return sheet


def as_tile(picture: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    """(3, h, w) in [0, 1] as a picture that fits `size`."""
    tile = Image.fromarray((picture.movedim(0, -1) * 255).round().byte().contiguous().numpy())
    tile.thumbnail(size)
    return tile


if __name__ == "__main__":
    main()
