"""Who is who over the frames of a clip: people are followed through crossings, occlusions and out of the picture."""

from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigError
from .body18 import LIMBS

_A, _B = (np.array(ends) for ends in zip(*LIMBS[:13]))
GATE, GATE_A_FRAME = 0.6, 0.12  # body sizes that a body may be off where it is expected, and more a frame unseen
FORGET_PLACE = 24  # frames after which somebody may come back anywhere
MOST_UNLIKE = 0.35  # mean |log ratio| of the lengths of limbs up to which a body may be the one that was lost
MAX_TRACKS = 300  # people of a clip
_MEMORY = 6  # frames that tell how fast somebody walks


@dataclass
class _Track:
    body: np.ndarray  # (18, 3), as last seen, every point at its last place
    middle: np.ndarray  # (2,) px
    size: float  # px
    seen: int  # frame
    lengths: np.ndarray  # (13,) px, NaN for limbs never seen
    way: list = field(default_factory=list)  # (frame, x, y) of the last frames

    def speed(self) -> np.ndarray:
        """px a frame: slope of the straight line through the last places."""
        t, x, y = np.array(self.way[-_MEMORY:], dtype=np.float64).T
        if len(t) < 2:
            return np.zeros(2)
        off = t - t.mean()
        return np.array(((off * x).sum(), (off * y).sum())) / (off * off).sum()


def follow_people(bodies: np.ndarray, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Identity (n,) of n detections, counted from 0 in the order of appearance.

    bodies: (n, 18, 3) px; frames: (n,) ascending; points: (n, m, 3), all parts, for people without a body. In every
    frame detections and known people are paired at the least sum of costs: how far the body lies from where it is
    expected at constant speed, in body sizes, and how unlike its limbs are, so that people who cross, hide behind one
    another or leave and come back stay themselves. Raises ConfigError for more than 300 different people.
    """
    from scipy.optimize import linear_sum_assignment

    lengths, middles, sizes = _limb_lengths(bodies), _middles(bodies, points), _sizes(bodies, points)
    tracks: list[_Track] = []
    slots = np.zeros(len(frames), int)
    for t in np.unique(frames):
        rows = np.flatnonzero(frames == t)
        taken = {}
        if tracks:
            costs, allowed = _costs(tracks, t, bodies[rows], middles[rows], lengths[rows])
            for who, row in zip(*linear_sum_assignment(np.where(allowed, costs, 1e3))):
                if allowed[who, row]:
                    taken[row] = who
        for row, i in enumerate(rows):
            if row not in taken:
                if len(tracks) == MAX_TRACKS:
                    raise ConfigError(
                        f"more than {MAX_TRACKS} different people up to frame {t}; cut the clip, or detect with a "
                        "higher threshold"
                    )
                taken[row] = len(tracks)
                tracks.append(_Track(bodies[i].copy(), middles[i], sizes[i], int(t), lengths[i].copy()))
            slots[i] = taken[row]
            _see(tracks[taken[row]], int(t), bodies[i], middles[i], sizes[i], lengths[i])
    return slots


def _costs(tracks, t, bodies, middles, lengths) -> tuple[np.ndarray, np.ndarray]:
    """Costs (tracks, detections), and whether a pair is allowed at all."""
    size = np.array([track.size for track in tracks])[:, None]
    gap = np.array([t - track.seen for track in tracks], dtype=np.float64)[:, None]
    ahead = np.array([track.speed() for track in tracks]) * np.minimum(gap, FORGET_PLACE)
    last = np.stack([track.body for track in tracks])
    common = (last[:, None, :, 2] > 0) & (bodies[None, :, :, 2] > 0)
    off = np.linalg.norm(last[:, None, :, :2] + ahead[:, None, None] - bodies[None, :, :, :2], axis=-1)
    count = common.sum(-1)
    place = np.stack([track.middle for track in tracks]) + ahead
    whole = np.linalg.norm(place[:, None] - middles[None], axis=-1)
    far = np.where(count >= 3, (off * common).sum(-1) / np.maximum(count, 1), whole) / size
    unlike = _unlikeness(np.stack([track.lengths for track in tracks])[:, None], lengths[None])
    lost = gap > 1
    allowed = np.where(gap > FORGET_PLACE, True, far <= GATE + GATE_A_FRAME * gap)
    allowed &= ~lost | (unlike <= MOST_UNLIKE)
    return np.minimum(far, 4.0) / (1 + gap / 6) + unlike + 0.02 * np.minimum(gap, 30), allowed


def _see(track: _Track, t: int, body, middle, size, lengths) -> None:
    there = body[:, 2] > 0
    gone = ~there & (track.body[:, 2] > 0)
    moved = middle - track.middle
    track.body[gone, :2] += moved
    track.body[there] = body[there]
    track.middle, track.seen = middle, t
    track.size = max(0.98 * track.size, size)
    known = np.isnan(track.lengths)
    track.lengths = np.where(known, lengths, np.where(np.isnan(lengths), track.lengths,
                                                      0.9 * track.lengths + 0.1 * lengths))  # fmt: skip
    track.way = [*track.way[1 - _MEMORY :], (t, *middle)]


def _limb_lengths(bodies: np.ndarray) -> np.ndarray:
    there = (bodies[:, _A, 2] > 0) & (bodies[:, _B, 2] > 0)
    return np.where(there, np.linalg.norm(bodies[:, _A, :2] - bodies[:, _B, :2], axis=-1), np.nan)


def _unlikeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean |log ratio| of the lengths both have, 0 where they have none in common."""
    both = np.isfinite(a) & np.isfinite(b)
    ratio = np.log(np.where(both, np.maximum(a, 1), 1) / np.where(both, np.maximum(b, 1), 1))
    return np.minimum(np.abs(ratio), 1.0).sum(-1) / np.maximum(both.sum(-1), 1)


def _middles(bodies: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The middle of the trunk, else of all that is there: (n, 2) px."""
    trunk = bodies[:, [1, 2, 5, 8, 11]]
    use = np.where((trunk[..., 2] > 0).any(-1)[:, None], (trunk[..., 2] > 0).sum(-1)[:, None], 0)
    inner = (trunk[..., :2] * (trunk[..., 2:] > 0)).sum(1) / np.maximum(use, 1)
    there = points[..., 2:] > 0
    outer = (points[..., :2] * there).sum(1) / np.maximum(there.sum(1), 1)
    return np.where(use > 0, inner, outer)


def _sizes(bodies: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Diagonal of the box around what is there, px, at least 1: (n,)."""
    body = (bodies[..., 2] > 0).sum(-1) >= 3
    return np.maximum(np.where(body, diagonals(bodies), diagonals(points)), 1.0)


def boxes(points: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom (…, 4) around the points (…, n, 3) that are there; NaN where none is."""
    missing = points[..., 2:] <= 0
    least = np.where(missing, np.inf, points[..., :2]).min(-2)
    most = np.where(missing, -np.inf, points[..., :2]).max(-2)
    found = np.concatenate((least, most), -1)
    return np.where(np.isfinite(found), found, np.nan)


def diagonals(points: np.ndarray) -> np.ndarray:
    """Diagonal (…) of the box around the points (…, n, 3) that are there, px; 0 where none is."""
    box = boxes(points)
    return np.nan_to_num(np.hypot(box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]))
