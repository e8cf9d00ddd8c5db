"""What is measured on sampled clips of the arms: nearness to the truth, motion, drift, background."""

import math

import torch
from arms import FRAMES, Clips
from evidence_common import psnr
from pack.motion.metrics.optical_flow import median_flow
from torch import Tensor

FAR = FRAMES // 2  # frame index up to which motion is measured: DIS loses the largest steps after it
MIN_WAY = 1.0  # px; slower clips have no direction to get right


def score_clip(made: Tensor, truth: Tensor, way: Tensor) -> dict:
    """made, truth: (3, FRAMES, 64, 64); way: (2,) true px from the first to the last frame.

    Lists go over frames 2 to FRAMES.
    """
    static = truth[:, :1].expand_as(truth)
    error = [float((made[:, n] - truth[:, n]).square().mean()) for n in range(1, FRAMES)]
    row = {
        "psnr_db": [psnr(made[:, n], truth[:, n]) for n in range(1, FRAMES)],
        "static_db": [psnr(static[:, n], truth[:, n]) for n in range(1, FRAMES)],
        "mse": error,
        "colour_error": [float((made[:, n] - truth[:, n]).mean((-1, -2)).abs().mean()) for n in range(1, FRAMES)],
        "first_to_second_db": psnr(made[:, 1], made[:, 0]),
        "sharpness": sharpness(made[:, 1:]) / max(sharpness(truth[:, 1:]), 1e-9),
    }
    return {**row, **motion(made, way * FAR / (FRAMES - 1))}


def sharpness(frames: Tensor) -> float:
    """Mean |difference of neighbouring pixels| along rows and columns."""
    return float(frames.diff(dim=-1).abs().mean() + frames.diff(dim=-2).abs().mean())


def motion(made: Tensor, way: Tensor) -> dict:
    """Flow from the first frame to frame FAR, against the true way: length, direction, share of the true speed."""
    first, later = (made[:, n].movedim(0, -1) for n in (0, FAR))
    flow = median_flow(first, later)
    true = way.tolist()
    axis = int(abs(true[1]) > abs(true[0]))
    moves = abs(true[axis]) >= MIN_WAY
    right = flow[axis] * true[axis] > 0 and abs(flow[axis]) > max(0.5, abs(flow[1 - axis]))
    return {"true_px": math.hypot(*true), "flow_px": math.hypot(*flow), "right": bool(right) if moves else None,
            "speed_ratio": flow[axis] / true[axis] if moves else None}


def score(made: Tensor, clips: Clips) -> list[dict]:
    """A row a clip."""
    return [{"caption_id": int(clips.caption_ids[at]), **score_clip(made[at], clips.pictures[at], clips.way[at])}
            for at in range(len(made))]


def average(rows: list[dict], key: str, frame: int | None = None) -> float:
    """Mean over clips that have the figure; over all frames, or at one (index into frames 2..FRAMES)."""
    values = [row[key] for row in rows if row[key] is not None]
    if values and isinstance(values[0], list):
        values = [row[frame] if frame is not None else sum(row) / len(row) for row in values]
    return sum(values) / len(values) if values else math.nan


def moving(rows: list[dict], still_id: int) -> list[dict]:
    return [row for row in rows if row["caption_id"] != still_id]


def standing(rows: list[dict], still_id: int) -> list[dict]:
    return [row for row in rows if row["caption_id"] == still_id]


def ratio_of_last_to_second(rows: list[dict], key: str) -> float:
    """How many times larger a figure is at the last frame than at frame 2 (means over clips): what accumulates."""
    return average(rows, key, FRAMES - 2) / max(average(rows, key, 0), 1e-12)


def stack_frames(made: dict[str, Tensor], truth: Tensor, frames=(0, 1, 3, 5, 7)) -> Tensor:
    """Rows truth and arms, columns frames: one picture (3, h, w) to look at."""
    rows = [truth, *made.values()]
    return torch.cat([torch.cat([clip[:, n] for n in frames], -1) for clip in rows], -2)
