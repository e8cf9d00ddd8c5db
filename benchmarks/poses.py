"""Poses read, cleaned, fitted and drawn: time, jitter, proportions and identities, on puppets whose truth is known.

Time is processor time of this process on one thread. The puppets, and the formats their poses are written in, are those
of tests/helpers/pose_people.py. Writes JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from builtin_common import ROOT, save, verdict

sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from pack.motion.io.pose_files import read_pose_file, write_pose_file  # noqa: E402
from pack.motion.pose.body18 import LIMBS  # noqa: E402
from pack.motion.pose.keypoints import BODY, Poses, read_poses  # noqa: E402
from pack.motion.pose.renderer import draw_people  # noqa: E402
from pack.motion.pose.retarget import BONE_CLAMP, retarget  # noqa: E402
from pack.motion.pose.smoothing import fill_gaps, jitter, smooth, smooth_one_euro, window  # noqa: E402
from pose_people import HEIGHT, WIDTH, as_core, crossing, kept_identity, one, puppet, whole  # noqa: E402

RATES, SWINGS = (16, 24, 30), (0.3, 1.0, 2.5)
NOISE, REACH = 2.0, 60.0  # px
_FROM, _TO = (list(ends) for ends in zip(*LIMBS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--clips", type=int, default=100)
    options = parser.parse_args()
    rows, figures = [], {}
    for part in (timing(options.frames), smoothing(), fitting(), identities(options.clips)):
        figures.update(part[0])
        rows += part[1]
    save("poses", figures, rows)


def timing(num_frames: int):
    """Three people with hands and faces, from a file to frames."""
    places = [(150, 250), (420, 240), (690, 240)]
    points = np.stack([one(k, num_frames, at) for k, at in enumerate(places)], 1)
    points[..., :2] += np.random.default_rng(0).normal(0, NOISE, points[..., :2].shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.json"
        path.write_text(json.dumps(as_core(points)))
        seconds = [time.process_time()]
        raw = read_pose_file(path)
        seconds.append(time.process_time())
        clean = smooth(fill_gaps(raw), 16)
        seconds.append(time.process_time())
        fitted = retarget(clean, Poses(raw.points[:1], WIDTH, HEIGHT)).poses
        seconds.append(time.process_time())
        for people in fitted.points:
            draw_people([torch.from_numpy(person) for person in people], HEIGHT, WIDTH)
        seconds.append(time.process_time())
        write_pose_file(path, clean)
        lossless = bool((read_pose_file(path).points == clean.points).all())
    read, cleaned, fit, drawn = np.diff(seconds).tolist()
    of = f"{num_frames} frames of 3 people, {WIDTH}x{HEIGHT}, processor seconds"
    return {
        f"{of}: read, clean and fit": verdict(read + cleaned + fit, high=0.5),
        f"{of}: draw": verdict(drawn, high=3.0),
        "written and read again": "the same to the bit" if lossless else "DIFFERS",
    }, [{"what": "time", "read": read, "clean": cleaned, "fit": fit, "draw": drawn}]


def smoothing():
    """A puppet 300 px tall on a circle, eight seconds, every point with noise of its own."""
    figures, rows = {}, []
    for fps in RATES:
        for hertz in SWINGS:
            t = np.arange(8 * fps) / fps
            circle = np.stack((np.sin(2 * np.pi * hertz * t), np.cos(2 * np.pi * hertz * t)), -1)
            points = np.repeat(one(1, 1)[:, None], len(t), 0)
            points[..., :2] += REACH * circle[:, None, None]
            clean, raw = Poses(points, 640, 480), points.copy()
            raw[..., :2] += np.random.default_rng(0).normal(0, NOISE, raw[..., :2].shape)
            row = {"what": "smoothing", "fps": fps, "hertz": hertz}
            for name, method in (("", smooth), ("one_euro_", smooth_one_euro)):
                row.update(_of_filter(name, method, clean, Poses(raw, 640, 480), fps))
            rows.append(row)
    for name in ("", "one_euro_"):
        title = "One-Euro" if name else "smoothing"
        worst = {key: [row[name + key] for row in rows] for key in ("noise", "swing", "lag")}
        if name:
            figures[f"{title}, beside it: noise, swing, lag at worst"] = (
                f"{max(worst['noise']):.2f}, {min(worst['swing']):.2f}, {max(worst['lag']):.1f} frames"
            )
        else:
            most = max(worst["noise"])
            figures[f"{title}: second difference of the noise let through, most"] = verdict(most, high=0.4)
            figures[f"{title}: swing kept, least"] = verdict(min(worst["swing"]), low=0.9)
            figures[f"{title}: lag, most, frames"] = verdict(max(worst["lag"]), high=0.01)
    for row in rows:
        figures[f"at {row['fps']} fps, {row['hertz']} Hz: noise, swing"] = f"{row['noise']:.3f}, {row['swing']:.3f}"
    return figures, rows


def _of_filter(name: str, method, clean: Poses, raw: Poses, fps: int) -> dict:
    inner = slice(2 * window(fps), -window(fps))
    alone, both = method(clean, fps).points[inner, 0], method(raw, fps).points[inner, 0]
    given = raw.points[inner, 0] - clean.points[inner, 0]
    bend = [np.diff(each[..., :2], 2, axis=0).std() for each in (both - alone, given)]
    still = one(1, 1)[0]
    truth, kept = ((points - still)[:, 0, :2] @ (1, 1j) for points in (clean.points[inner, 0], alone))
    share = np.vdot(truth, kept) / np.vdot(truth, truth)  # turns with a lag, shrinks with the swing
    turn = np.angle(truth[1] / truth[0])
    found = {"noise": bend[0] / bend[1], "swing": abs(share), "lag": abs(np.angle(share) / turn)}
    return {f"{name}{key}": float(value) for key, value in found.items()}


def fitting():
    """The identity, a scaled copy, 200 random proportions, and how far bones grow."""
    poses = Poses(one(2)[:, None], WIDTH, HEIGHT)
    first = Poses(poses.points[5:6], WIDTH, HEIGHT)
    same = float(np.abs(retarget(poses, first).poses.points - poses.points).max())
    copy = poses.points * (0.6, 0.6, 1) + (37, 20, 0)
    undone = float(np.abs(retarget(Poses(copy, WIDTH, HEIGHT), first).poses.points - poses.points).max())
    chance, worst, grown = np.random.default_rng(0), 0.0, 0.0
    mirror = [(0, 1), (2, 4), (3, 5), (6, 9), (7, 10), (8, 11), (13, 15), (14, 16), (12,)]
    for case in range(200):
        driving = Poses(whole(puppet(case % 8, 24, "flaps") + (416, 240))[:, None], WIDTH, HEIGHT)
        joints = puppet(50 + case % 5, 24, "flaps")[7]
        other = joints.copy()
        factors = {bone: factor for pair in mirror for factor in [chance.uniform(0.7, 1.4)] for bone in pair}
        for bone, (a, b) in enumerate(LIMBS):
            other[b] = other[a] + factors[bone] * (joints[b] - joints[a])
        reference = Poses(whole(other * chance.uniform(0.6, 1.3) + (400, 250))[None, None], WIDTH, HEIGHT)
        done = retarget(driving, reference)
        got, need, was = (_lengths(each.points[:, 0]) for each in (done.poses, reference, driving))
        for pair in mirror:  # puppets lean, which their proportions do not
            got_even, need_even = got[:, pair].mean(1), need[:, pair].mean(1)
            worst = max(worst, float(np.abs(got_even / need_even - 1).max()))
        grown = max(grown, float((got / was).max() / done.scales[0]))
    return {
        "fit: reference is a frame of the clip, change, px": verdict(same, high=0.5),
        "fit: a scaled copy undone, error, px": verdict(undone, high=1.0),
        "fit: bone lengths, 200 random proportions, largest error, %": verdict(100 * worst, high=2.0),
        f"fit: growth of a bone beside its person's, most (clamp {BONE_CLAMP[1]:g})": round(grown, 3),
    }, [{"what": "fit", "identity_px": same, "copy_px": undone, "length_error": worst, "growth": grown}]


def _lengths(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[..., _TO, :2] - points[..., _FROM, :2], axis=-1)


def identities(num_clips: int):
    """Three puppets who cross, hide and leave, listed in another order in every frame; beside it, the nearest neck."""
    rows = []
    for seed in range(num_clips):
        truth = crossing(seed)
        frames, chance = as_core(truth), np.random.default_rng(seed)
        for frame in frames:
            chance.shuffle(frame["people"])
        poses = read_poses(frames)
        steady = smooth(fill_gaps(poses), 16)
        rows.append({"what": "identity", "seed": seed, "kept": float(kept_identity(truth, poses.points)),
                     "nearest_neck": float(kept_identity(truth, _nearest_neck(frames))),
                     "jitter": jitter(steady) / jitter(poses)})  # fmt: skip
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("kept", "nearest_neck", "jitter")}
    return {
        f"{num_clips} clips of three puppets who cross, hide and leave: identity kept, % of people in frames":
            verdict(100 * mean["kept"], low=98),
        "the same, clips in which anybody was taken for another": int(sum(row["kept"] < 1 for row in rows)),
        "the same, by the nearest neck alone, %": round(100 * mean["nearest_neck"], 1),
        "the same, jitter left, % of raw": verdict(100 * mean["jitter"], high=50),
    }, rows  # fmt: skip


def _nearest_neck(frames: list[dict]) -> np.ndarray:
    """Points (t, 3, 136, 3) where everybody goes to the free place whose last neck was nearest."""
    points, last = np.zeros((len(frames), 3, 136, 3)), np.full((3, 2), np.inf)
    for t, frame in enumerate(frames):
        free = [0, 1, 2]
        for person in frame["people"][:3]:
            body = np.array(person["pose_keypoints_2d"]).reshape(18, 3)
            apart = [np.nan_to_num(np.linalg.norm(last[k] - body[1, :2]), posinf=1e6) for k in free]
            place = free.pop(int(np.argmin(apart)))
            points[t, place, BODY] = np.where(body[:, 2:] > 0.3, body, 0)
            last[place] = body[1, :2]
    return points


if __name__ == "__main__":
    main()
