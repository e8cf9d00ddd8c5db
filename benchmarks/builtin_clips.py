"""The built-in model on held-out generator clips: PSNR against the static copy, speed ratio. Writes JSON."""

import argparse
import time

import torch
from builtin_common import DIRECTED, HELD_OUT_SEED, load_model, psnr, sample, save, verdict
from pack.motion.data.procedural.camera import draw_scenes
from pack.recipes.tiny_trainer import label_scenes

PAIRS = ("pan left, zoom in", "pan up, rotate right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="default: the shipped file")
    parser.add_argument("--clips", type=int, default=24, help="clips a motion")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's")
    parser.add_argument("--solver", default="flow_dpm_2m", choices=("flow_dpm_2m", "euler"))
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="builtin_clips", help="of the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    figures, rows = measure(load_model(arguments.weights), arguments.clips, num_frames=arguments.frames,
                            num_steps=arguments.steps, solver=arguments.solver)
    figures["seconds"] = round(time.monotonic() - started)
    save(arguments.name, figures, rows)


def measure(model, num_clips: int, *, num_frames: int = 16, num_steps=None, solver="flow_dpm_2m"):
    """Figures over all single camera motions, and a line for every motion."""
    rows = []
    for index, motion in enumerate((*DIRECTED, *PAIRS)):
        rows += clips(model, motion, num_clips, HELD_OUT_SEED + index, num_frames, num_steps, solver)
    mine = [row for row in rows if row["motion"] in DIRECTED]
    figures = {"clips": len(rows),
               "camera motions, mean PSNR over the static copy, dB": verdict(mean(mine, "gain_db"), low=6),
               "camera motions, median speed ratio": verdict(median(mine, "speed_ratio"), 0.8, 1.2),
               "camera motions, share of clips with speed ratio 0.8-1.2": round(
                   sum(0.8 <= row["speed_ratio"] <= 1.2 for row in mine) / len(mine), 3)}
    for motion in dict.fromkeys(row["motion"] for row in rows):
        part = [row for row in rows if row["motion"] == motion]
        figures[motion] = {"psnr_db": round(mean(part, "psnr_db"), 2), "static_db": round(mean(part, "static_db"), 2),
                           "gain_db": round(mean(part, "gain_db"), 2),
                           "speed_ratio": round(median(part, "speed_ratio"), 3),
                           "flow_error_px": round(mean(part, "flow_error_px"), 3)}
    return figures, rows


def clips(model, motion: str, num_clips: int, seed: int, num_frames: int, num_steps, solver: str) -> list[dict]:
    """One motion: clips that move at all, sampled from pure noise with their own measured bucket."""
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_scenes(2 * num_clips, generator, motions=[motion] * (2 * num_clips))
    scenes, bucket = label_scenes(drawn, model.spec.dynamics, generator)
    truth, flow = scenes.render(torch.arange(num_frames).expand(2 * num_clips, -1))
    keep = (bucket > 0).nonzero().flatten()[:num_clips]
    truth, flow, bucket = truth[keep], flow[keep], bucket[keep]
    first = model.codec.encode(truth[:, :, :1])
    latents = sample(model, first, [motion] * len(keep), bucket, seeds=seed, num_frames=num_frames,
                     num_steps=num_steps, solver=solver)
    made, made_flow = model.codec.decode(latents), model.codec.flow_of(latents)
    way = flow.square().sum(2).sqrt().flatten(2).median(2).values  # (b, t) px
    rows = []
    for row in range(len(keep)):
        at = num_frames - 1
        made_way = float(made_flow[row, at].square().sum(0).sqrt().median())
        ours, static = psnr(made[row, :, 1:], truth[row, :, 1:]), psnr(truth[row, :, :1].expand_as(truth[row])[:, 1:],
                                                                      truth[row, :, 1:])
        rows.append({"motion": motion, "bucket": int(bucket[row]), "psnr_db": ours, "static_db": static,
                     "gain_db": ours - static, "true_px": float(way[row, at]), "made_px": made_way,
                     "speed_ratio": made_way / max(float(way[row, at]), 1e-3),
                     "flow_error_px": float((made_flow[row] - flow[row])[1:].abs().mean())})
    return rows


def mean(rows: list[dict], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def median(rows: list[dict], key: str) -> float:
    return float(torch.tensor([row[key] for row in rows]).median())


if __name__ == "__main__":
    main()
