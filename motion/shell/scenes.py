"""`motionblocks animate --prompt`: a video of words, or of a picture and words, by a model that knows them."""

import os
import re
from pathlib import Path

from ..choices import CROP, SAME_MOVE
from ..errors import ConfigError
from ..io.networks.builtin_names import SCENE_NAMES
from .adapters import adapter_files, adapter_stack, lora_on
from .console import say

SMALLEST = (64, 64)  # px, what is drawn where nobody gives a size
OF_PHOTOS = {  # options that say how a photo is animated, and what they are when nobody gives them
    "motion": None, "dynamics": 12, "longer": SAME_MOVE, "edges": CROP, "region": None,
    "dtype": "float32", "kernels": "auto",
}  # fmt: skip


def draw_scene(options) -> None:
    """Draw what `options.prompt` says and write it. Raises ConfigError, ShapeError and CheckpointError."""
    from tqdm import tqdm

    from ..adapters.notes import replaces_text
    from ..data.procedural.sprite_words import faint_pair
    from ..devices import pick_device
    from ..io.adapters.miva_file import CLEAN, MIVAFile
    from ..io.media.video import check_fps, check_output, read_photo, write_video
    from ..io.networks.builtin_names import weights_path
    from ..scene_model import DRAWINGS_ONLY, fit_picture, load_scene_model

    refuse_what_is_for_photos(options, "--prompt")
    output = options.output or f"{'scene' if options.photo is None else Path(options.photo).stem}.mp4"
    check_output(output, overwrite=options.overwrite)
    size = None if options.size is None else parse_size(options.size)
    photo = None if options.photo is None else read_photo(options.photo)
    files = adapter_files(options)
    begins_clean = any(isinstance(file, MIVAFile) and file.first_frame == CLEAN for file, _ in files)
    name = options.model or SCENE_NAMES[photo is not None and not begins_clean]
    model = load_scene_model(weights_path(name), device=pick_device(options.device))
    stack = adapter_stack(files, model.dit, model.spec)
    lora = lora_on(options, model.dit)
    if model.sequences is not None:
        raise ConfigError(f"{name[:60]} has a picture follow poses; say which with --poses, or use another model")
    if begins_clean and photo is None:
        raise ConfigError("these motion adapters begin with a picture, and none is given: name one before --prompt")
    if not begins_clean and model.starts_from_image != (photo is not None):
        raise ConfigError(_other_model(name, photo is not None))
    guidance = options.guidance
    if guidance is None and replaces_text(stack):
        guidance = 1.0  # nobody reads the prompt
    start = None if photo is None else fit_picture(photo, size)
    width, height = (size or SMALLEST) if start is None else (start.shape[3], start.shape[2])
    fps = check_fps(options.fps or model.spec.sampling.fps)
    total = model.spec.sampling.num_steps if options.steps is None else options.steps
    with tqdm(desc="sampling", unit="step", total=total, disable=options.quiet) as bar, lora, stack.during(model.dit):
        video = model.draw_videos(
            [options.prompt], start=start, height=height, width=width, num_frames=options.frames,
            num_steps=options.steps, guidance_scale=guidance, seed=options.seed,
            on_step=lambda *_: bar.update(), clean_first_frame=begins_clean,
        )  # fmt: skip
    if start is not None:
        say(f"note: {DRAWINGS_ONLY}")
    elif pair := faint_pair(model.vocabulary.named(options.prompt)):
        say(f"note: {' on '.join(pair)} was never drawn in training and can hardly be seen; name another colour or "
            "ground")  # fmt: skip
    written = write_video(output, video[0].cpu(), fps, overwrite=options.overwrite)
    content = f"{written.num_frames} frames, {written.width}x{written.height}, {fps:g} fps"
    say(f"video: {os.path.abspath(written.path)} ({content})")


def parse_size(text: str) -> tuple[int, int]:
    """"96x64" -> width and height in px. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    if found is None:
        raise ConfigError(f"--size is {text[:40]!r}; it must be WIDTHxHEIGHT in px, such as 64x64")
    return int(found[1]), int(found[2])


def _other_model(name: str, has_photo: bool) -> str:
    """What to take in place of a model that does not fit what was given."""
    if has_photo:
        return (f"{name[:60]} draws from words alone and takes no picture; leave the picture out, or use --model "
                f"{SCENE_NAMES[1]}, or say what moves in a photo with --motion")  # fmt: skip
    return f"{name[:60]} goes on from a picture; give one, or use --model {SCENE_NAMES[0]}"


def refuse_what_is_for_photos(options, where: str) -> None:
    """Refuse options that would do nothing beside the option `where`. Raises ConfigError."""
    given = [f"--{name.replace('_', '-')}" for name, usual in OF_PHOTOS.items() if getattr(options, name) != usual]
    if given:
        raise ConfigError(f"{', '.join(given)}: for models that animate a photo; leave it out where {where} is given")
