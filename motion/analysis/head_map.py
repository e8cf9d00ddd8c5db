"""Which heads of a network look along time and which stay in space, from what was measured of their attention.

The figures are kept, not only the verdict, so that another rule or threshold needs no further look at the network.
Source: Follow-Your-Motion, arXiv 2506.05207, Alg. 1 (rule "paper"), and its released code (rule "release"); method
"svg": Sparse-VideoGen, arXiv 2502.01776, Sec. 4.1.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..choices import HEAD_METHODS, HEAD_RULES, MASSES, PAPER_RULE, RELEASE
from ..errors import ConfigError
from ..foreign_json import parse_json
from .head_probe import band_masks, head_errors, head_masses, sampled_rows

FORMAT_VERSION = 1
ALPHA = 1.3
LEAST = 1e-12  # a mass below this counts as this
MOST_LOOKS, MOST_LAYERS, MOST_HEADS = 256, 200, 512
SVG_FRAMES = 2  # frames to either side that the masks of method svg reach


class HeadWatch:
    """Looks on while a network computes, once for every block, and keeps two figures a head.

    frames, cells: tokens of the video. per_frame: rows looked from in each frame, 0 = all. seed: of those rows.
    """

    def __init__(self, frames: int, cells: int, *, per_frame: int = 0, seed: int = 0, method: str = MASSES):
        self.rows, self.method = sampled_rows(frames, cells, per_frame, seed), method
        wider = {} if method == MASSES else {"frames_wide": SVG_FRAMES, "with_first": True}
        self.masks = band_masks(self.rows, frames, cells, **wider)
        self._found: dict[int, Tensor] = {}

    def __call__(self, block: int, query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> None:
        """What the self-attention of a block reads: (b, n, d) each, queries and keys normed and turned."""
        rows, masks = self.rows.to(query.device), tuple(mask.to(query.device) for mask in self.masks)
        if self.method == MASSES:
            figures = head_masses(query, key, num_heads, rows, masks)
        else:
            figures = head_errors(query, key, value, num_heads, rows, masks)
        self._found[block] = figures.double().cpu()

    def figures(self, num_layers: int) -> Tensor:
        """(2, layers, heads): of the mask in space, and of that in time. Raises ConfigError for blocks not seen."""
        missing = [index for index in range(num_layers) if index not in self._found]
        if missing:
            raise ConfigError(
                f"the self-attention of {len(missing)} of {num_layers} blocks was not seen (block {missing[0]}): "
                "another node computes it by itself; connect the model from before that node"
            )
        return torch.stack([self._found[index] for index in range(num_layers)], dim=1)


@dataclass(frozen=True, eq=False)
class HeadMap:
    """Figures of every head, and the rule by which it is temporal or spatial.

    space, time: (looks, layers, heads). Of method "masses" the shares of attention that stay near in space and along
    time; of "svg" the errors of seeing nothing else. looks: noise level and seed of each. frames, height, width: of the
    clip looked at, in tokens. target_fraction: this share of heads is temporal, whatever alpha says; 0 = by alpha.
    base: plain JSON values that tell the network; loras: layers of it that were patched. Raises ConfigError.
    """

    space: Tensor
    time: Tensor
    looks: tuple[tuple[float, int], ...]
    frames: int
    height: int
    width: int
    per_frame: int = 0
    method: str = MASSES
    rule: str = RELEASE
    alpha: float = ALPHA
    target_fraction: float = 0.0
    base: Mapping = field(default_factory=dict)
    loras: int = 0

    def __post_init__(self):
        problems = []
        if self.space.shape != self.time.shape or self.space.ndim != 3 or len(self.space) != len(self.looks):
            problems.append(f"figures of {tuple(self.space.shape)} and {tuple(self.time.shape)} for {len(self.looks)} "
                            "looks; (looks, layers, heads) is needed")  # fmt: skip
        elif not self.looks or not (self.space.isfinite().all() and self.time.isfinite().all()):
            problems.append("its figures are NaN or infinite: the model gave no attention that can be measured; use "
                            "it in bf16 or fp32")  # fmt: skip
        elif self.space.amin() < 0 or self.time.amin() < 0:
            problems.append("its figures are below 0")
        if self.method not in HEAD_METHODS or self.rule not in HEAD_RULES:
            problems.append(f"method is {str(self.method)[:40]!r}, rule {str(self.rule)[:40]!r}; methods are "
                            f"{', '.join(HEAD_METHODS)}, rules {', '.join(HEAD_RULES)}")
        if not 0.01 <= self.alpha <= 100.0:
            problems.append(f"alpha is {self.alpha}; it must be 0.01 to 100")
        if not 0.0 <= self.target_fraction < 1.0:
            problems.append(f"target_fraction is {self.target_fraction}; it must be 0 (by alpha) or below 1")
        if problems:
            raise ConfigError("head map: " + "; ".join(problems))

    @property
    def num_layers(self) -> int:
        return self.space.shape[1]

    @property
    def num_heads(self) -> int:
        return self.space.shape[2]

    @property
    def temporal(self) -> Tensor:
        """Which heads are temporal, (layers, heads) bool, by the mean of all looks; the others are spatial."""
        return self._verdict(self.space.mean(0), self.time.mean(0))

    @property
    def changing(self) -> float:
        """Share of heads that are not of one type in all looks: sister methods report that types drift."""
        each = torch.stack([self._verdict(space, time) for space, time in zip(self.space, self.time)])
        return float((each != each[:1]).any(0).double().mean())

    @property
    def log_ratio(self) -> Tensor:
        """How far each head leans to time, (layers, heads), by the mean of all looks; 0 = neither."""
        return self._log_ratio(self.space.mean(0), self.time.mean(0))

    @property
    def fingerprint(self) -> str:
        """Changes with the verdict on any head, and with nothing else."""
        told = f"{self.num_layers} {self.num_heads} {self.temporal.int().flatten().tolist()}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def changed(self, **settings) -> "HeadMap":
        """The same figures under another rule, alpha or target_fraction. Raises ConfigError."""
        return replace(self, **settings)

    def check_both(self) -> None:
        """Refuse a map in which all heads are of one type. Raises ConfigError."""
        count, total = int(self.temporal.sum()), self.num_layers * self.num_heads
        if count in (0, total):
            kind = "temporal" if count else "spatial"
            by = f"rule {self.rule} at alpha {self.alpha:g}" if self.method == MASSES else f"method {self.method}"
            raise ConfigError(
                f"all {total} heads are {kind} by {by}, so there is nothing to tell apart; set target_fraction to 0.3, "
                "which takes the heads that lean most to time, whatever the rule says"
            )

    def summary(self) -> str:
        """Lines of text: what was looked at, how many heads are temporal, how steady that is."""
        temporal, total = self.temporal, self.num_layers * self.num_heads
        by = f"share {self.target_fraction:g}" if self.target_fraction else f"alpha {self.alpha:g}"
        by = "smaller error" if self.method != MASSES and not self.target_fraction else f"rule {self.rule}, {by}"
        sigmas = ", ".join(f"{sigma:g}" for sigma in dict.fromkeys(sigma for sigma, _ in self.looks))
        levels, each = f"noise level{'s' * (',' in sigmas)} {sigmas}", temporal.sum(1)
        lines = [
            f"{int(temporal.sum())} of {total} heads are temporal, {int(each.min())} to {int(each.max())} of "
            f"{self.num_heads} a layer ({by})",
            f"looked at {self.frames} latent frames of {self.width}x{self.height} tokens, {levels}, "
            f"{len(self.looks)} look{'s' * (len(self.looks) != 1)}, "
            + (f"from {self.per_frame} tokens a frame" if self.per_frame else "from every token"),
        ]
        if len(self.looks) > 1:
            lines.append(f"{self.changing:.1%} of heads change their type from look to look")
        if self.loras:
            lines.append(f"{self.loras} layers of the model carry LoRAs or other patches, which were looked at with it")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All of it as text."""
        told = {name: getattr(self, name) for name in _PLAIN} | {
            "format_version": FORMAT_VERSION, "looks": [list(look) for look in self.looks], "base": dict(self.base),
            "space": self.space.tolist(), "time": self.time.tolist(), "temporal": self.temporal.int().tolist(),
        }  # fmt: skip
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> "HeadMap":
        """What `to_json` wrote; "temporal" in it is for readers, the verdict comes from the figures.

        Raises ConfigError for what it did not write, and for a newer version.
        """
        try:
            told = parse_json(text)
            if not isinstance(told, dict) or told.get("format_version") != FORMAT_VERSION:
                found = told.get("format_version") if isinstance(told, dict) else type(told).__name__
                raise ValueError(f"format_version is {str(found)[:40]}; this pack reads {FORMAT_VERSION}")
            space, time = (_figures(told[name]) for name in ("space", "time"))
            looks = tuple((float(sigma), int(seed)) for sigma, seed in told["looks"])
            plain = {name: kind(told[name]) for name, kind in _PLAIN.items()}
            base = told["base"] if isinstance(told["base"], dict) else {}
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"head map: {str(error)[:200]}; classify the heads again") from error
        return cls(space, time, looks, base=base, **plain)

    def _verdict(self, space: Tensor, time: Tensor) -> Tensor:
        ratio = self._log_ratio(space, time)
        if self.target_fraction:
            wanted = min(max(round(self.target_fraction * ratio.numel()), 1), ratio.numel() - 1)
            order = ratio.flatten().sort(descending=True, stable=True).indices
            chosen = torch.zeros(ratio.numel(), dtype=torch.bool).index_fill(0, order[:wanted], True)
            return chosen.view_as(ratio)
        if self.method != MASSES:
            return ratio > 0
        if self.rule == PAPER_RULE:
            return space < self.alpha * time
        return time >= self.alpha * space

    def _log_ratio(self, space: Tensor, time: Tensor) -> Tensor:
        ratio = (time.clamp_min(LEAST) / space.clamp_min(LEAST)).log()
        return ratio if self.method == MASSES else -ratio


_PLAIN = {"frames": int, "height": int, "width": int, "per_frame": int, "method": str, "rule": str, "alpha": float,
          "target_fraction": float, "loras": int}  # fmt: skip


def _figures(values) -> Tensor:
    """Nested lists as (looks, layers, heads). Raises ValueError and TypeError."""
    made = torch.tensor(values, dtype=torch.float64)
    limits = (MOST_LOOKS, MOST_LAYERS, MOST_HEADS)
    if made.ndim != 3 or any(not 1 <= size <= limit for size, limit in zip(made.shape, limits)):
        raise ValueError(f"figures are {tuple(made.shape)}; (looks, layers, heads) is needed")
    return made


def draw_head_map(found: HeadMap, *, cell: int = 26) -> Tensor:
    """A picture (1, h, w, 3) in [0, 1]: a row a layer, a box a head, blue in space, orange along time, a dot on those
    that are temporal, and how many a layer has."""
    from ..metrics.drawing import INK, LINE, PAPER, SERIES, SOFT, Canvas

    temporal, ratio = found.temporal, found.log_ratio
    left, top, right = 64, 60, 72
    canvas = Canvas(max(left + cell * found.num_heads + right, 470), top + cell * found.num_layers + 46)
    total = found.num_layers * found.num_heads
    canvas.text((left, 12), f"{int(temporal.sum())} of {total} heads look along time", size=16, colour=INK)
    canvas.text((left, 36), "layer by layer; colour: how far a head leans to one side", size=12, colour=SOFT)
    far = max(float(ratio.abs().max()), math.log(found.alpha), 1e-6)
    for layer in range(found.num_layers):
        y = top + cell * layer
        canvas.text((left - 10, y + cell // 2), str(layer), size=13, colour=SOFT, anchor="rm")
        for head in range(found.num_heads):
            x, lean = left + cell * head, float(ratio[layer, head]) / far
            share = min(abs(lean), 1.0) ** 0.7
            colour = tuple(round(p + share * (s - p)) for p, s in zip(PAPER, SERIES[1] if lean > 0 else SERIES[0]))
            canvas.box(x, y, cell - 2, cell - 2, colour)
            if temporal[layer, head]:
                canvas.box(x + cell // 2 - 4, y + cell // 2 - 4, 6, 6, INK)
        count = f"{int(temporal[layer].sum())} of {found.num_heads}"
        canvas.text((left + cell * found.num_heads + 8, y + cell // 2), count, size=13, colour=SOFT, anchor="lm")
    y = top + cell * found.num_layers + 14
    for number, (name, colour) in enumerate((("in space", SERIES[0]), ("along time", SERIES[1]), ("temporal", None))):
        x = left + 120 * number
        canvas.box(x, y, 16, 16, colour or LINE)
        if colour is None:
            canvas.box(x + 5, y + 5, 6, 6, INK)
        canvas.text((x + 24, y + 8), name, size=13, colour=SOFT, anchor="lm")
    return canvas.as_frames()
