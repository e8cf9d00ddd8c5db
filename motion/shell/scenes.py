"""`motionblocks animate --prompt`: a video of words alone, by a model that knows them."""

import os
import re

from ..choices import CROP, SAME_MOVE
from ..errors import ConfigError
from .console import say

OF_PHOTOS = {  # options that say how a photo is animated, and what they are when nobody gives them
    "motion": None, "dynamics": 12, "longer": SAME_MOVE, "edges": CROP, "region": None, "lora": None, "adapter": [],
    "lora_strength": 1.0, "dtype": "float32", "kernels": "auto",
}  # fmt: skip


def draw_scene(options) -> None:
    """Draw what `options.prompt` says and write it. Raises ConfigError, ShapeError and CheckpointError."""
    from tqdm import tqdm

    from ..devices import pick_device
    from ..io.media.video import check_fps, check_output, write_video
    from ..io.networks.builtin_names import weights_path
    from ..scene_model import load_scene_model

    _refuse_what_is_for_photos(options)
    output = options.output or "scene.mp4"
    check_output(output, overwrite=options.overwrite)
    width, height = parse_size(options.size)
    model = load_scene_model(weights_path(options.model), device=pick_device(options.device))
    fps = check_fps(options.fps or model.spec.sampling.fps)
    total = model.spec.sampling.num_steps if options.steps is None else options.steps
    with tqdm(desc="sampling", unit="step", total=total, disable=options.quiet) as bar:
        video = model.draw_videos(
            [options.prompt], height=height, width=width, num_frames=options.frames, num_steps=options.steps,
            guidance_scale=options.guidance, seed=options.seed, on_step=lambda *_: bar.update(),
        )  # fmt: skip
    written = write_video(output, video[0].cpu(), fps, overwrite=options.overwrite)
    content = f"{written.num_frames} frames, {written.width}x{written.height}, {fps:g} fps"
    say(f"video: {os.path.abspath(written.path)} ({content})")


def parse_size(text: str) -> tuple[int, int]:
    """"96x64" -> width and height in px. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    if found is None:
        raise ConfigError(f"--size is {text[:40]!r}; it must be WIDTHxHEIGHT in px, such as 64x64")
    return int(found[1]), int(found[2])


def _refuse_what_is_for_photos(options) -> None:
    """Refuse options that would do nothing. Raises ConfigError."""
    if options.model is None:
        raise ConfigError("--prompt needs --model: a model that draws from words, such as one made by train_wan.py")
    if options.photo is not None:
        raise ConfigError(f"--prompt draws from words alone and takes no photo; leave out {options.photo[:60]!r}, or "
                          "say what moves in it with --motion")  # fmt: skip
    given = [f"--{name.replace('_', '-')}" for name, usual in OF_PHOTOS.items() if getattr(options, name) != usual]
    if given:
        raise ConfigError(f"{', '.join(given)}: for models that animate a photo; leave it out where --prompt is given")
