"""A square that walks to the right, with a stick figure's poses on it, as clips of any source."""

import numpy as np
import torch
from pack.motion.data.clips import Clip
from pack.motion.data.pose_clips import PosedClip
from pack.motion.pose.keypoints import Poses

HEIGHT, WIDTH = 32, 48
BODY = np.array(  # of 18 points, in px about its middle
    [(0, -10), (0, -6), (-3, -6), (-5, -2), (-6, 2), (3, -6), (5, -2), (6, 2), (-2, 2), (-2, 6), (-2, 10), (2, 2),
     (2, 6), (2, 10), (-1, -11), (1, -11), (-2, -10), (2, -10)], float,
)  # fmt: skip


def centre(frame):
    """Where the middle of the body is in a frame, x and y in px."""
    return np.array([12.0 + 0.5 * (frame % 40), 16.0])


def pictures(indices, seed=0):
    """Frames (t, 3, 32, 48): a ground of the clip's own, and a white square in which the frame is written as a grey."""
    ground = 0.5 * torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed))
    frames = ground.repeat(len(indices), 1, HEIGHT, WIDTH).view(len(indices), 3, HEIGHT, WIDTH)
    for row, index in enumerate(indices):
        x, y = centre(index).round().astype(int)
        frames[row, :, y - 10 : y + 10, x - 4 : x + 4] = 0.5 + index / 200
    return frames


def poses(num_frames, absent=()):
    """The figure in every frame but `absent`."""
    points = np.zeros((num_frames, 1, 136, 3))
    for frame in set(range(num_frames)) - set(absent):
        points[frame, 0, :18, :2] = BODY + centre(frame)
        points[frame, 0, :18, 2] = 1.0
    return Poses(points, WIDTH, HEIGHT)


def filmed(name="walk", seed=0, *, num_frames=40, fps=16.0, caption="a square walks"):
    """A clip at its own times."""
    return Clip(
        name, caption, num_frames, fps, HEIGHT, WIDTH, f"{name} {seed}", lambda indices: pictures(indices, seed),
        times=tuple(n / fps for n in range(num_frames)),
    )  # fmt: skip


def posed(name="walk", seed=0, *, absent=(), **more):
    """The clip with its poses."""
    clip = filmed(name, seed, **more)
    return PosedClip(clip, poses(clip.num_frames, absent))
