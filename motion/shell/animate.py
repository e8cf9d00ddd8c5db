"""`motionblocks animate`: a photo in, a video out."""

import os
from contextlib import nullcontext
from pathlib import Path

from ..choices import CROP, EDGES, LONGER, SAME_MOVE
from ..errors import ConfigError
from .adapters import adapter_files, adapter_stack, lora_on
from .console import say
from .pose_video import draw_pose_video
from .scenes import draw_scene

FRAMES = 16  # of a photo animated without a word on it


def add_animate(commands) -> None:
    command = commands.add_parser(
        "animate", help="make a video of a photo", description="Make a video of a photo that moves as you say.",
        epilog="An existing output is never overwritten (clip.mp4, clip_2.mp4, …) unless you say --overwrite.",
    )  # fmt: skip
    add = command.add_argument
    add("photo", nargs="?", help="PNG, JPEG, WebP, GIF, BMP, TIFF or PPM, sides up to 4096 px")
    add("-o", "--output", help=".mp4, .webp or .gif file, or a folder name for PNG frames (default: PHOTO's name.mp4)")
    add("--motion", help='what moves, such as "pan left, zoom in" (default: zoom in, or what the adapters know)')
    add("--dynamics", type=int, default=12, help="amount of motion, 0 to 19 (default: %(default)s)")
    add("--frames", type=int, help=f"number of frames (default: {FRAMES}; of models that draw from words, their own)")
    add("--fps", type=float, help="frames per second (default: the model's, 8)")
    add("--steps", type=int, help="sampling steps (default: the model's)")
    add("--guidance", type=float, help="guidance scale, 1 = off (default: the model's)")
    add("--longer", default=SAME_MOVE, choices=LONGER,
        help="what more frames than the model was trained on, 16, do (default: %(default)s)")
    add("--edges", default=CROP, choices=EDGES,
        help="crop: show the part of the photo that no frame leaves; mirror: show all of it and mirror what lies "
        "beyond (default: %(default)s)")
    add("--region", metavar="MASK", help="picture of the photo's size, white where something may move")
    add("--seed", type=int, default=0, help="another seed gives another video (default: %(default)s)")
    add("--model", help="name of a built-in model, or a .safetensors file trained with this pack")
    add("--lora", metavar="FILE",
        help="a LoRA for this model, made by `train` or `train-motion-lora`, or named as kohya's scripts, PEFT or "
        "diffusers do")
    add("--lora-strength", type=float, default=1.0, help="how much of it, 0 = none (default: %(default)s)")
    add("--adapter", metavar="FILE[:WEIGHT]", action="append", default=[],
        help="a motion adapter made by `train` with adapter: miva, or jelly or pan_left, which come with the pack; "
        "several, each with a weight, act together")
    add("--device", help="cpu, cuda, … (default: cuda where torch sees it, else cpu)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="type the model computes in")
    add("--kernels", default="auto", help="auto, torch or triton: backend of the fast operators (default: %(default)s)")
    add("--prompt", help='draw from words, such as "red ball, on sand, moves left", or with a picture go on from it')
    add("--size", metavar="WxH", help="with --prompt: width and height in px (default: 64x64, or the picture's shape)")
    add("--poses", metavar="FILE", help="pose file that the picture of a drawn puppet follows (motionblocks-wan-pose)")
    add("--pose-reference", metavar="FILE", help="with --poses: pose file of the picture, to fit them to its body")
    add("--overwrite", action="store_true", help="replace an existing output file")
    add("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=_animate)


def _animate(options) -> None:
    from ..io.media.photo import read_mask
    from ..io.media.video import check_fps, check_output, read_photo

    if options.poses is not None:
        draw_pose_video(options)
        return
    if options.pose_reference is not None:
        raise ConfigError("--pose-reference fits the poses of --poses to a picture; give both, or leave it out")
    if options.prompt is not None:
        draw_scene(options)
        return
    if options.photo is None:
        raise ConfigError("a photo is needed, or --prompt for a model that draws from words; see `animate --help`")
    output = options.output or f"{Path(options.photo).stem}.mp4"
    check_output(output, overwrite=options.overwrite)
    if options.fps is not None:
        check_fps(options.fps)
    photo = read_photo(options.photo)
    region = None if options.region is None else read_mask(options.region, *photo.shape[-2:])
    model = _load(options)
    fps = options.fps or model.spec.sampling.fps
    if options.motion is None:
        options.motion = "" if options.adapter else "zoom in"
    with lora_on(options, model.dit), _adapters(model, options):
        frames = _sample(photo, region, model, options)
    for note in (*_guidance_notes(options, model), *frames.notes):
        say(f"note: {note}")
    written = _write(output, frames, fps, options)
    sides = tuple(photo.shape[-2:])
    if sides != (written.height, written.width):
        say(f"note: {sides[1]}x{sides[0]} px was padded to even sides, {written.width}x{written.height}")
    content = f"{written.num_frames} frames, {written.width}x{written.height}, {fps:g} fps"
    say(f"video: {os.path.abspath(written.path)} ({content})")


def _guidance_notes(options, model) -> list[str]:
    """A warning where guidance was asked for that the model was not made for."""
    own = model.spec.sampling.guidance_scale
    if own != 1 or options.guidance in (None, 1):
        return []
    return [f"guidance {options.guidance:g} is used as asked, but this model was made without it: colours may burn"]


def _load(options):
    import torch

    from ..builtin_model import bundle
    from ..devices import pick_device
    from ..io.networks.builtin_names import weights_path
    from ..io.networks.linear_video import read_linear_video

    place = {"device": pick_device(options.device), "dtype": getattr(torch, options.dtype)}
    return bundle(read_linear_video(weights_path(options.model)), **place, kernels=options.kernels)


def _adapters(model, options):
    """The motion adapters asked for, on the model while the block lasts."""
    if not options.adapter:
        return nullcontext()
    return adapter_stack(adapter_files(options), model.dit, model.spec).during(model.dit)


def _sample(photo, region, model, options):
    from tqdm import tqdm

    from ..pipeline import animate_frames

    total = _steps(options.steps, model.spec.sampling.num_steps)
    if not model.vocabulary.motions(options.motion) and not options.adapter:
        say('note: no motion was named, so hardly anything will move; name one, such as --motion "zoom in"')
    with tqdm(desc="sampling", unit="step", total=total, disable=options.quiet) as bar:

        def on_step(step: int, num_steps: int, clean) -> None:
            bar.update()

        return animate_frames(
            photo, motion=options.motion, dynamics=options.dynamics,
            num_frames=FRAMES if options.frames is None else options.frames,
            num_steps=options.steps, guidance_scale=options.guidance, seed=options.seed, model=model, on_step=on_step,
            longer=options.longer, edges=options.edges, region=region,
        )  # fmt: skip


def _steps(asked: int | None, own: int) -> int:
    """Sampling steps: those asked for, or the model's own. Raises ConfigError for none at all."""
    if asked is not None and asked < 1:
        raise ConfigError(f"--steps is {asked}; at least 1 is needed; leave it out for this model's own {own}")
    return asked or own


def _write(output, frames, fps: float, options):
    """Write the frames as they are made, with a bar where that takes more than a moment."""
    from tqdm import tqdm

    from ..io.media.video import write_video

    with tqdm(desc="writing", unit="frame", total=len(frames), disable=options.quiet, delay=1) as bar:
        return write_video(
            output, frames.as_bytes(), fps, overwrite=options.overwrite, on_frame=lambda count: bar.update()
        )
