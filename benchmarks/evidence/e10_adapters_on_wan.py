"""E10: does a motion adapter teach the small Wan a motion from ten clips, and what does one cost on a large Wan?

    python benchmarks/evidence/e10_adapters_on_wan.py
    python benchmarks/evidence/e10_adapters_on_wan.py --sheet docs/images/adapters_on_wan.jpg    a picture, no figures

Beside motionblocks-wan-i2v, for each of three motions that no shipped model has seen, a motion adapter and a LoRA of
the same size learn from the same ten drawn clips, with the empty prompt. Then they move ten new pictures, whose own
clips say how the sprite should go. The meter loses a sprite that frays: such clips are counted, and stand as -1 in the
means of all. The adapters are kept in --folder and are not trained again while they lie there.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from adapter_cost_common import cost_table, part_table
from evidence_common import ROOT, finish, spread, verdict
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.data.latent_dataset import LatentDataset, SampleInfo, TextEntry
from pack.motion.data.procedural.sprite_meter import see_sprite
from pack.motion.data.procedural.sprites import SpriteClip, SpriteSource
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.scene_model import SceneModel, load_scene_model
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import AdapterTask, adapter_task
from pack.motion.training.trainees.wan import WanTrainee
from pack.motion.training.trainer import Trainer
from PIL import Image

MOTIONS = ("arc", "stairs", "return")
CLIPS, NEW = 10, 10  # trained on; measured on
TRAIN_SEED, NEW_SEED = 2_000_003, 3_000_017
STEPS, BATCH = 240, 5
METHODS = {  # settings of each; the adapter's rate was chosen of two on the arc, LoRA's beside a smaller network
    "motion adapter": {"adapter": "miva", "rank": 16, "alpha": 16.0, "learning_rate": 6e-3},
    "LoRA": {"adapter": "lora", "rank": 6, "alpha": 6.0, "learning_rate": 5e-3,
             "targets": ("self_attn", "cross_attn")},
}  # fmt: skip
WEIGHTS = (0.0, 0.5, 1.0)
SHOWN = (0, 4, 8, 12, 16)  # frames of the sheet
BASE, CEILING = "model alone", "drawn clips, by the VAE"


def drawn(motion: str, count: int, seed: int) -> list[SpriteClip]:
    """Plain clips of one motion: those that the meter is made for."""
    source = SpriteSource(motions=(motion,), band_share=0.0, stripe_share=0.0)
    first = [source.draw(torch.Generator().manual_seed(seed + 100 * row)) for row in range(count)]
    plain = [replace(clip.look, texture="") for clip in first]
    return [source.draw(torch.Generator().manual_seed(seed + 100 * row), look) for row, look in enumerate(plain)]


def pictures(clips: list[SpriteClip]) -> torch.Tensor:
    """(b, 3, t, h, w) in [0, 1]."""
    return torch.stack([clip.render()[0] for clip in clips])


@torch.no_grad()
def dataset(model: SceneModel, clips: list[SpriteClip], motion: str) -> LatentDataset:
    """The clips as the trainer takes them, with the empty prompt alone."""
    videos = pictures(clips)
    latents = model.spec.space.scaled(model.vae.encode(videos * 2 - 1))
    beside = model.encode_start(videos[:, :, 0], videos.shape[2])
    rows = [{"latents": one, "concat_latents": other} for one, other in zip(latents, beside)]
    samples = [SampleInfo(f"{motion} {row}", "", 0, tuple(latents.shape[1:])) for row in range(len(clips))]
    texts = {"": TextEntry(model.encode([""]).context[0])}
    record = {"fingerprint": motion, "clips": [], "windows": {}, "encoders": "", "latent": {}}
    return LatentDataset(samples, texts, lambda row: {name: value.clone() for name, value in rows[row].items()},
                         record, "")  # fmt: skip


def trained(model: SceneModel, motion: str, method: str, path: Path) -> dict:
    """Train and save; what it took."""
    config = TrainingConfig.of(
        num_steps=STEPS, batch_size=BATCH, warmup_steps=10, sigma_sampling="uniform", caption_dropout=1.0,
        **METHODS[method],
    )  # fmt: skip
    task: AdapterTask = adapter_task(
        WanTrainee(model.dit, model.spec), dataset(model, drawn(motion, CLIPS, TRAIN_SEED), motion), config
    )
    before = time.process_time()
    losses = Trainer(task, config).run().losses
    took = {"cpu_seconds": time.process_time() - before, "loss": sum(losses[-20:]) / 20}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(path, task.adapter, {name: str(value) for name, value in took.items()})
    print(f"{motion}, {method}: {took}", flush=True)
    return took


def held(model: SceneModel, adapter, weight: float = 1.0) -> AdapterStack:
    space, sampling = model.spec.space, model.spec.sampling
    return AdapterStack((StackEntry(adapter, weight),), sampling.shift, space.temporal_ratio)


def moved(model: SceneModel, clips: list[SpriteClip], adapter=None, weight: float = 1.0) -> torch.Tensor:
    """Videos (b, 3, t, h, w) that begin with the clips' first frames, without words and without guidance."""
    told = {"start": pictures(clips)[:, :, 0], "guidance_scale": 1.0, "seed": 5}
    if adapter is None:
        return model.draw_videos([""] * len(clips), **told).movedim(-1, 1)
    with held(model, adapter, weight).during(model.dit):
        return model.draw_videos([""] * len(clips), **told).movedim(-1, 1)


@torch.no_grad()
def through_vae(model: SceneModel, clips: list[SpriteClip]) -> torch.Tensor:
    """The clips themselves as the VAE gives them back, (b, 3, t, h, w)."""
    latents = model.vae.encode(pictures(clips) * 2 - 1)
    return model.decode(model.spec.space.scaled(latents)).movedim(-1, 1)


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    """Cosine of two (t, 2); -1 where one is not finite."""
    if not one.isfinite().all():
        return -1.0
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-6))


def measured(videos: torch.Tensor, clips: list[SpriteClip]) -> list[dict]:
    """A row a video, against the clip whose first frame it began with."""
    rows = []
    for video, clip in zip(videos, clips):
        seen, true = see_sprite(video), see_sprite(clip.render()[0])
        path, way = seen.path, clip.path
        rows.append({
            "path": likeness(path - path.mean(0), way - way.mean(0)),
            "velocity": likeness(path.diff(dim=0), way.diff(dim=0)),
            "way": float(path.diff(dim=0).norm(dim=1).sum() / way.diff(dim=0).norm(dim=1).sum())
            if path.isfinite().all() else None,
            "object": seen.colour == true.colour and 0.5 <= float(seen.area[-1] / true.area[-1].clamp_min(1)) <= 1.6,
            "ground": seen.ground == true.ground,
        })  # fmt: skip
    return rows


def figures(rows: list[dict]) -> dict:
    """Path, velocity and way of the clips in which the sprite is seen to the end."""
    seen = [row for row in rows if row["way"] is not None]
    return {"sprite seen to the end": f"{len(seen)} of {len(rows)}",
            "path correlation": spread(row["path"] for row in seen),
            "velocity cosine": spread(row["velocity"] for row in seen),
            "way, of the true one": spread(row["way"] for row in seen),
            "object kept": round(mean_of(rows, "object"), 2), "ground kept": round(mean_of(rows, "ground"), 2)}


def mean_of(rows: list[dict], name: str) -> float:
    return round(sum(float(row[name]) for row in rows) / len(rows), 3)


def learning(model: SceneModel, folder: Path) -> tuple[dict, list[dict]]:
    """The table of what was learnt, by motion and method, and its rows."""
    table, all_rows, sizes, took = [], [], {}, {}
    for motion in MOTIONS:
        clips = drawn(motion, NEW, NEW_SEED)
        for method in (CEILING, BASE, *METHODS):
            adapter = None
            if method in METHODS:
                path = folder / f"{motion}-{method.replace(' ', '-')}.safetensors"
                if not path.is_file():
                    trained(model, motion, method, path)
                adapter, told = load_adapter(path, model.dit), metadata_of(path)
                sizes[method] = sum(value.numel() for value in adapter.parameters().values())
                took.setdefault(method, []).append(float(told["cpu_seconds"]))
            rows = measured(through_vae(model, clips) if method == CEILING else moved(model, clips, adapter), clips)
            table.append({"motion": motion, "with": method, **figures(rows)})
            all_rows += [{"motion": motion, "with": method, **row} for row in rows]
            print(table[-1], flush=True)
    summary = {}
    for method in METHODS:
        own = [row for row in all_rows if row["with"] == method]
        goals = {"path": 0.9, "velocity": 0.85, "object": 0.75, "ground": 0.95} if method != "LoRA" else {}
        for name in ("path", "velocity", "object", "ground"):
            value = mean_of(own, name)
            summary[f"{method}, {name}, mean of all"] = verdict(value, goals[name]) if name in goals else value
        summary[f"{method}, trained numbers"] = sizes[method]
        summary[f"{method}, processor seconds of a training"] = verdict(round(max(took[method]), 1), high=180)
    summary[f"{BASE}, path, mean of all"] = mean_of([row for row in all_rows if row["with"] == BASE], "path")
    return {**summary, "Ten new pictures a motion": table}, all_rows


def metadata_of(path: Path) -> dict[str, str]:
    from pack.motion.io.files.safetensors import read_header

    return dict(read_header(path).metadata)


def sliding(model: SceneModel, folder: Path) -> dict:
    """What a weight between 0 and 1 does."""
    clips = drawn("arc", NEW, NEW_SEED)
    alone, table = moved(model, clips), []
    for method in METHODS:
        adapter = load_adapter(folder / f"arc-{method.replace(' ', '-')}.safetensors", model.dit)
        row = {"arc with": method}
        for weight in WEIGHTS:
            videos = moved(model, clips, adapter, weight)
            if not weight:
                row["weight 0 is the model, bit for bit"] = "yes" if torch.equal(videos, alone) else "NO"
            rows = measured(videos, clips)
            row[f"path at {weight:g}"] = figures(rows)["path correlation"]
            row[f"velocity at {weight:g}"] = figures(rows)["velocity cosine"]
        table.append(row)
    return {"Weights": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "e10", help="of the trained adapters")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, measure nothing")
    parser.add_argument("--train", help="MOTION,METHOD: train these alone and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_scene_model(ROOT / "weights" / "motionblocks-wan-i2v.safetensors")
    if arguments.train:
        motion, method = arguments.train.split(",")
        trained(model, motion, method, arguments.folder / f"{motion}-{method.replace(' ', '-')}.safetensors")
        return
    if arguments.sheet:
        write_sheet(model, arguments.folder, arguments.sheet)
        return
    learnt, rows = learning(model, arguments.folder)
    finish("e10_adapters_on_wan", {**learnt, **sliding(model, arguments.folder), **cost_table(), **part_table()}, rows)


def write_sheet(model: SceneModel, folder: Path, path: Path) -> None:
    """Two pictures a motion; a row each: the drawn clip, the model alone, the motion adapter, the LoRA."""
    strips = []
    for motion in MOTIONS:
        clips = drawn(motion, 2, NEW_SEED)
        made = [pictures(clips), moved(model, clips)]
        for method in METHODS:
            adapter = load_adapter(folder / f"{motion}-{method.replace(' ', '-')}.safetensors", model.dit)
            made.append(moved(model, clips, adapter))
        rows = [torch.cat([torch.cat([video[row, :, frame] for frame in SHOWN], dim=2) for row in range(2)], dim=2)
                for video in made]  # fmt: skip
        strips.append(torch.cat(rows, dim=1))
    sheet = (torch.cat(strips, dim=1).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(path, quality=90)


if __name__ == "__main__":
    main()
