"""What a video made with motion adapters does: its flow, read from the decoded frames, against the true one."""

from contextlib import nullcontext
from dataclasses import replace

import torch
from clips_of_motion_adapters import MOMENTS, true_flow
from evidence_common import photo, photo_paths
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.conditioning.shared_noise import adapter_noise
from pack.motion.layers.warp import warp
from pack.motion.metrics.optical_flow import dense_flow, textured_mask
from pack.motion.sampling.draw import draw, make_noise
from torch import Tensor

PHOTOS = ("astronaut", "chelsea", "china", "flower")
SIDE = 160  # px of the photographs
NOISES = (0,)  # sampling seeds


def pictures() -> list[Tensor]:
    """The photographs, (3, SIDE, SIDE) each."""
    return [photo(photo_paths()[name], long_side=SIDE) for name in PHOTOS]


@torch.no_grad()
def latents(
    model, entries, bucket: int, *, seeds=NOISES, form: str = "delta", with_adapter_noise: bool = False
) -> Tensor:
    """Unscaled latents of every photograph and noise, (photographs · seeds, 200, 8, 8, 8), seeds running faster.

    entries: of a stack, each (adapter, weight) or a StackEntry; none is the model itself. The prompt is empty.
    """
    entries = tuple(entry if isinstance(entry, StackEntry) else StackEntry(*entry) for entry in entries)
    spec, codec = model.spec, model.codec
    first = spec.space.scaled(torch.cat([codec.encode(picture[None, :, None]) for picture in pictures()]))
    rows = len(first) * len(seeds)
    told = replace(model.encode([""] * rows), motion_bucket_id=torch.tensor(bucket).expand(rows),
                   first_latent=first.repeat_interleave(len(seeds), 0))  # fmt: skip
    noise = torch.cat([make_noise((1, 200, len(MOMENTS), *first.shape[3:]), seed) for seed in seeds])
    noise = noise.repeat(len(first), 1, 1, 1, 1)
    if with_adapter_noise:
        noise = adapter_noise(told.first_latent, noise)
    held = AdapterStack(entries, form=form).during(model.dit) if entries else nullcontext()
    with held:
        return spec.space.unscaled(draw(model.dit, noise, told, spec.sampling, guidance_scale=1.0))


def flows(model, made: Tensor) -> tuple[Tensor, Tensor]:
    """Backward flow of the decoded frames in sides, (rows, 8, SIDE, SIDE, 2), and where it can be trusted."""
    shown = pictures()
    clips = [model.codec.decode_onto(made[row : row + 1], shown[row * len(shown) // len(made)])[0].movedim(0, -1)
             for row in range(len(made))]  # fmt: skip
    return read_flows(clips)


def read_flows(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """As `flows`, of clips (8, SIDE, SIDE, 3)."""
    found = [torch.stack([dense_flow(frame, clip[0]) for frame in clip]) / SIDE for clip in clips]
    trusted = [torch.stack([textured_mask(frame) for frame in clip]) for clip in clips]
    return torch.stack(found), torch.stack(trusted)


def likeness(found: Tensor, trusted: Tensor, truth: Tensor) -> list[dict]:
    """Cosine and amplitude of each row's flow against `truth` (8, SIDE, SIDE, 2), over all frames at once."""
    rows = []
    for flow, mask in zip(found, trusted):
        weight = mask[1:, :, :, None].double()
        made, true = flow[1:].double() * weight, truth[1:].double() * weight
        along, size = float((made * true).sum()), float(true.square().sum())
        length = max((float(made.square().sum()) * size) ** 0.5, 1e-12)
        rows.append({"cosine": along / length, "amplitude": along / size})
    return rows


def truly_moved(motion: str) -> list[Tensor]:
    """The photographs moved by the true flow, as clips: what the flow meter makes of the truth itself."""
    flow = true_flow(motion, cells=SIDE).movedim(-1, 1) * SIDE
    return [warp(picture.expand(len(flow), -1, -1, -1), flow).clamp(0, 1).movedim(1, -1) for picture in pictures()]
