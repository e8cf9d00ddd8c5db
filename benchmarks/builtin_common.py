"""What the benchmarks of the built-in model share: the pack, photographs from wheels, sampling, results on disk."""

import importlib.util
import platform
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SKIMAGE = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "coins.png",
    "moon.png", "hubble_deep_field.jpg", "grass.png", "brick.png",
)  # fmt: skip
SKLEARN = ("china.jpg", "flower.jpg")
SHAPES = {"square": (192, 192), "3:2": (192, 288), "9:16": (320, 180)}  # height, width in px
HELD_OUT_SEED = 1_000_003  # of clips no training run draws: training seeds are small numbers


def mount_pack() -> None:
    """Load the pack under the fixed alias `pack`."""
    if "pack" in sys.modules:
        return
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)


mount_pack()

from pack.motion.builtin_model import BuiltinModel, bundle  # noqa: E402
from pack.motion.data.procedural.camera import DIRECTED  # noqa: E402, F401
from pack.motion.io.files.atomic import write_json  # noqa: E402
from pack.motion.io.media.video import read_photo  # noqa: E402
from pack.motion.io.networks.builtin_names import weights_path  # noqa: E402
from pack.motion.io.networks.linear_video import read_linear_video  # noqa: E402
from pack.motion.sampling.draw import draw, make_noise  # noqa: E402
from pack.motion.sampling.solvers import euler, flow_dpm_2m  # noqa: E402


def load_model(path: str | Path | None = None) -> BuiltinModel:
    """A shipped model by name (default: motionblocks-tiny), or a file made by one of the training tools."""
    return bundle(read_linear_video(weights_path(path and str(path))))


def photo_paths() -> dict[str, Path]:
    """The 13 photographs of the scikit-image and scikit-learn wheels, by name; nothing is downloaded."""
    folders = {}
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        found = importlib.util.find_spec(package)
        if found is None:
            raise SystemExit(f"{package} is missing: pip install -r requirements-test.txt")
        folders[package] = Path(found.origin).parent / inside
    return {Path(name).stem.split("_")[0]: folders[package] / name
            for package, names in (("skimage", SKIMAGE), ("sklearn", SKLEARN)) for name in names}


def photo(path: Path, shape: str = "square", *, long_side: int | None = None) -> torch.Tensor:
    """A photograph cropped in the middle to a shape of SHAPES and scaled to it: (3, h, w) in [0, 1]."""
    picture = read_photo(path)
    height, width = SHAPES[shape]
    if long_side:
        height, width = (round(side * long_side / max(SHAPES[shape])) for side in SHAPES[shape])
    h, w = picture.shape[1:]
    scale = min(h / height, w / width)
    ch, cw = min(h, round(height * scale)), min(w, round(width * scale))
    top, left = (h - ch) // 2, (w - cw) // 2
    crop = picture[None, :, top : top + ch, left : left + cw]
    return torch.nn.functional.interpolate(crop, (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)


@torch.no_grad()
def sample(
    model: BuiltinModel, first: torch.Tensor, prompts: list[str], buckets, *, seeds=0, num_frames: int = 16,
    num_steps: int | None = None, solver: str = "flow_dpm_2m", frames: list[int] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Sample clips: first (b, 200, 1, 8, 8) unscaled -> latents (b, 200, num_frames, 8, 8) unscaled.

    buckets and seeds: one number, or one a row. Row noise is what `animate` and the host's RandomNoise make. frames:
    only these of the num_frames are made, which is how the models were trained; 0 must be among them.
    """
    b, spec = len(prompts), model.spec
    seeds = [seeds] * b if isinstance(seeds, int) else list(seeds)
    noise = torch.cat([make_noise((1, 200, num_frames, *first.shape[3:]), seed) for seed in seeds])
    told = replace(model.encode(prompts), motion_bucket_id=torch.as_tensor(buckets).expand(b),
                   first_latent=spec.space.scaled(first))
    if frames is not None:
        noise, told = noise[:, :, frames], told.at_places(torch.tensor([frames, frames], dtype=torch.float32))
    solve = {"flow_dpm_2m": flow_dpm_2m, "euler": euler}[solver]
    drawn = draw(model.dit, noise, told, spec.sampling, num_steps=num_steps, guidance_scale=1.0, solver=solve)
    return spec.space.unscaled(drawn)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]; 99 for equal inputs."""
    error = float((a.double() - b.double()).square().mean())
    return 99.0 if error < 10**-9.9 else float(-10 * torch.log10(torch.tensor(error)))


def save(name: str, figures: dict, rows: list) -> None:
    """Write raw results beside their summary as JSON and say where."""
    facts = {"date": date.today().isoformat(), "torch": torch.__version__, "machine": platform.machine(),
             "threads": torch.get_num_threads()}
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", {"facts": facts, "figures": figures, "rows": rows})
    for key, value in figures.items():
        print(f"{key}: {value}")
    print(f"raw numbers: benchmarks/results/{name}.json")


def verdict(value: float, low: float | None = None, high: float | None = None) -> str:
    """A figure with whether it keeps the promise."""
    kept = (low is None or value >= low) and (high is None or value <= high)
    need = " and ".join(text for text in (f">= {low:g}" if low is not None else "",
                                           f"<= {high:g}" if high is not None else "") if text)
    return f"{value:.4g} (need {need}: {'yes' if kept else 'NO'})"
