"""Poses fitted to another body: that of the reference picture, whose size, place and proportions they take on.

The driving canvas is first fitted into the reference's, sides in proportion. Then `global` scales and shifts a whole
person; `limb` walks from the neck outward and gives every bone the length it has in the reference:

    neck' = R.neck + s (neck - neck at the calibration frame)        child' = parent' + s_b (child - parent)

Lengths in a picture are shortened by depth, so s_b never exceeds its clamp, bones that point the same way in both are
compared at the calibration frame, and a limb that is foreshortened in the reference takes the ratio of its mirror or
of the bone it hangs on.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, ShapeError
from .body18 import LIMBS
from .identity import diagonals
from .keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, Poses

MODES = ("limb", "global", "none")
SCALE_CLAMP = (0.3, 3.0)  # of a person
BONE_CLAMP = (0.5, 2.0)  # of a bone, times the person's scale
ALIKE = np.cos(np.radians(30.0))  # bones that turn less are compared at the calibration frame
UNEVEN = 0.75  # left and right of one body differ less; the shorter one is foreshortened
_FAR_SHARE = 90  # percentile over time that stands for a length seen from the side
_GROUND_SHARE = 95  # percentile over time of where the lowest ankle is
NOSE, NECK, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP, R_EYE, L_EYE, R_EAR, L_EAR = 0, 1, 2, 5, 8, 11, 14, 15, 16, 17
_ABOVE = [next((k for k, (_, child) in enumerate(LIMBS) if child == parent), None) for parent, _ in LIMBS]
_BONE = {child: k for k, (_, child) in enumerate(LIMBS)}
_FROM, _TO = (list(ends) for ends in zip(*LIMBS, (R_SHOULDER, L_SHOULDER), (R_EYE, L_EYE), (R_EAR, L_EAR)))
_EYES, _EARS = 18, 19  # of the spans: bones 0..16, shoulders 17, eyes, ears, trunk 20
_STEADY = [17, 20, 2, 4, 7, 10]  # shoulders, trunk, upper arms and thighs
_MIRROR = [1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14, 17, 18, 19, 20]
_LEAST = 1e-6  # px
_HANGING = (  # parts, and the joint they move with
    (LEFT_HAND, 7), (RIGHT_HAND, 4), (slice(FEET.start, FEET.start + 3), 13), (slice(FEET.start + 3, FEET.stop), 10),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Fitted:
    """What became of each person: the frame it was calibrated at and its scale, None where it was only fitted.

    ratios: (num_people, 17) new over old length of each bone of LIMBS.
    """

    poses: Poses
    calibration: tuple[int | None, ...]
    scales: tuple[float | None, ...]
    ratios: np.ndarray
    notes: tuple[str, ...]


def retarget(
    poses: Poses, reference: Poses, *, mode: str = "limb", calibration: int | None = None, keep_feet: bool = False,
    lock_x: bool = False, lock_y: bool = False,
) -> Fitted:  # fmt: skip
    """Poses on the reference's canvas, fitted to its people; frames, people and confidences stay.

    reference: one frame. Its largest people are paired with the driving ones from left to right; who has no partner, or
    whose partner shows no shoulders, is fitted with the canvas only, and a note says so. calibration: the frame that
    shows the reference's pose; None takes the most alike. keep_feet: the ground under the lowest ankle becomes the
    reference's. lock_x, lock_y: the neck stays where the reference has it. Raises ConfigError, ShapeError.
    """
    if mode not in MODES:
        raise ConfigError(f"no mode {mode!r} of fitting; known: {', '.join(MODES)}")
    if len(reference.points) != 1:
        raise ShapeError(f"the reference has {len(reference.points)} frames; the pose of one picture is needed")
    if calibration is not None and not 0 <= calibration < len(poses.points):
        raise ConfigError(
            f"calibration frame {calibration} of {len(poses.points)}; count from 0, or leave it out for the most alike"
        )
    points = _on_canvas(poses, reference.width, reference.height)
    num_people = points.shape[1]
    partners = _partners(points, reference.points[0]) if mode != "none" else [None] * num_people
    frames, scales, notes = [None] * num_people, [None] * num_people, []
    ratios = np.ones((num_people, len(LIMBS)))
    for k, other in enumerate(partners):
        if other is None:
            notes += [f"person {k} has no partner in the reference and was fitted to the canvas only"] * (
                mode != "none"
            )
            continue
        person = _Person(points[:, k], reference.points[0, other])
        if not person.calibrate(calibration):
            at = "" if calibration is None else f" in frame {calibration}"
            notes.append(f"person {k} or its partner shows no neck and shoulders{at}; it was fitted to the canvas only")
            continue
        frames[k], scales[k] = person.frame, person.scale
        if person.scale in SCALE_CLAMP:
            notes.append(
                f"person {k} is held at a scale of {person.scale:g}, the {'most' if person.scale > 1 else 'least'} "
                "there is; crop the picture or the video so that people are more alike in size"
            )
        ratios[k], face = person.bone_ratios() if mode == "limb" else (person.scale, person.scale)
        points[:, k] = person.moved(ratios[k], face, lock_x, lock_y)
        if keep_feet and not _put_on_ground(points[:, k], reference.points[0, other]):
            notes.append(f"person {k} or its partner shows no ankle, so its feet were not put on the ground")
    done = Poses(points, reference.width, reference.height)
    return Fitted(done, tuple(frames), tuple(scales), ratios, tuple(notes))


def describe_fit(done: Fitted) -> str:
    """What became of each person, as lines of text."""
    frames, people, width, height = *done.poses.points.shape[:2], done.poses.width, done.poses.height
    lines = [f"{frames} frames, {people} {'person' if people == 1 else 'people'}, on {width}x{height} px"]
    for k, (frame, scale) in enumerate(zip(done.calibration, done.scales, strict=True)):
        if frame is not None:
            least, most = done.ratios[k].min(), done.ratios[k].max()
            lines.append(f"person {k}: scale {scale:.2f}, bones {least:.2f} to {most:.2f}, calibrated at frame {frame}")
    return "\n".join([*lines, *(f"note: {note}" for note in done.notes)])


def _on_canvas(poses: Poses, width: int, height: int) -> np.ndarray:
    """Points in px of another canvas, the old one as large as it fits in its middle."""
    scale = min(width / poses.width, height / poses.height)
    points = poses.points.copy()
    margin = np.array((width - scale * poses.width, height - scale * poses.height)) / 2
    points[..., :2] = np.where(points[..., 2:] > 0, points[..., :2] * scale + margin, 0.0)
    return points


def _partners(points: np.ndarray, reference: np.ndarray) -> list[int | None]:
    """For each driving person the reference's, largest first chosen, then from left to right."""
    known = [k for k in range(len(reference)) if _necks(reference[None, k])[1][0]]
    largest = sorted(known, key=lambda k: -diagonals(reference[k, BODY]))[: points.shape[1]]
    others = sorted(largest, key=lambda k: _necks(reference[None, k])[0][0, 0])
    firsts = []
    for k in range(points.shape[1]):
        places, there = _necks(points[:, k])
        seen = np.flatnonzero(there)
        firsts.append((float(places[seen[0], 0]) if len(seen) else np.inf, k))
    partners: list[int | None] = [None] * points.shape[1]
    order = [k for _, k in sorted(firsts)]
    shown = sorted(range(len(order)), key=lambda k: -diagonals(points[:, k, BODY]).sum())[: len(others)]
    for k, other in zip([k for k in order if k in shown], others, strict=True):
        partners[k] = other
    return partners


def _necks(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The neck, or the middle of both shoulders, of points (t, n, 3): (t, 2) px, and (t,) whether it is known."""
    there = points[:, [NECK, R_SHOULDER, L_SHOULDER], 2] > 0
    middle = (points[:, R_SHOULDER, :2] + points[:, L_SHOULDER, :2]) / 2
    return np.where(there[:, :1], points[:, NECK, :2], middle), there[:, 0] | there[:, 1:].all(1)


class _Person:
    """One driving person (t, 136, 3) and its partner (136, 3), both in px of the reference's canvas."""

    def __init__(self, points: np.ndarray, partner: np.ndarray):
        self.points, self.partner = points, partner
        self.necks = _roots(points)
        self.home = _necks(partner[None])[0][0]
        self.frame, self.scale = 0, 1.0

    def calibrate(self, frame: int | None) -> bool:
        """Take the frame asked for or the most alike, and the person's scale: False where it shows no neck."""
        sure = _necks(self.points)[1]
        if frame is None and sure.any():
            frame = int(np.where(sure, self._unlikeness(), np.inf).argmin())
        if frame is None or not sure[frame]:
            return False
        self.frame = frame
        found = self._ratios(None)[_STEADY]
        found = found[np.isfinite(found)]
        self.scale = float(np.clip(np.median(found), *SCALE_CLAMP)) if len(found) else 1.0
        return True

    def _unlikeness(self) -> np.ndarray:
        """Mean distance to the reference's pose, in trunks: (t,); frames that share fewer points come after."""
        body, other = self.points[:, BODY], self.partner[BODY]
        common = (body[..., 2] > 0) & (other[:, 2] > 0)
        here = (body[..., :2] - self.necks[:, None]) / _sizes(body, common)[:, None, None]
        there = (other[None, :, :2] - self.home) / _sizes(np.broadcast_to(other, body.shape), common)[:, None, None]
        count = common.sum(1)
        apart = (np.linalg.norm(here - there, axis=-1) * common).sum(1) / np.maximum(count, 1)
        return apart + 10.0 * (count.max() - count)

    def bone_ratios(self) -> tuple[np.ndarray, float]:
        """New over old length of each bone, clamped: (17,), and of the face."""
        found = self._ratios(self.scale)
        low, high = (self.scale * bound for bound in BONE_CLAMP)
        usable = np.isfinite(found) & (found >= low)
        ratios = np.empty(len(LIMBS))
        for k, above in enumerate(_ABOVE):  # the bone above comes first in LIMBS
            ratios[k] = found[k] if usable[k] else (ratios[above] if above is not None else self.scale)
        faces = [found[k] for k in (_EYES, _EARS) if usable[k] and found[k] <= high]
        ratios = ratios.clip(low, high)
        return ratios, faces[0] if faces else float(ratios[_BONE[NOSE]])

    def moved(self, ratios: np.ndarray, face: float, lock_x: bool, lock_y: bool) -> np.ndarray:
        """All points, walked out from the neck with these ratios; the root moves with the person's scale."""
        points = self.points
        roam = self.scale * (self.necks - self.necks[self.frame])
        roam[:, [axis for axis, locked in enumerate((lock_x, lock_y)) if locked]] = 0
        done = points.copy()
        old, new = np.empty((len(points), 18, 2)), np.empty((len(points), 18, 2))
        old[:, NECK], new[:, NECK] = self.necks, self.home + roam
        done[:, NECK, :2] = new[:, NECK]
        for ratio, (parent, child) in zip(ratios, LIMBS, strict=True):
            there = points[:, child, 2:] > 0
            old[:, child] = np.where(there, points[:, child, :2], old[:, parent])  # one that is missing has no length
            new[:, child] = new[:, parent] + ratio * (old[:, child] - old[:, parent])
            done[:, child, :2] = new[:, child]
        for part, joint, ratio in (*((part, joint, ratios[_BONE[joint]]) for part, joint in _HANGING),
                                   (FACE, NOSE, face)):  # fmt: skip
            done[:, part, :2] = new[:, joint, None] + ratio * (points[:, part, :2] - old[:, joint, None])
        done[points[..., 2] <= 0] = 0
        return done

    def _ratios(self, scale: float | None) -> np.ndarray:
        """Reference's over driving length of every span, left and right made even: (21,), NaN where unknown.

        scale: of the person, None while it is sought. A span that leans towards the camera in the calibration frame
        would grow beyond it in others; it grows no more than its length seen from the side tells.
        """
        own, known = _spans(self.partner[None])
        ways, seen = _spans(self.points)
        here, lengths = np.linalg.norm(own[0], axis=-1), np.linalg.norm(ways, axis=-1)
        now, far = lengths[self.frame], lengths_seen(self.points)
        alike = seen[self.frame] & ((own[0] * ways[self.frame]).sum(-1) >= ALIKE * here * now) & (now > _LEAST)
        driving = np.where(alike, now, far)
        if scale is not None:
            driving = np.maximum(driving, np.minimum(here / scale, far))
        usable = known[0] & seen.any(0) & (here > _LEAST) & (far > _LEAST)
        here, driving = (np.where(usable, each, np.nan) for each in (here, driving))
        return _even(here) / _even(driving)


def lengths_seen(points: np.ndarray) -> np.ndarray:
    """Lengths of one person's (t, 136, 3) spans as seen from the side, px: (21,), NaN where unknown.

    Bones of LIMBS, shoulders, eyes, ears and trunk, in this order; each is the 90th percentile over time.
    """
    ways, seen = _spans(points)
    return _percentile(np.where(seen, np.linalg.norm(ways, axis=-1), np.nan), _FAR_SHARE)


def _spans(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bones of LIMBS, trunk, shoulders, eyes and ears: ways (t, 21, 2) px, and whether both ends are there (t, 21)."""
    hips = points[:, [R_HIP, L_HIP]]
    trunk = (hips[..., :2].mean(1) - points[:, NECK, :2])[:, None]
    ways = points[:, _TO, :2] - points[:, _FROM, :2]
    there = (points[:, _TO, 2] > 0) & (points[:, _FROM, 2] > 0)
    trunked = ((hips[..., 2] > 0).all(1) & (points[:, NECK, 2] > 0))[:, None]
    return np.concatenate((ways, trunk), 1), np.concatenate((there, trunked), 1)


def _percentile(values: np.ndarray, share: float) -> np.ndarray:
    """Percentile over the first axis without its NaN, NaN where nothing is left."""
    count = np.isfinite(values).sum(0)
    ordered = np.sort(values, axis=0)  # NaN last
    at = np.maximum(count - 1, 0) * share / 100
    low = at.astype(int)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    a, b = (np.take_along_axis(ordered, place[None], 0)[0] for place in (low, high))
    return a + (at - low) * (b - a)


def _even(lengths: np.ndarray) -> np.ndarray:
    """Lengths (21,) with left and right as the mean of both, or the longer where the other is much shorter."""
    other = lengths[_MIRROR]
    longer, shorter = np.fmax(lengths, other), np.fmin(lengths, other)
    return np.where(shorter < UNEVEN * longer, longer, (longer + shorter) / 2)


def _sizes(body: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Length of the trunk, else width of the shoulders, else of the box, of bodies (t, 18, 3): (t,) px."""
    trunk = np.linalg.norm(body[:, [R_HIP, L_HIP], :2].mean(1) - body[:, NECK, :2], axis=-1)
    wide = np.linalg.norm(body[:, R_SHOULDER, :2] - body[:, L_SHOULDER, :2], axis=-1)
    found = np.where(common[:, [R_SHOULDER, L_SHOULDER]].all(1), wide, diagonals(body))
    return np.maximum(np.where(common[:, [NECK, R_HIP, L_HIP]].all(1), trunk, found), 1e-6)


def _roots(points: np.ndarray) -> np.ndarray:
    """Where the neck is or would be in every frame: (t, 2) px.

    By neck or shoulders; else by the hips, as far from them as usual; else by the middle of what is there.
    """
    necks, known = _necks(points)
    hips = points[:, [R_HIP, L_HIP], :2].mean(1)
    hipped = (points[:, [R_HIP, L_HIP], 2] > 0).all(1)
    if (known & hipped).any():
        usual = np.median((necks - hips)[known & hipped], axis=0)
        use = hipped & ~known
        necks, known = np.where(use[:, None], hips + usual, necks), known | use
    there = points[..., 2:] > 0
    middle = (points[..., :2] * there).sum(1) / np.maximum(there.sum(1), 1)
    return np.where(known[:, None], necks, middle)


def _put_on_ground(points: np.ndarray, partner: np.ndarray) -> bool:
    """Shift a person (t, 136, 3) up or down, by one amount for the clip; False where ankles are unknown."""
    ankles, own = points[:, [10, 13]], partner[[10, 13]]
    if not (own[:, 2] > 0).any() or not (ankles[..., 2] > 0).any():
        return False
    lowest = np.where(ankles[..., 2] > 0, ankles[..., 1], -np.inf).max(1)
    ground = np.percentile(lowest[np.isfinite(lowest)], _GROUND_SHARE)
    points[..., 1] += np.where(points[..., 2] > 0, own[own[:, 2] > 0, 1].max() - ground, 0.0)
    return True
