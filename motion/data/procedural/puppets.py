"""Drawn clips of a puppet that moves its limbs, with the true place of every joint and its skeleton.

Proportions, clothes and ground differ from clip to clip. What it does has a word; joints move slowly enough for a
codec that puts four frames into one latent.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ConfigError
from ...pose.renderer import draw_bodies
from .grounds import paint_ground
from .sprite_paths import FRAMES
from .sprite_words import GROUNDS

LEAST, MOST = 96, 192  # px of a side
ACTS = {  # what moves, and in step (1) or against one another (-1), left against right
    "waves": ("left shoulder",), "flaps": ("left shoulder", "right shoulder"), "steps": ("left hip", "right hip"),
    "sways": ("waist",), "bends": ("left elbow", "right elbow"), "dances": (
        "waist", "left shoulder", "right shoulder", "left elbow", "right elbow", "left hip", "right hip",
    ),
}  # fmt: skip
SPEED = 2.6  # px a frame, the fastest that a joint moves
_PARTS = ("waist", "left shoulder", "right shoulder", "left elbow", "right elbow", "left hip", "right hip",
          "left knee", "right knee")  # fmt: skip
_CHANCES = 64
_LOOKS = (0, 2, 3, 4, 5, 6, 7, 8)  # those of a puppet's build and colours
_BONES = (  # from, to, part of the look, half as thick again as an arm
    (8, 9, "legs", 1.25), (9, 10, "legs", 1.1), (11, 12, "legs", 1.25), (12, 13, "legs", 1.1),
    (2, 3, "shirt", 1.0), (5, 6, "shirt", 1.0), (3, 4, "skin", 0.85), (6, 7, "skin", 0.85), (1, 0, "skin", 0.9),
)  # fmt: skip


@dataclass(frozen=True)
class PuppetClip:
    """One clip before it is drawn."""

    act: str
    ground: Tensor  # (3, h, w)
    joints: Tensor  # (num_frames, 18, 2), px; body of 18 points
    girth: float  # px, half the thickness of an arm
    head: float  # px, radius
    colours: dict[str, Tensor]  # skin, shirt, legs and hair, (3,) each

    @property
    def caption(self) -> str:
        """Such as "puppet, waves"."""
        return f"puppet, {self.act}"

    def render(self, window: tuple[int, int, int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Pictures (3, t, h, w) in [0, 1] and the puppet's cover (t, h, w) of a window: top, left, height, width."""
        top, left, height, width = window or (0, 0, *self.ground.shape[1:])
        y = (torch.arange(top, top + height) + 0.5).view(-1, 1)
        x = (torch.arange(left, left + width) + 0.5).view(1, -1)
        pictures = (
            self.ground[:, top : top + height, left : left + width].unsqueeze(1).repeat(1, len(self.joints), 1, 1)
        )
        cover = torch.zeros(len(self.joints), height, width)
        for distance, part in self._parts(x, y):
            inside = (0.5 - distance).clamp(0, 1)
            pictures += inside * (self.colours[part].view(3, 1, 1, 1) - pictures)
            cover = torch.maximum(cover, inside)
        return pictures, cover

    def skeletons(self) -> Tensor:
        """The true pose drawn as a skeleton: (3, t, h, w) in [0, 1]."""
        sure = torch.ones(18, 1)
        frames = [draw_bodies([torch.cat((joints, sure), 1)], *self.ground.shape[1:]) for joints in self.joints]
        return torch.stack(frames, 1)

    def _parts(self, x: Tensor, y: Tensor):
        """Distances to what is drawn, (t, h, w) px, back to front, each with the part of the look it has."""
        for a, b, part, thick in _BONES[:4]:
            yield _capsule(x, y, self.joints[:, a], self.joints[:, b]) - thick * self.girth, part
        spine = (self.joints[:, 8] + self.joints[:, 11]) / 2
        for side in (2, 5):
            yield _capsule(x, y, self.joints[:, side], spine) - 1.5 * self.girth, "shirt"
        yield _capsule(x, y, self.joints[:, 1], spine) - 2.0 * self.girth, "shirt"
        for a, b, part, thick in _BONES[4:]:
            yield _capsule(x, y, self.joints[:, a], self.joints[:, b]) - thick * self.girth, part
        middle = self.joints[:, 0]
        reach = torch.hypot(x - middle[:, 0, None, None], y - middle[:, 1, None, None])
        yield (
            torch.hypot(x - middle[:, 0, None, None], y - middle[:, 1, None, None] + 0.35 * self.head) - self.head,
            ("hair"),
        )
        yield reach - 0.92 * self.head, "skin"


class PuppetSource:
    """Draws clips of one size; a clip depends on its generator and the size. Sides of 96 to 192 px; ConfigError."""

    def __init__(self, height: int = 128, width: int = 128, *, acts: tuple[str, ...] = tuple(ACTS),
                 grounds: tuple[str, ...] = GROUNDS, num_frames: int = FRAMES):  # fmt: skip
        if not (LEAST <= height <= MOST and LEAST <= width <= MOST):
            raise ConfigError(f"puppets of {width}x{height} px: sides of {LEAST} to {MOST} px are drawn")
        unknown = [act for act in acts if act not in ACTS]
        if unknown:
            raise ConfigError(f"no puppet {unknown[0]!r}; known: {', '.join(ACTS)}")
        self.height, self.width, self.acts, self.grounds, self.num_frames = height, width, acts, grounds, num_frames

    def draw(self, generator: torch.Generator) -> PuppetClip:
        """A clip of a random puppet."""
        return self._clip(torch.rand(_CHANCES, generator=generator).tolist(), generator)

    def draw_twice(self, generator: torch.Generator) -> tuple[PuppetClip, PuppetClip]:
        """Two clips of one random puppet before one ground, each with an act, rest and place of its own."""
        chance = torch.rand(_CHANCES, generator=generator).tolist()
        first = self._clip(chance, generator)
        other = torch.rand(_CHANCES, generator=generator).tolist()
        other = [mine if k in _LOOKS else theirs for k, (mine, theirs) in enumerate(zip(chance, other))]
        act, tall = self._act(other), self._tall(other)
        return first, replace(first, act=act, joints=self._joints(act, tall, other))

    def _clip(self, chance: list[float], generator: torch.Generator) -> PuppetClip:
        act, tall = self._act(chance), self._tall(chance)
        joints = self._joints(act, tall, chance)
        ground = self.grounds[int(chance[2] * len(self.grounds)) % len(self.grounds)]
        hues = torch.rand(4, 3, generator=generator)
        light = 0.55 + 0.4 * chance[3]
        colours = {"skin": torch.tensor((1.0, 0.78, 0.62)) * light, "shirt": hues[1] * 0.85 + 0.1,
                   "legs": hues[2] * 0.7 + 0.05, "hair": hues[3] * 0.6}  # fmt: skip
        girth = tall * (0.030 + 0.014 * chance[4])
        head = tall * (0.075 + 0.02 * chance[5])
        return PuppetClip(act, paint_ground(ground, self.height, self.width, generator), joints, girth, head, colours)

    def _act(self, chance: list[float]) -> str:
        return self.acts[int(chance[1] * len(self.acts)) % len(self.acts)]

    def _tall(self, chance: list[float]) -> float:
        """Height in px."""
        return min(self.height, self.width) * (0.72 + 0.14 * chance[0])

    def _joints(self, act: str, tall: float, chance: list[float]) -> Tensor:
        """Places of the 18 points in every frame, px."""
        angle = {part: self._angle(part, part in ACTS[act], act, tall, chance) for part in _PARTS}
        wide = tall * (0.10 + 0.03 * chance[6])  # from neck to shoulder
        hip, arm, leg = wide * (0.55 + 0.2 * chance[7]), tall * (0.165 + 0.02 * chance[8]), tall * 0.225
        torso = tall * 0.29
        base = torch.tensor((self.width / 2 + (chance[9] - 0.5) * 0.2 * self.width, self.height / 2 + 0.06 * tall))
        base = base.expand(self.num_frames, 2)
        neck = base + torso * _way(angle["waist"] + math.pi)
        nose = neck + tall * 0.13 * _way(angle["waist"] * 1.2 + math.pi)
        beside = _way(angle["waist"] + math.pi / 2)  # to the right of the picture: the puppet's left
        points: list[Tensor] = [nose, neck] + [neck] * 16
        for sign, side, first in ((-1, "right", 2), (1, "left", 5)):
            shoulder = neck + sign * wide * beside
            raised = sign * angle[f"{side} shoulder"]
            elbow = shoulder + arm * _way(raised)
            points[first : first + 3] = [shoulder, elbow, elbow + arm * _way(raised + sign * angle[f"{side} elbow"])]
            joint = base + torch.tensor((sign * hip, 0.0))
            spread = sign * angle[f"{side} hip"]
            knee = joint + leg * _way(spread)
            first = 8 if side == "right" else 11
            points[first : first + 3] = [joint, knee, knee + leg * _way(spread - sign * angle[f"{side} knee"])]
            across, up = tall * 0.028 * sign, -tall * 0.02
            points[14 if sign < 0 else 15] = nose + torch.tensor((across, up))
            points[16 if sign < 0 else 17] = nose + torch.tensor((2.2 * across, 0.4 * up))
        return torch.stack(points, 1)

    def _angle(self, part: str, moves: bool, act: str, tall: float, chance: list[float]) -> Tensor:
        """Angle of a part in every frame, radians from hanging down, outward."""
        k = 10 + 3 * _PARTS.index(part)
        rest, free, reach = {  # mean, how far the mean may be off, and how long what hangs there is (of the height)
            "waist": (0.0, 0.08, 0.55), "shoulder": (1.0, 0.75, 0.37), "elbow": (0.5, 0.45, 0.18),
            "hip": (0.16, 0.10, 0.45), "knee": (0.1, 0.08, 0.22),
        }[part.split()[-1]]  # fmt: skip
        mean = rest + (2 * chance[k] - 1) * free
        if not moves:
            return torch.full((self.num_frames,), mean)
        period = 20.0 + 14.0 * chance[k + 1]
        share = 0.45 if act == "dances" else 1.0
        swing = share * min(SPEED * period / (math.tau * reach * tall), 0.9)
        n = torch.arange(self.num_frames, dtype=torch.float32)
        return mean + swing * torch.sin(math.tau * (n / period + chance[k + 2]))


def _way(angle: Tensor) -> Tensor:
    """Unit vectors (t, 2) at angles (t,) from straight down, counter-clockwise on screen."""
    return torch.stack((angle.sin(), angle.cos()), 1)


def _capsule(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Distance of places to the lines from a (t, 2) to b (t, 2): (t, h, w)."""
    along = b - a
    length = along.square().sum(1).clamp_min(1e-6).view(-1, 1, 1)
    px, py = x - a[:, 0].view(-1, 1, 1), y - a[:, 1].view(-1, 1, 1)
    dx, dy = along[:, 0].view(-1, 1, 1), along[:, 1].view(-1, 1, 1)
    share = ((px * dx + py * dy) / length).clamp(0, 1)
    return torch.hypot(px - share * dx, py - share * dy)
