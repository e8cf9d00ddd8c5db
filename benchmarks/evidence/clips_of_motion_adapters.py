"""Motions that motionblocks-tiny never saw, whose flow is known on any picture: their fields, and ten clips of each."""

import math
from dataclasses import replace

import torch
from evidence_common import HELD_OUT_SEED
from pack.motion.data.clips import ClipCollection
from pack.motion.data.procedural.fields import AXES, Layout, grid_places, motion_field
from pack.motion.data.procedural.scenes import SceneSource
from pack.motion.data.procedural.textures import sample_periodic
from pack.motion.data.sources.images import image_clips, joined
from torch import Tensor

MOTIONS = ("sway", "pulse", "swirl", "jelly")
CLIPS, SIDE, FPS = 10, 64, 4.0
MOMENTS = tuple(range(0, 16, 2))  # of the fields' clock, 8 a second: a whole sway, two pulses
SPEED = 0.75  # at which a motion is looked for
SPEEDS = (0.5, 1.0)  # of the first and the last of ten clips
JELLY = 0.16  # log-scale at the turning point at full speed


def true_flow(motion: str, speed: float = SPEED, cells: int = SIDE) -> Tensor:
    """Backward flow against frame 0 in sides: (8, cells, cells, 2)."""
    time = torch.tensor(MOMENTS, dtype=torch.float32)
    if motion == "jelly":
        places = grid_places(cells) - 0.5
        squash = (JELLY * speed * (2 * math.pi * time / 16).sin()).view(-1, 1, 1)
        return torch.stack((places[..., 0] * (-squash).exp(), places[..., 1] * squash.exp()), -1) - places
    rate = torch.tensor([speed])
    return motion_field(motion, time.unsqueeze(0), rate, flat_layout() if motion in AXES else None, cells)[0]


def flat_layout() -> Layout:
    """A scene without ground, for camera moves."""
    none = torch.zeros(1)
    return Layout(torch.zeros(1, 4), torch.zeros(1, 1), torch.zeros(1, 4), none, torch.zeros(1, 2))


def make_clips(motion: str) -> ClipCollection:
    """Ten clips of 8 frames on ten drawn pictures, each at another speed. The trainer has to estimate their flow."""
    source, axis = SceneSource(SIDE, num_textures=64, seed=HELD_OUT_SEED), torch.arange(SIDE, dtype=torch.float32)
    own = HELD_OUT_SEED + 100 * MOTIONS.index(motion)
    scenes = source.draw([torch.Generator().manual_seed(own + n) for n in range(CLIPS)], captions=["still"] * CLIPS)
    made = None
    for index, speed in enumerate(torch.linspace(*SPEEDS, CLIPS).tolist()):
        flow = true_flow(motion, speed) * SIDE
        place = torch.stack((flow[..., 0] + axis, flow[..., 1] + axis.unsqueeze(1)), -1)
        frames = sample_periodic(scenes.canvas[index : index + 1], place.unsqueeze(0))[0].transpose(0, 1).clamp(0, 1)
        clip = image_clips(frames.contiguous(), fps=FPS, first=index + 1)
        made = clip if made is None else joined(made, clip)
    return replace(made, notes=(f"{motion} on drawn pictures",))
