"""E11: one clip in, its motion out: do two stages, or a choice of heads, keep the clip's looks out of other pictures?

    python benchmarks/evidence/e11_motion_transfer.py
    python benchmarks/evidence/e11_motion_transfer.py --sheet docs/images/motion_transfer.jpg    a picture, no figures

Beside motionblocks-wan, from one drawn clip each of six motions that no shipped model has seen. A clip has two looks
that its caption does not name: an orange band at an edge and a cyan stripe on the sprite. Every arm learns as many
numbers in as many steps by the same loss; then it draws four subjects on other grounds, without a word of motion. What
is kept in --folder is not trained again.
"""

import argparse
import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from evidence_common import ROOT, finish, spread, verdict
from meter_of_motion_transfer import measured
from pack.motion.adapters.head_lora import head_lora
from pack.motion.adapters.lora import LoRA
from pack.motion.analysis.head_map import HeadMap
from pack.motion.choices import ALL_HEADS, BOTH, TEMPORAL
from pack.motion.data.clips import Clip
from pack.motion.data.encoders import TextEntry, wan_encoders
from pack.motion.data.motion_clip import MotionClip, encode_motion_clip
from pack.motion.data.procedural.sprite_words import HELD_BACK
from pack.motion.data.procedural.sprites import SpriteClip, SpriteLook, SpriteSource
from pack.motion.data.sparse_frames import plan_frames
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.io.files.safetensors import read_header
from pack.motion.scene_model import SceneModel, load_scene_model
from pack.motion.training.head_classes import classify_heads
from pack.motion.training.motion_transfer import PRESETS, motion_metadata, motion_task
from pack.motion.training.trainees.wan import WanTrainee
from pack.motion.training.trainer import Trainer
from PIL import Image

SEEDS, CLIP_SEED = (0, 1), 4_000_037
FPS, FRAMES, SPARSE = 16.0, 17, 9
# What the clips show, and what is drawn with their motion: no colour near the band's or the stripe's.
SHOWN_BY_CLIPS = (("red", "ball", "grass"), ("yellow", "box", "night"), ("red", "cross", "sky"),
                  ("yellow", "ring", "bricks"), ("red", "triangle", "snow"), ("yellow", "ball", "grass"))  # fmt: skip
DRAWN = ("blue ball, on sand", "purple box, on grass", "white ball, at night", "black box, on snow")
EDGES = ("left", "right", "top", "bottom")
SHORT = ("arc", "stairs")  # motions of the arms that leave out one part
IN_SHEET = (0, 4, 8, 12, 16)
BASE, CEILING = "model alone", "drawn clips, by the VAE"


@dataclass(frozen=True)
class Arm:
    """How one motion is learned. heads: of the stage that is used, "temporal", "random", "spatial" or all."""

    stage: str
    heads: str = ALL_HEADS
    sparse: int = SPARSE
    places: str = "stride"
    motions: tuple[str, ...] = HELD_BACK


ARMS = {
    "one stage, all heads (naive)": Arm(TEMPORAL),
    "one stage, temporal heads": Arm(TEMPORAL, "temporal"),
    "one stage, as many random heads": Arm(TEMPORAL, "random"),
    "one stage, as many spatial heads": Arm(TEMPORAL, "spatial"),
    "two stages, temporal heads": Arm(BOTH, "temporal"),
    "two stages, all heads": Arm(BOTH),
    "two stages, all heads, all frames": Arm(BOTH, sparse=0, motions=SHORT),
    "two stages, all heads, places not spread": Arm(BOTH, places="off", motions=SHORT),
}  # fmt: skip
NAIVE, TWO = "one stage, all heads (naive)", ("two stages, temporal heads", "two stages, all heads")


def reference(motion: str) -> SpriteClip:
    """The clip that a motion is learned from, with both looks that its caption does not name."""
    index = HELD_BACK.index(motion)
    colour, shape, ground = SHOWN_BY_CLIPS[index]
    look = SpriteLook(colour, shape, ground, motion, band=EDGES[index % len(EDGES)], striped=True)
    return SpriteSource().draw(torch.Generator().manual_seed(CLIP_SEED + index), look)


def prepared(model: SceneModel, drawn: SpriteClip, sparse: int) -> MotionClip:
    """The clip as the node prepares it."""
    frames = drawn.render()[0].movedim(1, 0)
    clip = Clip(drawn.look.motion, drawn.caption, FRAMES, FPS, *frames.shape[2:], f"drawn {CLIP_SEED} {drawn.caption}",
                lambda indices: frames[list(indices)])  # fmt: skip
    encoders = wan_encoders(model.vae, lambda caption: text_of(model, caption), "words")
    plan = plan_frames(clip, num_frames=FRAMES, sparse_frames=sparse)
    return encode_motion_clip(clip, plan, encoders, model.spec.space, resolution=64)


def text_of(model: SceneModel, caption: str) -> TextEntry:
    return TextEntry(model.encode([caption]).context[0])


def map_of(model: SceneModel, clip: MotionClip) -> HeadMap:
    """The heads as the node looks at them."""
    row = {"latents": clip.whole["latents"].unsqueeze(0), "context": text_of(model, clip.caption).context.unsqueeze(0)}
    return classify_heads(WanTrainee(model.dit, model.spec), row)


def with_heads(found: HeadMap, heads: str, seed: int) -> HeadMap:
    """A map in which as many heads as are temporal, but others, stand as temporal."""
    if heads in (ALL_HEADS, "temporal"):
        return found
    count, lean = int(found.temporal.sum()), found.log_ratio.flatten()
    order = lean.argsort() if heads == "spatial" else torch.randperm(
        lean.numel(), generator=torch.Generator().manual_seed(1000 + seed))  # fmt: skip
    chosen = torch.zeros_like(lean)
    chosen[order[:count]] = 1.0
    figures = chosen.view(1, *found.temporal.shape).double()
    return found.changed(space=1.0 - 0.9 * figures, time=0.1 + 0.9 * figures, looks=found.looks[:1])


def equal_rank(model: SceneModel, chosen: torch.Tensor, rank: int) -> int:
    """The rank at which a LoRA of the chosen heads holds as many numbers as one of all heads at `rank`."""

    def numbers(heads):
        made = head_lora(model.dit, heads, rank=1, alpha=1.0)
        return sum(value.numel() for value in made.parameters().values())

    return max(1, round(rank * numbers(torch.ones_like(chosen)) / numbers(chosen)))


def trained(model: SceneModel, motion: str, arm: Arm, seed: int, path: Path) -> None:
    """Train and save what the arm is for."""
    preset, clip = PRESETS["tiny"], prepared(model, reference(motion), arm.sparse)
    found = with_heads(map_of(model, clip), arm.heads, seed)
    chosen = torch.ones_like(found.temporal) if arm.heads == ALL_HEADS else found.temporal
    rank = equal_rank(model, chosen, preset.training["rank"])
    heads = ALL_HEADS if arm.heads == ALL_HEADS else TEMPORAL
    settings = replace(preset.settings, stage=arm.stage, heads=heads, places=arm.places)
    config = preset.config(arm.stage, seed=seed, rank=rank)
    task, _ = motion_task(WanTrainee(model.dit, model.spec), clip, text_of(model, clip.caption), config, settings,
                          head_map=found)  # fmt: skip
    before = time.process_time()
    losses = Trainer(task, config).run().losses
    told = {"cpu_seconds": f"{time.process_time() - before:.1f}", "loss": f"{sum(losses[-20:]) / 20:.4f}",
            "numbers": str(sum(value.numel() for value in task.adapter.parameters().values()))}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(path, task.adapter, {**motion_metadata(clip, settings, TEMPORAL, found), **told})
    print(f"{path.stem}: {told}", flush=True)


def drawn_with(model: SceneModel, adapter: LoRA | None, seed: int) -> torch.Tensor:
    """Videos (b, 3, t, h, w) of the four other subjects."""
    with contextlib.nullcontext() if adapter is None else adapter.attached(1.0):
        return model.draw_videos(DRAWN, seed=100 + 10 * seed).movedim(-1, 1)


@torch.no_grad()
def true_clips(model: SceneModel, motion: str) -> torch.Tensor:
    """The four subjects as the generator draws them with the motion and both looks, by the VAE: (b, 3, t, h, w)."""
    made, clip = [], reference(motion)
    for caption in DRAWN:
        colour, shape, *_, ground = caption.replace(",", "").split()
        look = replace(clip.look, colour=colour, shape=shape, ground=ground)
        same = torch.Generator().manual_seed(CLIP_SEED + HELD_BACK.index(motion))
        made.append(SpriteSource().draw(same, look).render()[0])
    latents = model.vae.encode(torch.stack(made) * 2 - 1)
    return model.decode(model.spec.space.scaled(latents)).movedim(-1, 1)


def path_of(folder: Path, motion: str, name: str, seed: int) -> Path:
    return folder / f"{motion}-{''.join(letter if letter.isalnum() else '-' for letter in name)}-{seed}.safetensors"


def learning(model: SceneModel, folder: Path, *, train: bool = True) -> list[dict]:
    """A row a video of every arm, motion and seed; what is missing is trained, or left out."""
    rows = []
    for motion in HELD_BACK:
        clip = reference(motion)
        for what, videos in ((CEILING, true_clips(model, motion)), *(
            (BASE, drawn_with(model, None, seed)) for seed in SEEDS)):  # fmt: skip
            rows += [{"motion": motion, "arm": what, **row} for row in measured(videos, clip, DRAWN)]
    for seed in SEEDS:
        for motion in HELD_BACK:
            for name, arm in ARMS.items():
                path = path_of(folder, motion, name, seed)
                if motion not in arm.motions or not (train or path.is_file()):
                    continue
                if not path.is_file():
                    trained(model, motion, arm, seed, path)
                told = read_header(path).metadata
                facts = {"motion": motion, "arm": name, "seed": seed, "seconds": float(told["cpu_seconds"]),
                         "numbers": int(told["numbers"])}  # fmt: skip
                videos = drawn_with(model, load_adapter(path, model.dit), seed)
                rows += [{**facts, **row} for row in measured(videos, reference(motion), DRAWN)]
    return rows


def figures(rows: list[dict]) -> dict:
    """What a table says of the rows of an arm; of motion where the sprite is seen, else 0."""
    return {
        "clips": len(rows), "sprite seen, %": percent(rows, "seen"),
        "path correlation": of_motions(rows, "path"), "velocity cosine": of_motions(rows, "velocity"),
        "way, of the clip's": spread([row["way"] for row in rows]),
        "band": of_motions(rows, "band"), "stripe": of_motions(rows, "stripe"),
        "the clip's colour, %": percent(rows, "clip's colour"), "colour as told, %": percent(rows, "colour kept"),
    }  # fmt: skip


def mean_of(rows: list[dict], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def of_motions(rows: list[dict], name: str) -> str:
    """Mean over motions, with the spread between them."""
    motions = dict.fromkeys(row["motion"] for row in rows)
    return spread([mean_of([row for row in rows if row["motion"] == motion], name) for motion in motions])


def percent(rows: list[dict], name: str) -> float:
    return round(100 * mean_of(rows, name), 1)


def tables(rows: list[dict]) -> dict:
    """Goals and tables."""
    by_arm = {name: [row for row in rows if row["arm"] == name] for name in (CEILING, BASE, *ARMS)}
    by_arm = {name: found for name, found in by_arm.items() if found}
    best = max((name for name in TWO if name in by_arm), key=lambda name: mean_of(by_arm[name], "path"))
    naive, mine = by_arm[NAIVE], by_arm[best]
    half = round(mean_of(naive, "stripe") / 2, 3)
    told = {
        "best of the two-stage forms": best,
        "its path correlation": verdict(round(mean_of(mine, "path"), 3), 0.9),
        "its band": verdict(round(mean_of(mine, "band"), 3), high=0.1),
        "the naive form's band": verdict(round(mean_of(naive, "band"), 3), 0.9),
        "its stripe": verdict(round(mean_of(mine, "stripe"), 3), high=half),
        "processor seconds of a training, most": round(max(row["seconds"] for row in rows if "seconds" in row), 1),
        "trained numbers": " to ".join(str(pick(row["numbers"] for row in rows if "numbers" in row))
                                       for pick in (min, max)),
    }  # fmt: skip
    whole = [{"arm": name, **figures(found)} for name, found in by_arm.items()
             if name not in ARMS or ARMS[name].motions == HELD_BACK]  # fmt: skip
    less = [{"arm": name, **figures([row for row in found if row["motion"] in SHORT])}
            for name, found in by_arm.items()
            if name == TWO[1] or name in ARMS and ARMS[name].motions == SHORT]  # fmt: skip
    each = [{"motion": motion, **{
        f"{name}: {what}": round(mean_of([row for row in by_arm[name] if row["motion"] == motion], what), 2)
        for name in (NAIVE, *TWO) for what in ("path", "band", "stripe")
    }} for motion in HELD_BACK]  # fmt: skip
    return {**told, "All six motions": whole, f"{' and '.join(SHORT)}, one part left out": less, "By motion": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "e11", help="of the trained LoRAs")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, measure nothing")
    parser.add_argument("--train", help="MOTION,SEED: train these alone and stop")
    parser.add_argument("--kept", action="store_true", help="train nothing, measure what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_scene_model(ROOT / "weights" / "motionblocks-wan.safetensors")
    if arguments.sheet:
        write_sheet(model, arguments.folder, arguments.sheet)
        return
    if arguments.train:
        motion, seed = arguments.train.split(",")
        for name, arm in ARMS.items():
            path = path_of(arguments.folder, motion, name, int(seed))
            if motion in arm.motions and not path.is_file():
                trained(model, motion, arm, int(seed), path)
        return
    rows = learning(model, arguments.folder, train=not arguments.kept)
    finish("e11_motion_transfer", tables(rows), rows)


def write_sheet(model: SceneModel, folder: Path, path: Path) -> None:
    """A row each: the clip, the model alone, naive, two stages; two motions and two subjects side by side."""
    rows = []
    for what in ("clip", BASE, NAIVE, TWO[1]):
        strips = []
        for motion in SHORT:
            adapter = load_adapter(path_of(folder, motion, what, 0), model.dit) if what in ARMS else None
            videos = drawn_with(model, adapter, 0) if what != "clip" else [reference(motion).render()[0]] * len(DRAWN)
            strips += [torch.cat([videos[which][:, frame] for frame in IN_SHEET], dim=2) for which in (0, 3)]
        rows.append(torch.cat(strips, dim=2))
    sheet = (torch.cat(rows, dim=1).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(path, quality=90)


if __name__ == "__main__":
    main()
