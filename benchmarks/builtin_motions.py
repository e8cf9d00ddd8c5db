"""Every motion of a built-in model on photographs, three sampling seeds: does it move what it should? Writes JSON.

Camera motions: direction as in builtin_photos.py. Objects, skies, waterfalls and water are drawn into the photographs,
so that it is known what should move and where to; optical flow of the clip is compared with that. Right means: along
the true way within 45 degrees, longer than half a pixel of a 64 px picture, and twice as far as what should stand
still. Rain and snow: visible change, and the background's optical flow: of the median of five frames, which takes out
what falls, since a drop fools the flow meter where the photograph is smooth. Beside it stands the flow of the frame as
it is, and that of the same photograph, held still, with drawn weather in front of it.
"""

import argparse
import json
import math
import time

import torch
from builtin_common import DIRECTED, RESULTS, load_model, photo, photo_paths, sample, save, verdict
from pack.motion.data.procedural.fields import OBJECT_WORDS, PICTURE_WORDS, REGION_WORDS
from pack.motion.data.procedural.paint import Dice, paint_fall, paint_objects, paint_sky, paint_water
from pack.motion.data.procedural.scenes import SceneBatch, SceneSource
from pack.motion.data.procedural.weather import KINDS
from pack.motion.metrics.optical_flow import dense_flow, direction_agrees, textured_mask

SIDE = 256  # px of the photographs
LOOK = {  # frames at which a motion is well away from where it began
    "bounce": (4, 12), "orbit": (4, 12), "swing": (4, 12), "sway": (4, 12), "pulse": (4, 12), "shake": (2, 7),
    "spin": (3, 6), "ripple": (4, 9), "swirl": (4, 8),
}  # fmt: skip
BRUSHES = {"clouds": paint_sky, "waterfall": paint_fall, "ripple": paint_water}
CAMERA_FRAMES = [0, 2, 4, 6, 8, 10]
MIN_WAY = 0.5 * SIDE / 64  # px
SEEN = 0.06  # change of brightness that the eye takes for a drop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="default: the shipped file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="sampling seeds")
    parser.add_argument("--photos", type=int, default=13, help="only the first N photographs")
    parser.add_argument("--motions", nargs="+", help="default: all the model knows")
    parser.add_argument("--bucket", type=int, default=12)
    parser.add_argument("--name", default="builtin_motions", help="of the results file")
    parser.add_argument("--keep", action="store_true", help="keep the rows of motions not named by --motions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, model = time.monotonic(), load_model(arguments.weights or "motionblocks-small")
    source = SceneSource(SIDE, num_textures=4, seed=99)
    rows = kept(arguments) if arguments.keep else []
    for number, (name, path) in enumerate(list(photo_paths().items())[: arguments.photos]):
        for motion in arguments.motions or [word for word in model.vocabulary.words if word != "still"]:
            rows += measure(model, source, name, photo(path, long_side=SIDE), motion, arguments, number)
    figures = {"photographs": arguments.photos, "clips": len(rows), "sampling seeds": len(arguments.seeds),
               **table(rows), "seconds": round(time.monotonic() - started)}
    save(arguments.name, figures, rows)


def kept(arguments) -> list[dict]:
    """Rows of the results file whose motions are not measured again."""
    rows = json.loads((RESULTS / f"{arguments.name}.json").read_text())["rows"]
    return [row for row in rows if row["motion"] not in (arguments.motions or ())]


def measure(model, source, name: str, picture, motion: str, arguments, number: int) -> list[dict]:
    """One motion on one photograph, a row a sampling seed."""
    scenes = pasted(source, picture, motion, arguments.bucket / 19, 1000 + number)
    picture = scenes.render(torch.zeros(1, 1, dtype=torch.long))[0][0, :, 0]
    first = model.codec.encode(picture[None, :, None])
    count = len(arguments.seeds)
    latents = sample(model, first.expand(count, -1, -1, -1, -1), [motion] * count, arguments.bucket,
                     seeds=arguments.seeds)
    rows = []
    for row, seed in enumerate(arguments.seeds):
        clip = model.codec.decode_onto(latents[row : row + 1], picture)[0].movedim(0, -1)
        if motion in DIRECTED:
            found = {"right": bool(direction_agrees(motion, clip[CAMERA_FRAMES]))}
        else:
            found = weather(clip, drawn(scenes)) if motion in KINDS else moved(scenes, clip, motion)
        rows.append({"photo": name, "motion": motion, "seed": seed, **found})
    return rows


def pasted(source: SceneSource, picture, motion: str, speed: float, seed: int) -> SceneBatch:
    """The photograph as a scene, with what the motion needs drawn into it."""
    scenes = source.draw([torch.Generator().manual_seed(seed)], captions=[motion]).at_speed(torch.tensor([speed]))
    margin = scenes.canvas.shape[-1] - SIDE
    canvas = torch.nn.functional.pad(picture[None], (0, margin, 0, margin), mode="reflect")
    dice = Dice([torch.Generator().manual_seed(seed + 1)])
    texture = source.textures.pick(torch.tensor([seed]))
    brush = BRUSHES.get(motion, paint_objects if motion in OBJECT_WORDS else None)
    if brush:
        canvas = brush(canvas, texture, scenes.layout, SIDE, dice)
    return SceneBatch(SIDE, canvas, scenes.layout, scenes.speed, scenes.captions, scenes.weather)


def moved(scenes: SceneBatch, clip, motion: str) -> dict:
    """Optical flow back to frame 0 against the true one, where something should move and where nothing should."""
    found = {"right": True}
    for frame in LOOK.get(motion, (4, 9)):
        truth = torch.nn.functional.interpolate(scenes.flow(torch.tensor([[frame]]))[:, 0], size=SIDE, mode="bilinear")
        truth = truth[0].movedim(0, -1)
        made = dense_flow(clip[frame], clip[0])
        length, textured = truth.norm(dim=-1), textured_mask(clip[frame])
        core = (length > 0.6 * length.max()) & textured
        still = (length < 0.05 * length.max()) & textured
        core = core if core.sum() > 50 else length > 0.6 * length.max()
        along = (made * truth).sum(-1)[core] / length[core]
        across = (made[..., 0] * truth[..., 1] - made[..., 1] * truth[..., 0])[core] / length[core]
        way, aside = float(along.median()), float(across.median())
        rest = float(made[still].norm(dim=-1).median()) if still.sum() > 200 else 0.0
        degrees = abs(math.degrees(math.atan2(aside, way)))
        minimum = min(MIN_WAY, 0.25 * float(length.max()))
        found["right"] &= degrees < 45 and way > minimum and way > 2 * rest
        found[f"frame {frame}"] = {"true_px": float(length[core].median()), "way_px": way, "degrees": degrees,
                                   "rest_px": rest}
    return found


def drawn(scenes: SceneBatch):
    """The photograph held still with drawn weather in front of it: (16, h, w, 3)."""
    return scenes.render(torch.arange(16).unsqueeze(0))[0][0].movedim(0, -1)


def weather(clip, control) -> dict:
    """How much is seen of rain and snow, and how far the background moved, in px of the working size."""
    change = (clip[1:] - clip[:1]).mean(-1).abs()
    between = (clip[2:] - clip[1:-1]).mean(-1).abs()
    seen, alive = float((change > SEEN).float().mean()), float((between > SEEN).float().mean())
    cleared = torch.stack([clip[max(1, n - 2) : n + 3].median(0).values for n in range(len(clip))])
    flow = {"background_px": background(clip[0], cleared), "with weather_px": background(clip[0], clip),
            "drawn weather_px": background(control[0], control)}
    return {"right": seen > 0.02 and alive > 0.02 and flow["background_px"] < 0.5, "seen": seen, "alive": alive, **flow}


def background(first, clip) -> float:
    """Largest median flow from the first frame to three later ones, over its textured pixels, px of 128."""
    textured = textured_mask(first)
    return max(float(dense_flow(first, clip[n])[textured].norm(dim=-1).median()) for n in (5, 10, 13)) * 128 / SIDE


def table(rows: list[dict]) -> dict:
    """Share of right clips by group and by motion."""
    figures = {}
    groups = {"camera": (DIRECTED, 97), "objects": (OBJECT_WORDS, 70), "regions": (REGION_WORDS, 70),
              "whole picture": (PICTURE_WORDS, 70), "rain and snow": (KINDS, 70)}
    for name, (words, need) in groups.items():
        mine = [row["right"] for row in rows if row["motion"] in words]
        if mine:
            figures[f"{name}, right, %"] = verdict(100 * sum(mine) / len(mine), low=need)
    for motion in dict.fromkeys(row["motion"] for row in rows):
        mine = [row for row in rows if row["motion"] == motion]
        figures[motion] = {"right, %": round(100 * sum(row["right"] for row in mine) / len(mine), 1)}
        for key in ("seen", "alive", "background_px", "with weather_px", "drawn weather_px"):
            if key in mine[0]:
                figures[motion][key] = round(max(row[key] for row in mine) if "px" in key else
                                             sum(row[key] for row in mine) / len(mine), 3)
    return figures


if __name__ == "__main__":
    main()
