"""Whether a clip moves like its source and does not look like it: all numbers in one report, and a picture."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from .colour_leak import colour_leak, colour_shares
from .contact_sheet import SheetRow, draw_contact_sheet
from .drawing import SERIES, Canvas
from .motion_fidelity import MOVING, MotionFidelity, motion_fidelity
from .point_tracks import COARSEST, OWN, PointTracks, follow_points

PARTS = 1000  # progress counts so many parts a clip
COLUMNS, CELL = 5, 256  # of the picture, px
SHOWN = 60  # ways drawn on a frame, of those that move
FORMAT = 1


@dataclass(frozen=True)
class ClipScores:
    """What a CLIP says of a clip; None where it says nothing, and `told` why, or by what."""

    temporal: float | None = None  # mean cosine of pictures of successive frames
    text: float | None = None  # mean cosine of the frames' pictures with the prompt
    told: str = "no CLIP scores: connect clip_vision for them"


@dataclass(frozen=True)
class TransferReport:
    """Of one clip and its source, perhaps beside what the base model made."""

    fidelity: MotionFidelity
    base_fidelity: MotionFidelity | None
    leak: float | None
    leak_beside_base: bool
    clip: ClipScores
    by: str  # who followed the points
    frames: tuple[int, int]  # of the source and of the clip
    by_share: bool

    def to_json(self) -> str:
        """All numbers by name; null for what was not measured."""
        found, base = self.fidelity, self.base_fidelity
        values = {
            "format_version": FORMAT, "motion_fidelity": found.all_tracks, "moving_fidelity": found.moving_tracks,
            "base_motion_fidelity": base and base.all_tracks, "base_moving_fidelity": base and base.moving_tracks,
            "colour_leak": self.leak, "colour_leak_beside_base": self.leak_beside_base,
            "temporal_consistency": self.clip.temporal, "text_similarity": self.clip.text,
            "source_tracks": found.tracks[0], "tracks": found.tracks[1], "source_moving_tracks": found.moving[0],
            "moving_tracks": found.moving[1], "source_frames": self.frames[0], "frames": self.frames[1],
            "tracker": self.by, "clip_model": self.clip.told, "compared_by_share": self.by_share,
        }  # fmt: skip
        return json.dumps({name: round(value, 6) if isinstance(value, float) else value
                           for name, value in values.items()}, indent=1)  # fmt: skip

    def text(self) -> str:
        """The numbers as lines."""
        found, base = self.fidelity, self.base_fidelity
        beside = "" if base is None else f" (without the motion: {_number(base.all_tracks)})"
        moving = "" if base is None else f" ({_number(base.moving_tracks)})"
        leak = "over what the base has anyway" if self.leak_beside_base else "without a base to compare with"
        lines = [
            f"motion fidelity {_number(found.all_tracks)}{beside}, of {found.tracks[1]} tracks and {found.tracks[0]} "
            "of the source",
            f"of moving tracks alone {_number(found.moving_tracks)}{moving}: {found.moving[1]} and {found.moving[0]} "
            f"go farther than {100 * MOVING:.0f} % of the diagonal",
            f"colours of the source {_number(self.leak)}, {leak}; 0 = none, 1 = all",
            f"followed by {self.by}; not comparable with published tables" if self.by == OWN
            else f"by {self.by}",
            self.clip.told,
        ]  # fmt: skip
        if self.clip.temporal is not None:
            scores = f"temporal consistency {_number(self.clip.temporal)}, text {_number(self.clip.text)}"
            lines.insert(3, f"{scores}; a clip that stands still is consistent too")
        if self.frames[0] != self.frames[1]:
            how = "over the same share of time" if self.by_share else "up to the end of the shorter"
            lines.append(f"{self.frames[1]} frames and {self.frames[0]} of the source, compared {how}")
        return "\n".join([*lines, *([found.missing] if found.missing else [])])


def measure_motion_transfer(
    made: Tensor,
    source: Tensor,
    base: Tensor | None = None,
    *,
    tracks: tuple[PointTracks, PointTracks] | None = None,
    clip: ClipScores = ClipScores(),
    by_share: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[TransferReport, Tensor]:
    """Compare a clip with its source: the report, and a picture (1, h, w, 3) of both with the ways of their points.

    made, source, base: (t, h, w, 3) in [0, 1], t >= 2; lengths and sizes may differ. tracks: of source and made, by
    another tracker; else ours follows both, and base. on_step(done, total) may raise to cancel. Raises ShapeError.
    """
    clips = {"source": source, "clip": made, **({} if base is None else {"base": base})}
    for name, frames in clips.items():
        if frames.ndim != 4 or len(frames) < 2 or min(frames.shape[1:3]) < COARSEST:
            raise ShapeError(
                f"{name} is {tuple(frames.shape)}; at least 2 frames with sides of at least {COARSEST} px are needed"
            )
    total = PARTS * len(clips)
    done = 0

    def tell(step: int, steps: int) -> None:
        if on_step:
            on_step(done + PARTS * step // steps, total)

    followed = dict(zip(clips, tracks)) if tracks is not None else {}
    for name, frames in clips.items():
        if name not in followed and (tracks is None or name != "base"):
            followed[name] = follow_points(frames, on_step=tell)
        done += PARTS
        tell(0, 1)
    fidelity = motion_fidelity(followed["source"], followed["clip"], by_share=by_share)
    own = followed.get("base")
    beside = None if own is None else motion_fidelity(followed["source"], own, by_share=by_share)
    shares = {name: colour_shares(frames) for name, frames in clips.items()}
    leak = colour_leak(shares["clip"], shares["source"], shares.get("base"))
    report = TransferReport(
        fidelity, beside, leak, base is not None, clip, followed["clip"].by, (len(source), len(made)), by_share
    )
    return report, _picture(clips, followed)


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Of rows (n, d) with rows (n or 1, d), in float64."""
    return float(F.cosine_similarity(a.double(), b.double(), dim=-1).mean())


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


class _WithWays:
    """Frames (t, h, w, 3), the ways of points up to each: moving ones as lines, others as dots; drawn when asked."""

    def __init__(self, frames: Tensor, tracks: PointTracks | None, colour):
        self._frames, self._tracks, self._colour = frames, tracks, colour
        self._scale = CELL / max(frames.shape[1:3])
        h, w = (max(1, round(side * self._scale)) for side in frames.shape[1:3])
        self.shape = (len(frames), h, w, 3)

    def __getitem__(self, frame: int) -> Tensor:
        from PIL import Image

        _, h, w, _ = self.shape
        bytes_ = (self._frames[frame].detach().cpu().float().clamp(0, 1) * 255).round().byte().contiguous().numpy()
        canvas = Canvas(w, h)
        canvas.paste(Image.fromarray(bytes_).resize((w, h), Image.BICUBIC), 0, 0)
        tracks = self._tracks
        if tracks is None or not len(tracks):
            return canvas.as_frames()[0]
        moves = tracks.reach > MOVING * tracks.diagonal
        places = ((tracks.places + 0.5) * self._scale).tolist()
        lines = moves.nonzero().squeeze(1).tolist()
        with canvas.smooth(0, 0, w, h) as region:
            for row in (~moves & tracks.seen[:, frame]).nonzero().squeeze(1).tolist():
                region.mark(places[row][frame], "circle", (150, 150, 156), 0.8)
            for row in lines[:: -(-len(lines) // SHOWN) or 1]:
                last = min(frame, int(tracks.seen[row].sum()) - 1)
                region.curve(places[row][: last + 1], self._colour, 1.4)
                region.mark(places[row][last], "circle", self._colour, 2.2)
        return canvas.as_frames()[0]


def _picture(clips: dict[str, Tensor], tracks: dict[str, PointTracks]) -> Tensor:
    """A row a clip: the source, the clip, and the base."""
    names = {"source": "source", "clip": "with its motion", "base": "without"}
    rows = []
    for index, (name, frames) in enumerate(clips.items()):
        found = tracks.get(name)
        moving = 0 if found is None else int((found.reach > MOVING * found.diagonal).sum())
        remark = "" if found is None else f"{len(found)} tracks, {moving} moving"
        rows.append(SheetRow(names[name], _WithWays(frames, found, SERIES[index]), remark))
    return draw_contact_sheet(rows, num_columns=COLUMNS, cell=CELL, by_share=True)
