"""E8: do the small Wan models draw what their words say, and do their heads look like a trained Wan's?

    python benchmarks/evidence/e8_tiny_wan.py
    python benchmarks/evidence/e8_tiny_wan.py --earlier runs/wan/step03000.safetensors
    python benchmarks/evidence/e8_tiny_wan.py --sheet docs/images/tiny_wan.jpg

Prompts are those of drawn clips that no training drew; every figure stands beside what the meter says of those clips
themselves. Way and path are read where the meter sees a sprite; a clip in which it loses it counts as wrong. Image to
video begins with the first frame of such a clip; "spins" is left out there, since the meter sees no turn.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from evidence_common import ROOT, finish, psnr, spread, verdict
from heads_of_tiny_wan import heads_table
from noise_of_tiny_wan import noise_table
from pack.motion.data.procedural.sprite_meter import SeenSprite, see_sprite
from pack.motion.data.procedural.sprite_paths import sprite_path
from pack.motion.data.procedural.sprite_words import MOTIONS
from pack.motion.data.procedural.sprites import SpriteLook, SpriteSource
from pack.motion.scene_model import load_scene_model
from PIL import Image
from words_of_tiny_wan import words_table

SEED = 1_000_003
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CLOSED = ("orbit", "bounce")
SHOWN = (0, 4, 8, 12, 16)  # frames of the sheet
IN_SHEET = 24


def looks(motion: str, count: int) -> list[SpriteLook]:
    """Plain looks of drawn clips with this motion."""
    source = SpriteSource(motions=(motion,), band_share=0.0, stripe_share=0.0)
    clips = [source.draw(torch.Generator().manual_seed(SEED + 100 * index)) for index in range(count)]
    return [replace(clip.look, texture="") for clip in clips]


def likeness(path: torch.Tensor, motion: str) -> float:
    """Correlation of a path (t, 2) with the nearest path of its word; -1 where the sprite is lost."""
    if not path.isfinite().all():
        return -1.0
    seen, best = path - path.mean(0), -1.0
    for chance in torch.linspace(0, 0.96, 25):
        true = sprite_path(motion, torch.stack((chance, chance, torch.tensor(0.5), torch.tensor(0.5))))[:, :2]
        true = true - true.mean(0)
        best = max(best, float((seen * true).sum() / (seen.norm() * true.norm()).clamp_min(1e-6)))
    return best


def measure(videos: list[torch.Tensor], asked: list[SpriteLook], truth: list[SeenSprite]) -> list[dict]:
    """A row a video (3, t, h, w); truth: what the meter says of a drawn clip of the same words."""
    rows = []
    for video, look, drawn in zip(videos, asked, truth):
        seen = see_sprite(video)
        row = {"prompt": look.caption, "motion": look.motion, "colour": seen.colour == look.colour,
               "ground": seen.ground == look.ground, "shape": seen.shape == look.shape}  # fmt: skip
        if look.motion in WAYS:
            way = torch.tensor(WAYS[look.motion], dtype=torch.float32)
            along = float(seen.moved @ way) if seen.moved.isfinite().all() else None
            row |= {"right way": along is not None and along > 5}
            row |= {} if along is None else {"way": along / float(drawn.moved @ way)}
        if look.motion in CLOSED:
            row["likeness"] = likeness(seen.path, look.motion)
        if look.motion in ("grow", "shrink"):
            ratio = float(seen.area[-1] / seen.area[0].clamp_min(1))
            row["right way"] = ratio > 1.2 if look.motion == "grow" else 0 < ratio < 0.83
        rows.append(row)
    return rows


def share(rows: list[dict], name: str, motions=tuple(MOTIONS)) -> float:
    """Per cent of the rows with these motions that are right."""
    told = [row[name] for row in rows if name in row and row["motion"] in motions]
    return round(100 * sum(told) / len(told), 1)


def figures(rows: list[dict]) -> dict:
    """What a table says of rows."""
    steady = [motion for motion in MOTIONS if motion != "spin"]  # a turning shape is not upright
    return {
        "directions right, %": share(rows, "right way", tuple(WAYS)),
        "way, of the drawn clips' own": spread(row["way"] for row in rows if "way" in row),
        "grow and shrink right, %": share(rows, "right way", ("grow", "shrink")),
        "orbit, correlation": spread(row["likeness"] for row in rows if row["motion"] == "orbit"),
        "bounce, correlation": spread(row["likeness"] for row in rows if row["motion"] == "bounce"),
        "colours right, %": share(rows, "colour"), "grounds right, %": share(rows, "ground"),
        "shapes right, %": share(rows, "shape", tuple(steady)),
    }  # fmt: skip


def moves_as_asked(row: dict, seen: SeenSprite) -> bool:
    """Whether a clip does what its word says."""
    if "right way" in row:
        return row["right way"]
    if "likeness" in row:
        return row["likeness"] >= 0.8
    path = seen.path - seen.path[:1]
    return bool(path.isfinite().all()) and float(path.norm(dim=1).max()) < 4  # stands still


def measure_words(weights: Path, each: int, guidance: float | None) -> tuple[dict, list[dict]]:
    """The table of text to video, and its rows."""
    model = load_scene_model(weights)
    asked = [look for motion in MOTIONS for look in looks(motion, each)]
    drawn = [SpriteSource().draw(torch.Generator().manual_seed(SEED + row), look) for row, look in enumerate(asked)]
    drawn = [clip.render()[0] for clip in drawn]
    truth = [see_sprite(clip) for clip in drawn]
    made, before = [], time.process_time()
    for row in range(0, len(asked), each):
        part = [look.caption for look in asked[row : row + each]]
        made += model.draw_videos(part, guidance_scale=guidance, seed=row).movedim(-1, 1)
    seconds = (time.process_time() - before) / len(asked)
    before = time.process_time()
    model.draw_videos([asked[0].caption], height=128, width=128)
    large = time.process_time() - before
    rows = measure(made, asked, truth)
    ours, theirs = figures(rows), figures(measure(drawn, asked, truth))
    for name in ours:
        print(f"{name}: {ours[name]} (drawn clips {theirs[name]})", flush=True)
    goals = {"directions right, %": 100, "colours right, %": 95, "grounds right, %": 100, "shapes right, %": 70}
    told = {name: verdict(value, goals[name]) if name in goals else value for name, value in ours.items()}
    table = [{"what": name, "model": told[name], "drawn clips": theirs[name]} for name in ours]
    speed = {"processor seconds a clip, 64 px": verdict(round(seconds, 2), high=1.5),
             "processor seconds a clip, 128 px": verdict(round(large, 2), high=6)}  # fmt: skip
    return {**speed, "Text to video": table}, rows


def measure_images(weights: Path, each: int, guidance: float | None) -> tuple[dict, list[dict]]:
    """The table of image to video, with and without words, and by initial noise; and its rows."""
    model = load_scene_model(weights)
    asked = [look for motion in MOTIONS if motion != "spin" for look in looks(motion, each)]
    clips = [SpriteSource().draw(torch.Generator().manual_seed(SEED + 50_000 + row), look)
             for row, look in enumerate(asked)]  # fmt: skip
    drawn = torch.stack([clip.render()[0] for clip in clips])
    truth, starts = [see_sprite(clip) for clip in drawn], drawn[:, :, 0]
    codec = [psnr(back, clip[:, :1]) for back, clip in zip(decoded(model, drawn)[:, :, :1], drawn)]
    told, all_rows = {}, []
    for name, captions in (("its words", [look.caption for look in asked]), ("no words", [""] * len(asked))):
        made = []
        for row in range(0, len(asked), each):
            part = slice(row, row + each)
            made += model.draw_videos(
                captions[part], start=starts[part], guidance_scale=guidance, seed=row
            ).movedim(-1, 1)
        rows, seen = measure(made, asked, truth), [see_sprite(video) for video in made]
        first = [psnr(video[:, :1], clip[:, :1]) for video, clip in zip(made, drawn)]
        lasting = [0.7 <= float(one.area[-1] / one.area[0].clamp_min(1)) <= 1.3 for one in seen]
        still = [bool(one.path.isfinite().all()) and float((one.path - one.path[:1]).norm(dim=1).max()) < 2
                 and 0.9 < float(one.area[-1] / one.area[0].clamp_min(1)) < 1.1 for one in seen]  # fmt: skip
        told[name] = {
            "first frame, dB": spread(first, 1), "the VAE's own, dB": spread(codec, 1),
            "moves as asked, %": percent(map(moves_as_asked, rows, seen)) if captions[0] else "-",
            "area kept within 30 % at the last frame, %": percent(lasting), "frozen, %": percent(still),
            "colour kept, %": share(rows, "colour"), "ground kept, %": share(rows, "ground"),
        }  # fmt: skip
        print(name, told[name], flush=True)
        all_rows += [{**row, "words": name, "first_db": db} for row, db in zip(rows, first)]
    return {"Image to video": [{"with": name, **row} for name, row in told.items()]}, all_rows


def decoded(model, drawn: torch.Tensor) -> torch.Tensor:
    """What the VAE makes of clips (b, 3, t, h, w)."""
    with torch.no_grad():
        back = [model.vae.decode(model.vae.encode(part * 2 - 1)) for part in drawn.split(8)]
    return (torch.cat(back) / 2 + 0.5).clamp(0, 1)


def percent(flags) -> float:
    flags = list(flags)
    return round(100 * sum(flags) / len(flags), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "motionblocks-wan.safetensors")
    parser.add_argument("--image-weights", type=Path, default=ROOT / "weights" / "motionblocks-wan-i2v.safetensors")
    parser.add_argument("--earlier", type=Path, help="weights of an earlier step of the same training")
    parser.add_argument("--each", type=int, default=8, help="prompts a motion")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 24 prompts, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.sheet:
        write_sheet(load_scene_model(arguments.weights), arguments.sheet, arguments.guidance)
        return
    words, rows = measure_words(arguments.weights, arguments.each, arguments.guidance)
    images, more = measure_images(arguments.image_weights, max(1, arguments.each // 2), arguments.guidance)
    noises = noise_table(load_scene_model(arguments.image_weights))
    heads = heads_table(arguments.weights, arguments.earlier)
    costs = words_table(load_scene_model(arguments.weights))
    finish("e8_tiny_wan", {**words, **images, **costs, **heads, **noises}, rows + more)


def write_sheet(model, path: Path, guidance: float | None) -> None:
    """Five frames a row of 24 random prompts, two rows side by side; prints the prompts in reading order."""
    source = SpriteSource(band_share=0.0, stripe_share=0.0)
    captions = [source.draw(torch.Generator().manual_seed(SEED + 7 * row)).caption for row in range(IN_SHEET)]
    videos = model.draw_videos(captions, guidance_scale=guidance, seed=1)
    strips = [torch.cat([video[frame] for frame in SHOWN], dim=1) for video in videos]
    pairs = [torch.cat(strips[row : row + 2], dim=1) for row in range(0, IN_SHEET, 2)]
    sheet = (torch.cat(pairs) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(path, quality=90)
    for row, caption in enumerate(captions):
        print(f"{row + 1}. {caption}")


if __name__ == "__main__":
    main()
