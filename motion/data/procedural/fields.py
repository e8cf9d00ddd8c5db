"""Backward flow of every motion word: where each place of frame n was in frame 0.

Places and lengths are shares of the picture's side, x to the right, y down; b scenes, t frames, a grid of (h, w)
places. A field is zero at frame 0. Objects take their surroundings along over a soft edge that is wider than their
way, so that nothing is uncovered: the field can be played on any picture without holes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CAMERA_SPEED = {"pan": 0.025, "zoom": 0.05, "rotate": 0.058}  # sides, log-scale, radians; a frame at full speed
AXES = {
    "pan left": (0, -1.0), "pan right": (0, 1.0), "pan up": (1, -1.0), "pan down": (1, 1.0),
    "zoom in": (2, -1.0), "zoom out": (2, 1.0), "rotate left": (3, 1.0), "rotate right": (3, -1.0),
}  # fmt: skip
OBJECT_WORDS = (
    "slide left", "slide right", "slide up", "slide down", "bounce", "orbit", "spin", "swing", "grow", "shrink",
)  # fmt: skip
REGION_WORDS = ("clouds", "waterfall", "ripple")
PICTURE_WORDS = ("sway", "shake", "pulse", "swirl")
PERIOD = 16.0  # frames of a swing, an orbit, a sway; two bounces
SLIDE, BOUNCE, ORBIT, SWING, SPIN, GROW = 0.010, 0.15, 0.085, 0.42, 0.07, 0.022  # full speed; way of 15 frames at most
CLOUDS, WATERFALL, RIPPLE = 0.011, 0.012, 0.016
SWAY, SHAKE, PULSE, SWIRL = 0.10, 0.022, 0.10, 0.055
ROPE = 0.30  # from a swinging object up to the point it hangs from
EDGE, SPIN_EDGE = 0.20, 0.07  # width of an object's soft edge
MARGIN = 0.025  # that an object's rigid part reaches beyond its outline
_WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class Layout:
    """Where things are in frame 0; every row a scene, lengths in sides."""

    disc: Tensor  # (b, 4) object: centre x, y, half axes
    skyline: Tensor  # (b, w) row where the sky ends, a grid column each
    fall: Tensor  # (b, 4) waterfall: left, top, right, bottom
    shore: Tensor  # (b,) row where the water begins
    ground: Tensor  # (b, 2) horizon row and extra nearness of the ground at the bottom; 0 = none

    def rows(self, index: Tensor) -> "Layout":
        """The layout of some scenes."""
        return Layout(*(value[index] for value in self.__dict__.values()))


def grid_places(cells: int) -> Tensor:
    """Centres of square grid cells: (cells, cells, 2)."""
    axis = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), -1)


def motion_field(word: str, frames: Tensor, speed: Tensor, layout: Layout, cells: int) -> Tensor:
    """Flow of one word: frames (b, t), speed (b,) in [0, 1] -> (b, t, cells, cells, 2) in sides."""
    time, speed = frames.to(torch.float32), speed.unsqueeze(1)
    if word in AXES:
        return _camera(word, time, speed, layout, cells)
    if word in OBJECT_WORDS:
        return _object(word, time, speed, layout, cells)
    if word in REGION_WORDS:
        return {"clouds": _clouds, "waterfall": _waterfall, "ripple": _ripple}[word](time, speed, layout, cells)
    if word in PICTURE_WORDS:
        return {"sway": _sway, "shake": _shake, "pulse": _pulse, "swirl": _swirl}[word](time, speed, cells)
    return torch.zeros(*frames.shape, cells, cells, 2)  # still, rain, snow: what is there stays there


def object_weight(disc: Tensor, places: Tensor, edge: float) -> Tensor:
    """How much a place belongs to the object: 1 inside, falling to 0 over `edge`. disc (b, 4), places (b, t, h, w, 2).

    Returns (b, t, h, w).
    """
    return ramp(1 - (outline_distance(disc, places) - MARGIN) / edge)


def outline_distance(disc: Tensor, places: Tensor) -> Tensor:
    """Distance to an ellipse, about, negative inside: (b, 4), (b, ..., 2) -> (b, ...)."""
    shape = (len(disc), *[1] * (places.ndim - 2))
    half_x, half_y = disc[:, 2].view(shape), disc[:, 3].view(shape)
    x = (places[..., 0] - disc[:, 0].view(shape)) / half_x
    y = (places[..., 1] - disc[:, 1].view(shape)) / half_y
    return (torch.sqrt(x * x + y * y + 1e-9) - 1) * torch.minimum(half_x, half_y)


def ramp(value: Tensor) -> Tensor:
    """Smooth step from 0 at 0 to 1 at 1."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def _turned(places: Tensor, centre: Tensor, angle: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Places turned and scaled about a centre: (b, t, h, w, 2), (b, t or 1, 2), (b, t)."""
    centre = centre[:, :, None, None, :]
    x, y = (places - centre).unbind(-1)
    cos, sin = (scale * angle.cos())[..., None, None], (scale * angle.sin())[..., None, None]
    return torch.stack((cos * x - sin * y, sin * x + cos * y), -1) + centre


def _camera(word: str, time: Tensor, speed: Tensor, layout: Layout, cells: int) -> Tensor:
    axis, sign = AXES[word]
    way = sign * CAMERA_SPEED[word.split()[0]] * speed * time  # (b, t)
    places = grid_places(cells).expand(*time.shape, -1, -1, -1)
    if axis < 2:
        flow = torch.zeros_like(places)
        flow[..., axis] = way[..., None, None]
        row = places[0, 0, :, 0, 1]
        depth = ((row - layout.ground[:, :1]) / (1 - layout.ground[:, :1])).clamp_min(0) * layout.ground[:, 1:]
        return flow * (1 + depth)[:, None, :, None, None] if axis == 0 else flow
    middle = torch.full((len(time), 1, 2), 0.5)
    if axis == 2:
        return _turned(places, middle, torch.zeros_like(way), way.exp()) - places
    return _turned(places, middle, way) - places


def _object(word: str, time: Tensor, speed: Tensor, layout: Layout, cells: int) -> Tensor:
    """Rigid motion of the object: turn and scale about a pivot, then a shift."""
    places = grid_places(cells).expand(*time.shape, -1, -1, -1)
    disc, edge = layout.disc, EDGE
    zero, pivot = torch.zeros_like(time), disc[:, None, :2]
    shift, angle, scale = torch.stack((zero, zero), -1), zero, torch.ones_like(time)
    turn = 2 * math.pi * time / PERIOD
    if word.startswith("slide"):
        shift = torch.tensor(_WAYS[word.split()[1]]) * (SLIDE * speed * time).unsqueeze(-1)
    elif word == "bounce":
        shift = torch.stack((zero, -BOUNCE * speed * turn.sin().abs()), -1)
    elif word == "orbit":
        shift = torch.stack((turn.sin(), 1 - turn.cos()), -1) * (ORBIT * speed).unsqueeze(-1)
    elif word == "swing":
        pivot, angle = pivot - torch.tensor([0.0, ROPE]), SWING * speed * turn.sin()
    elif word == "spin":
        radius = disc[:, 2:].amax(1, keepdim=True).expand(-1, 2)
        disc, edge, angle = torch.cat((disc[:, :2], radius), 1), SPIN_EDGE, SPIN * speed * time
    else:
        scale = torch.exp((1.0 if word == "grow" else -1.0) * GROW * speed * time)
    before = _turned(places - shift[:, :, None, None, :], pivot, -angle, 1 / scale)
    return (before - places) * object_weight(disc, before, edge).unsqueeze(-1)


def _clouds(time: Tensor, speed: Tensor, layout: Layout, cells: int) -> Tensor:
    above = (layout.skyline.unsqueeze(1) - grid_places(cells)[..., 1]) / 0.10
    flow = torch.zeros(*time.shape, cells, cells, 2)
    flow[..., 0] = -(CLOUDS * speed * time)[..., None, None] * ramp(above).unsqueeze(1)
    return flow


def _waterfall(time: Tensor, speed: Tensor, layout: Layout, cells: int) -> Tensor:
    left, top, right, bottom = (layout.fall[:, k].view(-1, 1, 1) for k in range(4))
    x, y = grid_places(cells).unbind(-1)
    inside = ramp((x - left) / 0.05 + 0.5) * ramp((right - x) / 0.05 + 0.5)
    inside = inside * ramp((y - top) / 0.24) * ramp((bottom - y) / 0.05 + 0.5)
    flow = torch.zeros(*time.shape, cells, cells, 2)
    flow[..., 1] = -(WATERFALL * speed * time)[..., None, None] * inside.unsqueeze(1)
    return flow


def _ripple(time: Tensor, speed: Tensor, layout: Layout, cells: int) -> Tensor:
    x, y = grid_places(cells).unbind(-1)
    below = ramp((y - layout.shore.view(-1, 1, 1)) / 0.10)
    phase = 2 * math.pi * (4.0 * y + 1.0 * x - (time / 8)[..., None, None])
    size = (RIPPLE * speed * (time / 3).clamp_max(1))[..., None, None] * below.unsqueeze(1)
    return torch.stack((0.5 * size * phase.cos(), size * phase.sin()), -1)


def _sway(time: Tensor, speed: Tensor, cells: int) -> Tensor:
    places = grid_places(cells).expand(*time.shape, -1, -1, -1)
    way = -(SWAY * speed * (2 * math.pi * time / PERIOD).sin())[..., None, None]
    return torch.stack((way * (1 - places[..., 1]) ** 1.5, torch.zeros_like(places[..., 0])), -1)


def _shake(time: Tensor, speed: Tensor, cells: int) -> Tensor:
    way = torch.stack(((2.1 * time).sin(), 0.8 * (3.4 * time).sin()), -1) * (SHAKE * speed).unsqueeze(-1)
    return way[:, :, None, None, :].expand(-1, -1, cells, cells, -1).clone()


def _pulse(time: Tensor, speed: Tensor, cells: int) -> Tensor:
    places = grid_places(cells).expand(*time.shape, -1, -1, -1)
    beat = (1 - (2 * math.pi * time / 8).cos()) / 2
    return (places - 0.5) * (torch.exp(-PULSE * speed * beat) - 1)[..., None, None, None]


def _swirl(time: Tensor, speed: Tensor, cells: int) -> Tensor:
    places = grid_places(cells).expand(*time.shape, -1, -1, -1)
    x, y = (places - 0.5).unbind(-1)
    angle = -(SWIRL * speed * time)[..., None, None] * (1 - torch.sqrt(x * x + y * y) / 0.5).clamp_min(0)
    return torch.stack((angle.cos() * x - angle.sin() * y - x, angle.sin() * x + angle.cos() * y - y), -1)
