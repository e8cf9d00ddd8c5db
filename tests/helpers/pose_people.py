"""Puppets with hands and faces, whose every point is known, and the formats in which pose detectors write them."""

import functools

import numpy as np
import torch
from pack.motion.data.procedural.puppets import PuppetSource
from scipy.optimize import linear_sum_assignment

WIDTH, HEIGHT = 832, 480
TALL = 300  # px


@functools.cache
def puppet(seed, num_frames=48, act="dances"):
    """(num_frames, 18, 2) px of a puppet about 300 px tall, its base at (0, 0)."""
    source = PuppetSource(192, 192, acts=(act,), num_frames=num_frames)
    joints = source.draw(torch.Generator().manual_seed(seed)).joints.double().numpy()
    base = (joints[:, 8] + joints[:, 11]) / 2
    scale = TALL / (joints[0, [10, 13], 1].max() - joints[0, 0, 1])
    return (joints - base.mean(0)) * scale


def whole(joints):
    """(…, 136, 3) of joints (…, 18, 2): hands along the forearms, faces around the noses, feet before the ankles."""
    points = np.zeros((*joints.shape[:-2], 136, 3))
    points[..., 2] = 1.0
    points[..., :18, :2] = joints
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    face = np.stack((np.cos(turn), np.sin(turn)), -1) * TALL * 0.04
    points[..., 18:86, :2] = joints[..., None, 0, :] + face
    points[..., 86:88, :2] = joints[..., [14, 15], :]
    finger = np.array([(0.0, 0.0)] + [(0.25 * k, 0.12 * (f - 2) * k) for f in range(5) for k in (1, 2, 3, 4)])
    for first, elbow, wrist in ((88, 6, 7), (109, 3, 4)):
        along = (joints[..., wrist, :] - joints[..., elbow, :])[..., None, :]
        along = along / np.linalg.norm(along, axis=-1, keepdims=True)
        beside = np.stack((-along[..., 1], along[..., 0]), -1)
        hand = (finger[:, :1] * along + finger[:, 1:] * beside) * TALL * 0.05
        points[..., first : first + 21, :2] = joints[..., None, wrist, :] + hand
    for first, ankle in ((130, 13), (133, 10)):
        toes = np.array(((10.0, 12.0), (14.0, 10.0), (-4.0, 8.0)))
        points[..., first : first + 3, :2] = joints[..., None, ankle, :] + toes
    return points


def one(seed=0, num_frames=48, at=(WIDTH / 2, HEIGHT / 2)):
    """One puppet on its place: (num_frames, 136, 3) px."""
    return whole(puppet(seed, num_frames) + np.array(at))


def crossing(seed, num_frames=72, noise=1.0):
    """Three puppets who walk through one another, hide behind one another, and of whom one leaves and comes back.

    Gives points (num_frames, 3, 136, 3) px, zeros where a puppet is hidden or outside.
    """
    chance = np.random.default_rng(seed)
    t = np.arange(num_frames)
    starts = chance.permutation([0.15, 0.5, 0.85]) * WIDTH
    ends = chance.permutation([0.15, 0.5, 0.85])[::-1] * WIDTH
    points = np.zeros((num_frames, 3, 136, 3))
    middles = np.zeros((num_frames, 3))
    leaver = chance.integers(3)
    for k in range(3):
        scale = chance.uniform(0.7, 1.05)
        share = t / (num_frames - 1)
        x = starts[k] + (ends[k] - starts[k]) * share + 12 * np.sin(t / chance.uniform(7, 13))
        if k == leaver:  # out at the nearer side in the middle of the clip, and back
            side = -1 if starts[k] < WIDTH / 2 else 1
            x = starts[k] + side * np.sin(np.pi * share) * (0.45 * WIDTH + abs(starts[k] - WIDTH / 2) * 0.2)
        joints = puppet(100 + 7 * seed % 91 + k, num_frames) * scale
        joints = joints + np.stack((x, np.full(num_frames, HEIGHT * chance.uniform(0.5, 0.56))), -1)[:, None]
        points[:, k] = whole(joints)
        middles[:, k] = x
    points[..., :2] += chance.normal(0, noise, points[..., :2].shape)
    outside = (points[..., 0] < 0) | (points[..., 0] > WIDTH) | (points[..., 1] < 0) | (points[..., 1] > HEIGHT)
    points[outside] = 0
    depth = chance.permutation(3)  # 0 is in front
    for a in range(3):
        for b in range(3):
            if depth[a] < depth[b]:
                points[np.abs(middles[:, a] - middles[:, b]) < 40, b] = 0
    points[(points[:, :, :18, 2] > 0).sum(-1) < 5] = 0
    return points


def _flat(points):
    return points.reshape(-1).tolist()


def as_core(points, width=WIDTH, height=HEIGHT):
    """POSE_KEYPOINT as core's SDPose writes it: pixels, scores, lost points (-1, -1, c), the hand lists swapped."""
    frames = []
    for people in points:
        rows = np.where(people[..., 2:] > 0, people, np.array((-1.0, -1.0, 0.04)))
        frames.append({"canvas_width": width, "canvas_height": height, "people": [
            {"pose_keypoints_2d": _flat(row[:18]), "foot_keypoints_2d": _flat(row[130:]),
             "face_keypoints_2d": _flat(row[18:88]), "hand_right_keypoints_2d": _flat(row[88:109]),
             "hand_left_keypoints_2d": _flat(row[109:130])} for row in rows if (row[:, 2] > 0.3).any()]})  # fmt: skip
    return frames


def as_controlnet_aux(points, width=WIDTH, height=HEIGHT, *, shares=False):
    """POSE_KEYPOINT as comfyui_controlnet_aux writes it: missing (0, 0, 0), parts null, c only 0 and 1."""
    scale = np.array((width, height, 1.0)) if shares else 1.0
    frames = []
    for people in points:
        rows = np.concatenate((people[..., :2], people[..., 2:] > 0), -1) / scale
        part = lambda row: _flat(row) if row.any() else None  # noqa: E731
        frames.append({"people": [
            {"pose_keypoints_2d": _flat(row[:18]), "face_keypoints_2d": part(row[18:88]),
             "hand_left_keypoints_2d": part(row[88:109]), "hand_right_keypoints_2d": part(row[109:130])}
            for row in rows if row.any()], "canvas_height": height, "canvas_width": width})  # fmt: skip
    return frames


def as_openpose(points):
    """What OpenPose's --write_json writes: BODY_25, no canvas, empty lists in 3D."""
    frames = []
    for people in points:
        listed = []
        for row in people:
            if not row.any():
                continue
            body = np.zeros((25, 3))
            body[[0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]] = row[:18]
            body[8] = (row[8] + row[11]) / 2
            body[19:] = row[130:]
            listed.append({"person_id": [-1], "pose_keypoints_2d": _flat(body), "face_keypoints_2d": _flat(row[18:88]),
                           "hand_left_keypoints_2d": _flat(row[88:109]), "hand_right_keypoints_2d":
                           _flat(row[109:130]), "pose_keypoints_3d": []})  # fmt: skip
        frames.append({"version": 1.3, "people": listed})
    return frames


def kept_identity(truth, points):
    """Share of the people in frames, of (t, k, 136, 3) both, who have the one place of who they truly are."""
    votes = np.zeros((truth.shape[1], points.shape[1]))
    frames = []
    for t in range(len(truth)):
        for k in np.flatnonzero((truth[t, :, :, 2] > 0).any(-1)):
            off = [np.abs(truth[t, k, :18, :2] - points[t, p, :18, :2]).max() for p in range(points.shape[1])]
            frames.append((k, int(np.argmin(off))))
            votes[frames[-1]] += 1
    return votes[linear_sum_assignment(-votes)].sum() / len(frames)
