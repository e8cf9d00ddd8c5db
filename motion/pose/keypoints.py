"""POSE_KEYPOINT, as several tools write it, in one form: people with an identity, in pixels, every part whole.

Frames are a list of dicts: `people`, `canvas_width`, `canvas_height`; a person has flat lists [x, y, c, …] of its
parts. Read are those of core's SDPose, of comfyui_controlnet_aux and of OpenPose's files: pixels or shares of the
canvas, parts null or absent, 18 or 25 body points, 68 or 70 face points, confidences in 0..1 or only 0 and 1. Tools
give the same hand opposite names, so a hand goes to the nearer wrist.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, ShapeError
from .identity import boxes, diagonals, follow_people

MIN_CONFIDENCE = 0.3
BODY, FACE, LEFT_HAND, RIGHT_HAND, FEET = slice(0, 18), slice(18, 88), slice(88, 109), slice(109, 130), slice(130, 136)
NUM_POINTS = 136
MAX_FRAMES = 10_000
MAX_PEOPLE = 100  # in one frame
MAX_BYTES = 2**30  # of the points of a clip, whoever comes and goes
_LISTS = {
    "pose_keypoints_2d": (BODY, (18, 25)), "face_keypoints_2d": (FACE, (68, 70)),
    "hand_left_keypoints_2d": (LEFT_HAND, (21,)), "hand_right_keypoints_2d": (RIGHT_HAND, (21,)),
    "foot_keypoints_2d": (FEET, (6,)),
}  # fmt: skip
_BODY_25 = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]  # 8 is the middle of the hips, 19.. feet
_FAR = 1e6  # px; no picture is so large
_SHARE = 2.0  # a person all within so many pixels of the corner is none: these are shares of the canvas
_RIGHT_WRIST, _LEFT_WRIST = 4, 7


@dataclass(frozen=True, eq=False)
class Poses:
    """People of a clip. A point that is missing is 0 in all three numbers.

    points: (num_frames, num_people, 136, 3), x and y in px of the canvas and confidence in 0..1; a person keeps its
    place over the frames. Parts are BODY (18), FACE (70), LEFT_HAND and RIGHT_HAND (21 each) and FEET (6).
    """

    points: np.ndarray
    width: int
    height: int

    @property
    def present(self) -> np.ndarray:
        """Who is in which frame: (num_frames, num_people), bool."""
        return (self.points[..., 2] > 0).any(-1)

    def in_part(self, part: tuple[int, int, int, int], size: tuple[int, int]) -> "Poses":
        """Poses in a part of the canvas, shown at another size; points beyond it stay, outside.

        part: top, left, rows and columns, px. size: width and height, px.
        """
        top, left, rows, columns = part
        points, (width, height) = self.points.copy(), size
        moved = (points[..., :2] - (left, top)) * (width / columns, height / rows)
        points[..., :2] = np.where(points[..., 2:] > 0, moved, 0.0)
        return Poses(points, width, height)

    def to_frames(self, *, binary: bool = False) -> list[dict]:
        """POSE_KEYPOINT: all five lists of everybody who is in a frame, pixels, zeros for what is missing.

        binary: confidences 0 and 1 only, for readers that drop what is below 1. `person_id` keeps the identity.
        """
        points = self.points
        if binary:
            points = np.concatenate((points[..., :2], points[..., 2:] > 0), -1)
        flat = {name: points[:, :, part].reshape(*points.shape[:2], 3 * (part.stop - part.start)).tolist()
                for name, (part, _) in _LISTS.items()}  # fmt: skip
        frames = []
        for t, present in enumerate(self.present.tolist()):
            people = [{"person_id": [k], **{name: lists[t][k] for name, lists in flat.items()}}
                      for k, there in enumerate(present) if there]  # fmt: skip
            frames.append({"people": people, "canvas_width": self.width, "canvas_height": self.height})
        return frames


def read_poses(
    frames: Sequence[dict] | dict, *, size: tuple[int, int] | None = None, min_confidence: float = MIN_CONFIDENCE
) -> Poses:
    """Poses of POSE_KEYPOINT frames (one dict is one frame), whichever tool wrote them.

    size: (width, height) of the canvas, px, for frames that do not say it; it is never guessed. Points less sure than
    min_confidence, not finite, at (0, 0) or at (-1, -1) are missing. Whether numbers are shares of the canvas is
    decided once for the clip. A frame without people stays a frame. Raises ShapeError for what is no POSE_KEYPOINT,
    ConfigError for a canvas that is unknown or not the same in all frames.
    """
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence is {min_confidence}; it lies in 0 to 1")
    frames = _checked_frames(frames)
    people, owners, names = [], [], []
    for t, frame in enumerate(frames):
        for k, person in enumerate(_people_of(frame, t)):
            people.append(_points_of(person, f"person {k} of frame {t}"))
            owners.append(t)
            names.append(_name_of(person))
    width, height = _canvas(frames, size)
    points = np.stack(people) if people else np.zeros((0, NUM_POINTS, 3))
    points = _settled(points, width, height, min_confidence)
    points = _hands_at_their_wrists(points)
    there = np.flatnonzero((points[..., 2] > 0).any(-1))
    points, owners, names = points[there], np.array(owners, int)[there], [names[i] for i in there]
    slots = _slots_by_name(owners, names)
    if slots is None:
        slots = follow_people(points[:, BODY], owners, points)
    num_people = int(slots.max()) + 1 if len(slots) else 0
    if len(frames) * num_people * NUM_POINTS * 24 > MAX_BYTES:
        raise ConfigError(
            f"{num_people} people in {len(frames)} frames are too many to hold; cut the clip, or detect with a "
            "higher threshold"
        )
    whole = np.zeros((len(frames), num_people, NUM_POINTS, 3))
    whole[owners, slots] = points
    return Poses(whole, width, height)


def pick_person(poses: Poses, index: int | None = None) -> Poses:
    """One person of a clip: by index, or the one whose body fills most of the picture over all frames.

    Who is picked is followed over the whole clip, not chosen anew in each frame. Raises ConfigError for an index that
    nobody has; a clip without people stays one.
    """
    num_people = poses.points.shape[1]
    if index is None:
        if num_people == 0:
            return poses
        index = int(_areas(poses.points[:, :, BODY]).sum(0).argmax())
    if not 0 <= index < num_people:
        known = f"the clip has {num_people}, counted from 0" if num_people else "the clip has nobody"
        raise ConfigError(f"there is no person {index}: {known}; leave the index out for the largest")
    return Poses(poses.points[:, index : index + 1], poses.width, poses.height)


def _areas(points: np.ndarray) -> np.ndarray:
    left, top, right, bottom = np.moveaxis(boxes(points), -1, 0)
    return np.nan_to_num((right - left) * (bottom - top))


def _checked_frames(frames) -> list[dict]:
    frames = [frames] if isinstance(frames, dict) else frames
    if not isinstance(frames, (list, tuple)) or not frames:
        what = "no frames" if isinstance(frames, (list, tuple)) else type(frames).__name__
        raise ShapeError(f"poses are {what}; a list with a dict for each frame is needed (POSE_KEYPOINT)")
    if len(frames) > MAX_FRAMES:
        raise ShapeError(f"{len(frames)} frames of poses; at most {MAX_FRAMES} are read; cut the clip")
    for t, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise ShapeError(f"frame {t} is {type(frame).__name__}; a dict with 'people' is needed (POSE_KEYPOINT)")
        if "animals" in frame or str(frame.get("version")).lower() == "ap10k":
            raise ShapeError(
                f"frame {t} holds animals (AP10k, 17 points); poses of people are needed: 18 points, or BODY_25; "
                "detect with DWPose, OpenPose or SDPose"
            )
        if "people" not in frame:
            raise ShapeError(
                f"frame {t} has no 'people' among its keys ({', '.join(map(str, list(frame)[:5])) or 'none'}); "
                "give OpenPose JSON or POSE_KEYPOINT"
            )
    return list(frames)


def _people_of(frame: dict, t: int) -> Iterable[dict]:
    people = frame["people"]
    if people is None:
        return []
    if not isinstance(people, (list, tuple)) or not all(isinstance(person, dict) for person in people):
        raise ShapeError(f"'people' of frame {t} is no list of dicts; give OpenPose JSON or POSE_KEYPOINT")
    if len(people) > MAX_PEOPLE:
        raise ShapeError(
            f"frame {t} has {len(people)} people; at most {MAX_PEOPLE} are told apart; detect with a higher threshold"
        )
    return people


def _canvas(frames: list[dict], size: tuple[int, int] | None) -> tuple[int, int]:
    found: dict[tuple, int] = {}
    for t, frame in enumerate(frames):
        sides = frame.get("canvas_width"), frame.get("canvas_height")
        if any(side not in (None, 0) for side in sides):
            if not all(_is_side(side) for side in sides):
                raise ShapeError(f"the canvas of frame {t} is {sides[0]!r} x {sides[1]!r}; whole pixels are needed")
            found.setdefault((int(sides[0]), int(sides[1])), t)
    if size is not None:
        if len(size) != 2 or not all(_is_side(side) for side in size):
            raise ConfigError(f"size is {size!r}; width and height in whole pixels are needed")
        found.setdefault((int(size[0]), int(size[1])), -1)
    if not found:
        raise ConfigError(
            "the poses do not say how large their canvas is, as OpenPose's files do not; give width and height of the "
            "video they were detected in"
        )
    if len(found) > 1:
        (first, _), (other, t) = list(found.items())[:2]
        where = f"frame {t} is of" if t >= 0 else "you gave"
        raise ConfigError(
            f"the canvas is {first[0]}x{first[1]} and {where} {other[0]}x{other[1]}; all frames need one size; "
            "detect them at one size, or leave the size out where the file has it"
        )
    return next(iter(found))


def _is_side(side) -> bool:
    return isinstance(side, (int, float)) and not isinstance(side, bool) and 1 <= side < _FAR and side == int(side)


def _points_of(person: dict, where: str) -> np.ndarray:
    points = np.zeros((NUM_POINTS, 3))
    for name, (part, counts) in _LISTS.items():
        values = person.get(name)
        if values is None or (isinstance(values, (list, tuple)) and not values):
            continue
        try:
            rows = np.array(values, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ShapeError(f"{name} of {where} holds what is no number: {ascii(str(error))[:120]}") from error
        if rows.ndim != 1 or rows.size not in [3 * count for count in counts]:
            need = " or ".join(str(count) for count in counts)
            raise ShapeError(
                f"{name} of {where} has {rows.size} numbers in shape {rows.shape}; {need} points of x, y, confidence "
                f"in one flat list are needed"
            )
        rows = rows.reshape(-1, 3)
        if len(rows) == 25:
            points[FEET] = rows[19:]
            rows = rows[_BODY_25]
        points[part.start : part.start + len(rows)] = rows
    return points


def _name_of(person: dict) -> int | None:
    """The identity that a tool which follows people gives; OpenPose writes [-1] where it does not follow them."""
    name = person.get("person_id")
    name = name[0] if isinstance(name, (list, tuple)) and len(name) == 1 else name
    return name if isinstance(name, int) and not isinstance(name, bool) and name >= 0 else None


def _slots_by_name(owners: np.ndarray, names: list[int | None]) -> np.ndarray | None:
    """A place for each identity, in their order; None unless everybody has one and nobody in a frame the same."""
    if not names or None in names or len(set(zip(owners.tolist(), names))) < len(names):
        return None
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.array([places[name] for name in names])


def _settled(points: np.ndarray, width: int, height: int, least: float) -> np.ndarray:
    """Pixels, confidences in 0..1, zeros for what is missing."""
    with np.errstate(invalid="ignore"):
        x, y, sure = np.moveaxis(points, -1, 0)
        there = np.isfinite(points).all(-1) & (np.abs(points[..., :2]) < _FAR).all(-1)
        there &= (sure >= least) & (sure > 0) & ~((x == 0) & (y == 0)) & ~((x == -1) & (y == -1))
        points = np.where(there[..., None], points, 0.0)
    points[..., 2] = points[..., 2].clip(0, 1)
    reach = np.abs(points[there][:, :2]).max(-1)
    if reach.size and np.mean(reach <= _SHARE) >= 0.9:
        points[..., :2] *= (width, height)
    return points


def _hands_at_their_wrists(points: np.ndarray) -> np.ndarray:
    """Both hands of every row (n, 136, 3) under the side whose wrist is nearer.

    Where that is a close call (hands folded, wrists unknown) the row follows what holds in most clear rows of the clip;
    without a clear row the names stay.
    """
    hands = np.stack((points[:, LEFT_HAND], points[:, RIGHT_HAND]), 1)  # (n, 2, 21, 3)
    wrists = points[:, [_LEFT_WRIST, _RIGHT_WRIST]]  # (n, 2, 3)
    sure = hands[..., 2:]
    middle = (hands[..., :2] * sure).sum(2) / np.maximum(sure.sum(2), 1e-9)
    root = np.where(sure[:, :, 0] > 0, hands[:, :, 0, :2], middle)
    there, known = (sure[..., 0] > 0).any(-1), wrists[..., 2] > 0
    extent = np.maximum(diagonals(hands).max(-1), 1.0)
    apart = np.linalg.norm(root[:, :, None] - wrists[:, None, :, :2], axis=-1)  # (n, hand, wrist)
    elsewhere = np.broadcast_to(extent[:, None, None], apart.shape)  # of a wrist that is unknown: a hand's length away
    apart = np.where(known[:, None], apart, elsewhere) * there[..., None]
    gain = apart[:, 0, 0] + apart[:, 1, 1] - apart[:, 0, 1] - apart[:, 1, 0]  # px won by swapping
    clear = known.any(-1) & there.any(-1) & (np.abs(gain) > 0.5 * extent)
    most = np.sign(gain[clear]).sum() > 0
    swap = np.where(clear, gain > 0, most) & there.any(-1)
    points = points.copy()
    points[swap, LEFT_HAND], points[swap, RIGHT_HAND] = hands[swap, 1], hands[swap, 0]
    return points
