"""What the dynamics slider of the built-in models does, by the models' own flow: the table of metrics/slider_flow.py.

Each move is drawn at some sliders on some photographs of three shapes; its way is read from the flow grids that the
model made, inside the photo, so no flow meter is involved. Prints the table and its spread over the photos; writes
JSON. The flow is settled after few steps and does not depend on the frames between those that are drawn.
"""

import argparse
import cmath
import math
import statistics
from dataclasses import replace

import torch
from builtin_common import SHAPES, draw, load_model, make_noise, photo, photo_paths, save
from pack.motion.io.networks.builtin_names import BUILTIN_NAMES
from pack.motion.layers.letterbox import Letterbox
from pack.motion.metrics.camera_way import way_of
from pack.motion.metrics.optical_flow import CameraMotion, fit_camera_motion
from pack.motion.metrics.slider_flow import SLIDERS

MOVES = {"pan": "pan left", "zoom in": "zoom in", "zoom out": "zoom out", "rotate": "rotate left"}
MOVING_SLIDERS = SLIDERS[1:]  # at 0 nothing moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--frames", type=int, default=4, help="drawn of the clip's 16, evenly spread")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=BUILTIN_NAMES)
    parser.add_argument("--name", default="slider_flow", help="of the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for name in arguments.models for row in measure(name, arguments)]
    figures = {}
    for name in arguments.models:
        for move in MOVES:
            ways = [[row["way"] for row in rows if (row["model"], row["move"], row["slider"]) == (name, move, slider)]
                    for slider in MOVING_SLIDERS]  # fmt: skip
            middle = [statistics.median(way) for way in ways]
            spread = [max(max(way) / mid - 1, 1 - min(way) / mid) for way, mid in zip(ways, middle)]
            figures[f"{name}, {move}: % of the long side at {MOVING_SLIDERS}"] = [round(mid, 1) for mid in middle]
            figures[f"{name}, {move}: farthest photo from it, %"] = [round(100 * value) for value in spread]
    save(arguments.name, figures, rows)


def measure(name: str, arguments) -> list[dict]:
    """One model on the photographs."""
    model, rows = load_model(name), []
    places = torch.linspace(0, model.spec.sampling.num_frames - 1, arguments.frames).round()
    every = max(1, len(photo_paths()) // arguments.photos)
    for index, (title, path) in enumerate(list(photo_paths().items())[::every][: arguments.photos]):
        shape = list(SHAPES)[index % len(SHAPES)]
        picture = photo(path, shape)
        for slider in MOVING_SLIDERS:
            grids = draw_grids(model, picture, slider, places, arguments.steps)
            box = Letterbox(*picture.shape[1:], model.spec.latent.working_size)
            rows += [{"model": name, "photo": title, "shape": shape, "move": move, "slider": slider,
                      "way": way_of_grids(grid, box)} for move, grid in zip(MOVES, grids)]  # fmt: skip
    return rows


@torch.no_grad()
def draw_grids(model, picture: torch.Tensor, slider: int, places: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Backward flow grids of all MOVES at some places of the clip: (moves, t, 2, g, g), working px."""
    first = model.codec.encode(picture[None, :, None]).expand(len(MOVES), -1, -1, -1, -1)
    told = replace(model.encode(MOVES.values()), motion_bucket_id=torch.full((len(MOVES),), slider), first_latent=first)
    noise = make_noise((1, first.shape[1], len(places), *first.shape[3:]), 0).expand(len(MOVES), -1, -1, -1, -1)
    told = told.at_places(places.expand(2, -1))
    return model.codec.flow_of(draw(model.dit, noise, told, model.spec.sampling, num_steps=num_steps))


def way_of_grids(grids: torch.Tensor, box: Letterbox) -> float:
    """Way of a clip in % of the photo's long side from its backward flow grids (t, 2, g, g), inside the photo."""
    cell = box.size / grids.shape[-1]
    centre = (torch.arange(grids.shape[-1]) + 0.5) * cell
    rows = (centre > box.top) & (centre < box.top + box.inner_height)
    columns = (centre > box.left) & (centre < box.left + box.inner_width)
    total, turn, shift = 0.0, complex(1), complex(0)  # of the frame before, back to frame 1
    for flow in grids[1:, :, rows][..., columns].movedim(1, -1) / cell:
        found = fit_camera_motion(flow)
        back, aside = cmath.rect(found.zoom, math.radians(found.degrees)), complex(found.dx, found.dy)
        step, moved = turn / back, (shift - aside) / back
        motion = CameraMotion(moved.real, moved.imag, abs(step), math.degrees(cmath.phase(step)))
        total, turn, shift = total + way_of(motion, grids.shape[-1]), back, aside
    return total


if __name__ == "__main__":
    main()
