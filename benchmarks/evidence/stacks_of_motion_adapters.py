"""Motion adapters together: on two halves of a photo, two at once on all of it, and one at every weight.

How much of a motion there is, on a part of the picture, is the coefficient of its true flow in the flow read there.
"""

import statistics

import torch
from clips_of_motion_adapters import true_flow
from evidence_common import spread
from flows_of_motion_adapters import SIDE, flows, latents
from pack.motion.adapters.stack import StackEntry
from torch import Tensor

TOKENS = 8  # a side of the model's grid
PAIRS = (("sway", "pulse"), ("swirl", "jelly"))  # on the left, on the right
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def half(side: str, margin: int = 0) -> Tensor:
    """(1, SIDE, SIDE): 1 on the left or right half of the picture, less `margin` tokens at the edge between them."""
    mask, inside, token = torch.zeros(1, SIDE, SIDE), SIDE // 2, SIDE // TOKENS
    mask[..., : inside - margin * token] = 1
    return mask if side == "left" else mask.flip(-1)


def amounts(seen: tuple[Tensor, Tensor], motions: tuple[str, ...], where: Tensor | None = None) -> Tensor:
    """Coefficients (rows, motions) of the true flows in `flows`, by least squares over all frames and a part."""
    truths = torch.stack([true_flow(motion, cells=SIDE)[1:] for motion in motions]).double()
    rows = []
    for flow, trusted in zip(*seen):
        mask = trusted[1:] if where is None else trusted[1:] & where.bool()
        columns, wanted = truths[:, mask].flatten(1).T, flow[1:][mask].double().flatten()
        rows.append(torch.linalg.lstsq(columns, wanted.unsqueeze(1)).solution[:, 0])
    return torch.stack(rows)


def halves_rows(model, adapters: dict, bucket: int) -> list[dict]:
    """A row a motion of each pair: what is kept on its own half, what its adapter does on the other.

    adapters: by motion. Both are shares of what the adapter does there alone, without a mask. What one does on the
    other half is seen with its mask alone: with both, the other motion would be in the way. A token at the edge
    between the halves counts for neither.
    """
    alone = {motion: flows(model, latents(model, [(adapter, 1.0)], bucket)) for motion, adapter in adapters.items()}
    rows = []
    for pair in PAIRS:
        if not all(motion in adapters for motion in pair):
            continue
        entries = [StackEntry(adapters[motion], mask=half(side)) for motion, side in zip(pair, ("left", "right"))]
        both = flows(model, latents(model, entries, bucket))
        for motion, entry, here, there in zip(pair, entries, ("left", "right"), ("right", "left")):
            single = flows(model, latents(model, [entry], bucket))
            own, far = half(here, 1), half(there, 1)
            rows.append({
                "pair": " | ".join(pair), "motion": motion,
                "kept": ratio(amounts(both, (motion,), own), amounts(alone[motion], (motion,), own)),
                "leak": ratio(amounts(single, (motion,), far), amounts(alone[motion], (motion,), far)),
            })  # fmt: skip
    return rows


def at_once_rows(model, adapters: dict, pairs, bucket: int) -> list[dict]:
    """A row a pair and pair of weights: the share of each motion that is left when both act on the whole picture."""
    rows = []
    for pair in pairs:
        first = [amounts(flows(model, latents(model, [(adapters[name], 1.0)], bucket)), pair) for name in pair]
        for weight in (0.5, 1.0):
            both = amounts(flows(model, latents(model, [(adapters[name], weight) for name in pair], bucket)), pair)
            rows.append({"pair": " + ".join(pair), "weights": weight,
                         "first kept": ratio(both[:, :1], first[0][:, :1]),
                         "second kept": ratio(both[:, 1:], first[1][:, 1:])})  # fmt: skip
    return rows


def weight_rows(model, adapter, motion: str, bucket: int) -> list[dict]:
    """A row a weight: how much of the motion there is."""
    return [{"weight": weight, "amplitude": float(amounts(
        flows(model, latents(model, [(adapter, weight)], bucket)), (motion,)).mean())} for weight in WEIGHTS]


def ratio(part: Tensor, whole: Tensor) -> float:
    """Of the means over photographs and noises."""
    return float(part.mean() / whole.mean())


def of_seeds(rows: list[dict], key: str, digits: int = 2, **where) -> str:
    """Mean ± spread of the training seeds; each seed counts with the mean of its rows that are like `where`."""
    mine = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return spread([statistics.fmean(row[key] for row in mine if row["seed"] == seed)
                   for seed in dict.fromkeys(row["seed"] for row in mine)], digits)
