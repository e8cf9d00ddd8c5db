"""Backward flow of a clip's frames against its first frame, on the model's coarse grid, in plain torch.

Each cell of the grid is 4 x 4 px. Flow is first found between neighbouring frames, coarse to fine, and chained; then
every frame is matched with frame 0 directly, so that errors do not add up. One match minimises a robust colour
difference over small windows plus the bending of the flow, by Gauss-Newton steps solved with conjugate gradients: the
windowed least squares of Lucas and Kanade 1981 joined with the global smoothness of Horn and Schunck 1981, as in Bruhn,
Weickert, Schnörr 2005 ("Lucas/Kanade meets Horn/Schunck"). Differs: bending (second differences) is penalised instead
of slope, so that zoom and rotation cost nothing, and pixels whose origin lies outside the picture do not count.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..layers.warp import extend_grid

FLOW_VERSION = 1  # raised when results change; part of the fingerprint of cached latents
CELL = 4  # px of the working square per cell of the grid
PAIR_LEVELS = ((4, 4), (2, 4), (1, 3))  # (shrink, Gauss-Newton steps) between neighbours
DIRECT_LEVELS = ((2, 3), (1, 6))  # then against frame 0
BENDING = 5e-4  # weight of squared second differences of the flow, beside squared differences of colour
SLOPE = 2e-6  # weight of squared first differences: only tames what no texture holds
NOISE = 0.03  # colour differences above this count less and less
MAX_GAIN = 1.5  # of the light between two frames
SOLVER_STEPS = 12
MARGIN = 6  # cells around the grid, extrapolated, that chained flow may point into


def estimate_grid_flow(frames: Tensor) -> Tensor:
    """Where each cell of frame n lies in frame 0: frame_n(x) = frame_0(x + flow_n(x)).

    frames: (t, 3, s, s) in [0, 1], s a multiple of 16, s >= 32. Returns (t, 2, s / 4, s / 4), (dx, dy) px, float32;
    frame 0 is 0. Raises ShapeError.
    """
    t, c, h, w = frames.shape
    if c != 3 or h != w or h < 32 or h % 16:
        raise ShapeError(f"frames are {tuple(frames.shape)}; (t, 3, s, s) with s a multiple of 16 from 32 on is needed")
    frames = frames.float()
    flow = frames.new_zeros(t, 2, h // CELL, w // CELL)
    if t == 1:
        return flow
    steps = _match(frames[:-1], frames[1:], flow[1:], PAIR_LEVELS)
    chained = [flow[0]]
    for step in steps:
        chained.append(step + read_grid(chained[-1], step))
    first = frames[:1].expand(t - 1, -1, -1, -1)
    flow[1:] = _match(first, frames[1:], torch.stack(chained[1:]), DIRECT_LEVELS)
    return flow


def _match(source: Tensor, target: Tensor, flow: Tensor, levels) -> Tensor:
    """Refine flow (b, 2, g, g) so that source read at x + flow(x) looks like target; pictures are (b, 3, s, s)."""
    for shrink, num_steps in levels:
        small_source, small_target = (F.avg_pool2d(pictures, shrink) for pictures in (source, target))
        stack = torch.cat((small_source, *_slopes(small_source)), dim=1)
        for _ in range(num_steps):
            flow = flow + shrink * _gauss_newton(stack, small_target, flow / shrink, CELL // shrink)
    return flow


def _gauss_newton(stack: Tensor, target: Tensor, flow: Tensor, cell: int) -> Tensor:
    """One step of the flow (b, 2, g, g), px of these pictures. stack: (b, 9, s, s) source, its x and its y slopes."""
    side = target.shape[-1]
    dense = _to_pixels(flow, side)
    seen, inside = _look(stack, dense)
    gain, lift = _light(seen[:, :3], target, inside)
    error = gain * seen[:, :3] + lift - target
    slope_x, slope_y = gain * seen[:, 3:6], gain * seen[:, 6:]
    weight = inside / (1 + error.square().mean(1, keepdim=True) / NOISE**2).sqrt()
    products = torch.stack([
        (a * b).mean(1) for a, b in ((slope_x, slope_x), (slope_x, slope_y), (slope_y, slope_y), (slope_x, error),
                                     (slope_y, error))
    ], dim=1)  # fmt: skip
    terms = _window(F.avg_pool2d(weight * products, cell) if cell > 1 else weight * products)
    return _solve(terms, flow)


def _light(seen: Tensor, target: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and lift of each colour, (b, 3, 1, 1), that bring one picture to the light of the other."""
    count = inside.sum((2, 3), keepdim=True).clamp_min(1)
    means = [(inside * part).sum((2, 3), keepdim=True) / count for part in (seen, target)]
    spread = [(inside * (part - mean)).square().sum((2, 3), keepdim=True) / count + 1e-4
              for part, mean in zip((seen, target), means)]  # fmt: skip
    gain = (spread[1] / spread[0]).sqrt().clamp(1 / MAX_GAIN, MAX_GAIN)
    return gain, means[1] - gain * means[0]


def _solve(terms: Tensor, flow: Tensor) -> Tensor:
    """Minimise the windowed linearised difference plus bending of flow + step over the step, per clip."""
    xx, xy, yy, xe, ye = terms.unbind(1)
    weights = _bend_weights(flow)

    def product(step: Tensor) -> Tensor:
        x, y = step.unbind(1)
        return torch.stack((xx * x + xy * y, xy * x + yy * y), dim=1) + _stiffness(step, weights)

    rest = -torch.stack((xe, ye), dim=1) - _stiffness(flow, weights)
    scale = 1 / (torch.stack((xx, yy), dim=1) + 20 * BENDING)
    step, towards = torch.zeros_like(rest), scale * rest
    direction, power = towards, _dot(rest, towards)
    for _ in range(SOLVER_STEPS):
        image = product(direction)
        length = power / _dot(direction, image).clamp_min(1e-20)
        step, rest = step + length * direction, rest - length * image
        towards = scale * rest
        power, previous = _dot(rest, towards), power
        direction = towards + power / previous.clamp_min(1e-20) * direction
    return step


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)


def _bend_weights(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Less stiffness where the flow bends sharply already: at the edges of things that move by themselves."""
    rows, columns = (_second(flow, axis).square().sum(1, keepdim=True) for axis in (-2, -1))
    return tuple(BENDING / (1 + bend / 0.25).sqrt() for bend in (rows, columns))


def _stiffness(flow: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Half the gradient of the bending and slope energy."""
    total = torch.zeros_like(flow)
    for axis, weight in zip((-2, -1), weights):
        bend = weight * _second(flow, axis)
        total += _second_transposed(bend, axis)
        slope = SLOPE * flow.diff(dim=axis)
        pad = (0, 0, 1, 1) if axis == -2 else (1, 1)
        total -= F.pad(slope, pad).diff(dim=axis)
    return total


def _second(flow: Tensor, axis: int) -> Tensor:
    return flow.diff(n=2, dim=axis)


def _second_transposed(bend: Tensor, axis: int) -> Tensor:
    return F.pad(bend, (0, 0, 2, 2) if axis == -2 else (2, 2)).diff(n=2, dim=axis)


def _slopes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, one-sided at the edges."""
    dy, dx = torch.gradient(pictures, dim=(-2, -1))
    return dx, dy


def _window(terms: Tensor) -> Tensor:
    """Average over 3 x 3 cells with weights 1 2 1."""
    kernel = terms.new_tensor((0.25, 0.5, 0.25))
    kernel = (kernel.view(-1, 1) * kernel).expand(terms.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(terms, (1, 1, 1, 1), mode="replicate"), kernel, groups=terms.shape[1])


def _to_pixels(flow: Tensor, side: int) -> Tensor:
    """Flow grid (b, 2, g, g) at every pixel (b, 2, side, side), linear also beyond the outer cell centres."""
    cell = side // flow.shape[-1]
    wide = F.interpolate(extend_grid(flow), scale_factor=cell, mode="bilinear") if cell > 1 else extend_grid(flow)
    return wide[..., cell:-cell, cell:-cell]


def _look(pictures: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures read at x + flow(x), and where that lies inside them (b, 1, s, s)."""
    side = pictures.shape[-1]
    place = torch.arange(side, dtype=torch.float32, device=flow.device)
    x, y = flow[:, 0] + place, flow[:, 1] + place.unsqueeze(-1)
    grid = torch.stack((x, y), dim=-1) * (2 / (side - 1)) - 1
    inside = (grid.abs().amax(-1) <= 1).to(flow).unsqueeze(1)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=True), inside


def read_grid(grid: Tensor, step: Tensor) -> Tensor:
    """A flow grid (2, g, g) of 4 px cells read at x + step(x), extrapolated around the edges. step: (2, g, g) px."""
    wide = grid
    for _ in range(MARGIN):
        wide = extend_grid(wide)
    side = wide.shape[-1]
    place = torch.arange(grid.shape[-1], dtype=torch.float32, device=grid.device) + MARGIN
    x, y = step[0] / CELL + place, step[1] / CELL + place.unsqueeze(-1)
    places = torch.stack((x, y), dim=-1).unsqueeze(0) * (2 / (side - 1)) - 1
    return F.grid_sample(wide.unsqueeze(0), places, padding_mode="border", align_corners=True)[0]
