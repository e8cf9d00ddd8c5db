"""Make the pose files and the drawn character that come with the pack: `python tools/make_pose_samples.py`.

A puppet of the generator walks and another dances, with hands, faces and feet, as a detector would see them: with
jitter, and points lost for a few frames. The character is a third puppet, of other proportions, drawn large on grass;
its pose is the reference that clips are fitted to. Two more are for the small Wan that follows poses: a square picture
of a puppet, and a slow dance of another. Everything is drawn from one seed.
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mounted_pack import ROOT, mount_pack

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
WIDTH, HEIGHT = 832, 480
NUM_FRAMES = 40
JITTER = 1.2  # px
STEPS = 26  # frames for a left and a right step
LEFT_WRIST, RIGHT_ANKLE = 7, 10
SIDE, SLOW_FRAMES, DANCER = 192, 33, 59  # of what is for the small Wan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "poses")
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    mount_pack()
    from pack.motion.io.files.atomic import make_folder
    from pack.motion.io.pose_files import write_pose_file
    from pack.motion.pose.keypoints import Poses

    make_folder(options.output)
    clips = {"walk": _detected(_walk(options.seed), options.seed), "dance": _detected(_dance(options.seed), 1)}
    character, picture = _character(options.seed)
    clips["character"] = character
    for name, points in clips.items():
        points = np.round(points, 1) + 0.0  # a tenth of a pixel; no minus zeros
        print(write_pose_file(options.output / f"{name}.json", Poses(points[:, None], WIDTH, HEIGHT)))
    print(_save(options.output.parent / "drawn_character.jpg", picture))
    puppet, dance, picture = _small(options.seed)
    for name, points in {"puppet": puppet, "slow_dance": dance}.items():
        print(write_pose_file(options.output / f"{name}.json", Poses(points[:, None], SIDE, SIDE)))
    print(_save(options.output.parent / "puppet.png", picture))


def _walk(seed: int) -> np.ndarray:
    """(t, 136, 3) of a puppet that walks from left to right, turned half towards us."""
    from pose_people import puppet, whole

    body = puppet(seed, 1, "steps")[0]
    length = lambda a, b: float(np.linalg.norm(body[a] - body[b]))  # noqa: E731
    turn = np.arange(NUM_FRAMES) * 2 * math.pi / STEPS
    hips = np.stack((250 + 300 * np.arange(NUM_FRAMES) / (NUM_FRAMES - 1), 262 + 4 * np.cos(2 * turn)), -1)
    joints = np.zeros((NUM_FRAMES, 18, 2))
    joints[:, 1] = hips - (0, length(1, 8))
    joints[:, 0] = joints[:, 1] + (0.02 * length(0, 1), -length(0, 1))
    for point in (14, 15, 16, 17):
        joints[:, point] = joints[:, 0] + (body[point] - body[0]) * (0.8, 1) + (0.06 * length(0, 1), 0)
    for side, phase, (shoulder, elbow, wrist), (hip, knee, ankle) in (
        (-1, 0.0, (2, 3, 4), (8, 9, 10)), (1, math.pi, (5, 6, 7), (11, 12, 13)),
    ):  # fmt: skip
        swing = np.sin(turn + phase)
        joints[:, shoulder] = joints[:, 1] + (side * 0.8 * length(1, 2), 0.04 * length(1, 2))
        upper, lower = -0.45 * swing, -0.45 * swing + 0.35
        joints[:, elbow] = joints[:, shoulder] + length(2, 3) * _down(upper)
        joints[:, wrist] = joints[:, elbow] + length(3, 4) * _down(lower)
        joints[:, hip] = hips + (side * 0.7 * length(8, 11) / 2, 0)
        thigh = 0.5 * swing
        bend = 0.15 + 0.55 * np.clip(np.cos(turn + phase), 0, 1)
        joints[:, knee] = joints[:, hip] + length(8, 9) * _down(thigh)
        joints[:, ankle] = joints[:, knee] + length(9, 10) * _down(thigh - bend)
    return whole(joints)


def _dance(seed: int) -> np.ndarray:
    """(t, 136, 3) of a puppet that dances in place, three times as fast as those that models are trained on."""
    from pose_people import puppet, whole

    return whole(puppet(seed + 1, 3 * NUM_FRAMES, "dances")[::3] * 0.9 + (WIDTH / 2, HEIGHT * 0.52))


def _detected(points: np.ndarray, seed: int) -> np.ndarray:
    """Points as a detector sees them: jitter, confidences of 0.6 to 1, and a hand and a foot lost now and then."""
    chance = np.random.default_rng(seed)
    seen = points.copy()
    seen[..., :2] += chance.normal(0, JITTER, seen[..., :2].shape)
    seen[..., 2] = np.round(chance.uniform(0.6, 1.0, seen.shape[:-1]), 1)
    seen[12:15, LEFT_WRIST] = seen[12:15, 88:109] = 0
    seen[27:29, RIGHT_ANKLE] = 0
    return seen


def _character(seed: int) -> tuple[np.ndarray, torch.Tensor]:
    """Pose (1, 136, 3) and picture (3, h, w) of a puppet of other proportions, left in the picture."""
    from pack.motion.data.procedural.grounds import paint_ground
    from pack.motion.data.procedural.puppets import PuppetSource
    from pose_people import whole

    generator = torch.Generator().manual_seed(seed + 2)
    clip = PuppetSource(192, 192, acts=("waves",), num_frames=1).draw(generator)
    joints = clip.joints[0].double().numpy()
    middle = joints[[8, 11]].mean(0)
    joints = (joints - middle) * 2.1
    legs = joints[[9, 10, 12, 13]] - joints[[8, 8, 11, 11]]
    joints[[9, 10, 12, 13]] = joints[[8, 8, 11, 11]] + legs * (1, 1.2)
    joints += (270, 240)
    picture = replace(
        clip, ground=paint_ground("grass", HEIGHT, WIDTH, generator), joints=torch.from_numpy(joints[None]).float(),
        girth=clip.girth * 2.1, head=clip.head * 2.1,
    ).render()[0][:, 0]  # fmt: skip
    return whole(joints[None]), picture


def _small(seed: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Pose (1, 136, 3) and picture (3, h, w) of a puppet, and a dance (t, 136, 3) of another; bodies alone."""
    from pack.motion.data.procedural.puppets import PuppetSource

    who = PuppetSource(SIDE, SIDE, acts=("waves",), grounds=("snow",), num_frames=1)
    clip = who.draw(torch.Generator().manual_seed(seed + 13))
    other = PuppetSource(SIDE // 2, SIDE // 2, acts=("dances",), num_frames=SLOW_FRAMES)
    points = []
    for joints in (clip.joints, 2 * other.draw(torch.Generator().manual_seed(seed + DANCER)).joints):
        body = np.zeros((len(joints), 136, 3))
        body[:, :18, :2], body[:, :18, 2] = np.round(joints.double().numpy(), 1) + 0.0, 1.0
        points.append(body)
    return *points, clip.render()[0][:, 0]


def _down(angle: np.ndarray) -> np.ndarray:
    """Unit vectors (t, 2) at angles from straight down, forward to the right."""
    return np.stack((np.sin(angle), np.cos(angle)), -1)


def _save(path: Path, picture: torch.Tensor) -> Path:
    from PIL import Image

    pixels = (picture.movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(path, quality=88)
    return path


if __name__ == "__main__":
    main()
