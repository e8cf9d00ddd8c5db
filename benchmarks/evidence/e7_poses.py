"""E7: what is known of poses: formats, jitter, proportions, identities, time; and the nodes inside every host found.

Puppets of the generator, whose every point is known. Writes benchmarks/results/evidence_e7_poses.json.
"""

import numpy as np
from evidence_common import ROOT, finish, verdict
from native_wan import find_hosts, measure
from pack.motion.io.pose_files import read_pose_file
from pack.motion.pose.body18 import LIMBS
from pack.motion.pose.keypoints import LEFT_HAND, RIGHT_HAND, Poses, read_poses
from pack.motion.pose.retarget import BONE_CLAMP, retarget
from pack.motion.pose.smoothing import fill_gaps, jitter, smooth
from pose_people import HEIGHT, WIDTH, as_controlnet_aux, as_core, as_openpose, crossing, one
from poses import fitting, identities, smoothing, timing

CASES = 5000
NEEDED = 13  # bones whose lengths are compared: without eyes and ears
TOOLS = {
    "core's SDPose": as_core, "controlnet_aux, pixels": as_controlnet_aux,
    "controlnet_aux, shares": lambda points: as_controlnet_aux(points, shares=True), "OpenPose, BODY_25": as_openpose,
}  # fmt: skip


def main() -> None:
    figures, rows = {}, []
    for found in (formats(), shipped(), clamps(), fitting(), smoothing(), identities(100), timing(300), in_hosts()):
        figures.update(found[0])
        rows += found[1]
    finish("e7_poses", figures, rows)


def formats():
    """A clip of two people as each tool writes it, and one of people who cross, by where hands end up."""
    truth = np.stack((one(1, 24, (250, 240)), one(2, 24, (600, 240))), 1)
    table, rows = [], []
    for name, write in TOOLS.items():
        size = (WIDTH, HEIGHT) if write is as_openpose else None
        error = float(np.abs(read_poses(write(truth), size=size).points[:, :, :130] - truth[:, :, :130]).max())
        right = total = 0
        for seed in range(20):
            crowd = crossing(seed)
            found = read_poses(write(crowd), size=size).points
            for t, k in zip(*np.nonzero((found[..., 2] > 0).any(-1))):
                same = np.abs(found[t, k, None, :18, :2] - crowd[t, :, :18, :2]).max((-1, -2)).argmin()
                for hand in (LEFT_HAND, RIGHT_HAND):
                    if crowd[t, same, hand, 2].any():
                        total += 1
                        right += np.abs(found[t, k, hand] - crowd[t, same, hand]).max() < 1
        row = {"what": "format", "tool": name, "error_px": error, "hands_right": right / total}
        rows.append(row)
        table.append({"written by": name, "largest error, px": f"{error:.1e}",
                      "hands on their side, %": f"{100 * right / total:.2f}"})  # fmt: skip
    return {"Files as each tool writes them": table}, rows


def shipped():
    """The clips of the pack, cleaned."""
    table, rows = [], []
    for name in ("walk", "dance"):
        raw = read_pose_file(ROOT / "assets" / "poses" / f"{name}.json")
        clean = smooth(fill_gaps(raw), 16)
        row = {"what": "shipped", "clip": name, "before": jitter(raw), "after": jitter(clean)}
        rows.append(row)
        table.append({"clip": name, "jitter, px": f"{row['before']:.2f}", "cleaned, px": f"{row['after']:.2f}"})
    return {"Shipped clips, second difference of body points": table}, rows


def clamps():
    """Random people fitted to random people, points thrown anywhere: no bone beyond its clamp."""
    chance, most, beyond = np.random.default_rng(0), 0.0, 0
    start, end = (list(ends) for ends in zip(*LIMBS))
    for _ in range(CASES):
        driving, reference = (np.zeros((frames, 1, 136, 3)) for frames in (4, 1))
        for points in (driving, reference):
            points[..., :18, :2] = chance.uniform(0, 480, (*points.shape[:2], 18, 2))
            points[..., :18, 2] = chance.random((*points.shape[:2], 18)) < 0.9
            points[..., :18, :] *= points[..., :18, 2:]
        done = retarget(Poses(driving, WIDTH, HEIGHT), Poses(reference, WIDTH, HEIGHT))
        if done.scales[0] is None:
            continue
        got, was = (np.linalg.norm(np.diff(points[:, 0][:, [start, end], :2], axis=1)[:, 0], axis=-1)
                    for points in (done.poses.points, driving))  # fmt: skip
        there = (driving[:, 0][:, start, 2] > 0) & (driving[:, 0][:, end, 2] > 0) & (was > 1)
        growth = (got[there] / was[there]).max(initial=0) / done.scales[0]
        most, beyond = max(most, float(growth)), beyond + int(growth > BONE_CLAMP[1] + 1e-6)
    return {
        f"bones beyond their clamp in {CASES} random cases": beyond,
        f"growth of a bone beside its person's in these, most (clamp {BONE_CLAMP[1]:g})": round(most, 6),
    }, [{"what": "clamp", "cases": CASES, "beyond": beyond, "most": most}]


def in_hosts():
    """Tests (k) and (l) of the specification, through the nodes, and the other tests of poses there."""
    figures, rows = {}, []
    for host in find_hosts():
        found, failed = measure(host, "test_inhost_pose_*.py")
        rows.append({"what": "host", "host": host.name, "figures": found, "failed": failed})
        for name, value in found.items():
            figures[f"{name}, {host.name}"] = verdict(value, high=0.5 if "change" in name else 1.0)
        figures[f"tests of poses that failed, {host.name}"] = len(failed)
    return figures, rows


if __name__ == "__main__":
    main()
