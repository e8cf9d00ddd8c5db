"""The shell: `motionblocks animate PHOTO --motion "zoom in"`, `train`, `convert`, `inflate`, `info`, `motions`."""

import argparse
import os
import signal
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from ..choices import CROP, EDGES, LONGER, SAME_MOVE
from ..errors import CheckpointError, ConfigError, ShapeError
from ..io.networks.builtin_names import BUILTIN_NAMES
from .console import for_console, say, take_any_letter

PROGRAM = "motionblocks"
FAILED, CANCELLED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 refused with one line on stderr, 130 cancelled by Ctrl-C."""
    take_any_letter()
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except (ShapeError, CheckpointError, ConfigError) as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(f"the Python package {error.name!r} is missing; run `make demo` once in the pack's folder")
    except MemoryError:
        return _fail("out of memory; use a smaller photo or fewer frames")
    except KeyboardInterrupt as stop:
        _fail(f"cancelled; {stop.args[0] if stop.args else 'no video was written'}")
        return CANCELLED
    return 0


def _fail(text: str) -> int:
    say(f"{PROGRAM}: {' '.join(text.split())}", sys.stderr)
    return FAILED


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Make a photograph move, on a CPU or a GPU, with no download.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    names = ", ".join(BUILTIN_NAMES)
    _add_animate(commands)
    _add_train(commands)
    info = commands.add_parser("info", help="say what a weight file is", description="Say what a weight file is.")
    info.add_argument("file", nargs="?", help=f".safetensors file, diffusers folder, or one of {names}")
    info.set_defaults(run=_info)
    _add_inflate(commands)
    _add_convert(commands)
    motions = commands.add_parser("motions", help="list the motions a model knows")
    motions.add_argument("--model", help=f".safetensors file, or one of {names}")
    motions.set_defaults(run=_motions)
    return parser


def _add_animate(commands) -> None:
    command = commands.add_parser(
        "animate", help="make a video of a photo", description="Make a video of a photo that moves as you say.",
        epilog="An existing output is never overwritten (clip.mp4, clip_2.mp4, …) unless you say --overwrite.",
    )  # fmt: skip
    add = command.add_argument
    add("photo", help="PNG, JPEG, WebP, GIF, BMP, TIFF or PPM, sides up to 4096 px")
    add("-o", "--output", help=".mp4, .webp or .gif file, or a folder name for PNG frames (default: PHOTO's name.mp4)")
    add("--motion", default="zoom in", help='what moves, such as "pan left, zoom in" (default: %(default)s)')
    add("--dynamics", type=int, default=12, help="amount of motion, 0 to 19 (default: %(default)s)")
    add("--frames", type=int, default=16, help="number of frames (default: %(default)s)")
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
    add("--lora", metavar="FILE", help="a LoRA that `train` made for this model")
    add("--lora-strength", type=float, default=1.0, help="how much of it, 0 = none (default: %(default)s)")
    add("--device", help="cpu, cuda, … (default: cuda where torch sees it, else cpu)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="type the model computes in")
    add("--kernels", default="auto", help="auto, torch or triton: form of the fast operators (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an existing output file")
    add("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=_animate)


def _animate(options) -> None:
    from ..io.media.photo import read_mask
    from ..io.media.video import check_fps, check_output, read_photo

    output = options.output or f"{Path(options.photo).stem}.mp4"
    check_output(output, overwrite=options.overwrite)
    if options.fps is not None:
        check_fps(options.fps)
    photo = read_photo(options.photo)
    region = None if options.region is None else read_mask(options.region, *photo.shape[-2:])
    model = _load(options)
    fps = options.fps or model.spec.sampling.fps
    with _lora(model, options):
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


def _add_inflate(commands) -> None:
    command = commands.add_parser(
        "inflate", help="make a video model of SANA image weights",
        description="Add temporal attention to SANA weights; each frame is what the image model makes until you train.",
    )  # fmt: skip
    add = command.add_argument
    add("source", help=".safetensors file, or diffusers folder, of SANA 0.6B, 1.6B or 1.5 (docs/models.md)")
    add("-o", "--output", required=True, help=".safetensors file to write")
    add("--init", choices=("zero", "copy"), default="zero",
        help="zero: frames equal the image model's; copy: as the published code starts (default: %(default)s)")
    add("--objective", choices=("t2v", "i2v_residual"), default="t2v", help="what it will learn (default: %(default)s)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="type of the weights (default: as they are)")
    add("--overwrite", action="store_true", help="replace an existing output file")
    command.set_defaults(run=_inflate)


def _inflate(options) -> None:
    import torch

    from ..io.networks.sana import inflate_sana

    _check_weights_output(options)
    dtype = options.dtype and getattr(torch, options.dtype)
    done = inflate_sana(options.source, options.output, init=options.init, objective=options.objective, dtype=dtype)
    for name in done.dropped:
        say(f"note: {name!r} is not used and was left out")
    say("note: its temporal branch is untrained; train it before you expect frames that belong together")
    say(f"model: {os.path.abspath(done.path)} ({done.num_parameters} parameters, {done.spec.objective})")


def _add_convert(commands) -> None:
    command = commands.add_parser(
        "convert", help="make .safetensors of a .pth or .pt file",
        description="Write the weights of a SANA, SANA-Video or MiraMo checkpoint as .safetensors, under our names and "
        "with their sizes in the metadata. Nothing in the checkpoint is run.",
    )  # fmt: skip
    add = command.add_argument
    add("source", help=".pth or .pt file (docs/models.md)")
    add("-o", "--output", required=True, help=".safetensors file to write, such as models/diffusion_models/NAME")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="type of the weights (default: as they are)")
    add("--overwrite", action="store_true", help="replace an existing output file")
    command.set_defaults(run=_convert)


def _convert(options) -> None:
    import torch

    from ..io.checkpoints.conversion import convert_checkpoint
    from ..io.files.kind import shown

    _check_weights_output(options)
    dtype = options.dtype and getattr(torch, options.dtype)
    done = convert_checkpoint(options.source, options.output, dtype=dtype)
    if done.half:
        say(f"note: its weights {done.half!r} were taken")
    for name in done.left_out[:5]:
        say(f"note: {shown(name)} is not used and was left out")
    if len(done.left_out) > 5:
        say(f"note: {len(done.left_out) - 5} more were left out")
    say(f"model: {os.path.abspath(done.path)} ({done.num_parameters} parameters, {done.title})")


def _check_weights_output(options) -> None:
    """Refuse names that are no .safetensors file, or taken. Raises ConfigError."""
    if Path(options.output).suffix.lower() != ".safetensors":
        raise ConfigError(f"output is {options.output!r}; the name of a .safetensors file is needed")
    if os.path.lexists(options.output) and not options.overwrite:
        raise ConfigError(f"{options.output} exists; give another name, or --overwrite to replace it")


def _add_train(commands) -> None:
    command = commands.add_parser(
        "train", help="train a LoRA or a model on your clips", description="Train as a job file says (YAML or JSON).",
        epilog="Ctrl-C saves the state and stops; --resume goes on from there.",
    )  # fmt: skip
    command.add_argument("--config", required=True, metavar="JOB", help="job file, such as docs/training/pan_left.yaml")
    command.add_argument("--resume", action="store_true", help="go on from the newest whole state of this job")
    command.add_argument("--quiet", action="store_true", help="no progress lines")
    command.set_defaults(run=_train)


def _train(options) -> None:
    from tqdm import tqdm

    from ..training.distributed import open_world
    from ..training.job import read_job, run_job

    job = read_job(options.config)
    job = replace(job, resume="latest") if options.resume else job
    world = open_world()
    silent = options.quiet or world.rank > 0
    bars: dict[str, tqdm] = {}

    def on_text(text: str) -> None:
        if not silent:
            tqdm.write(for_console(text))

    def show(desc: str, unit: str, done: int, total: int, figures: dict | None = None) -> None:
        if desc not in bars:
            bars[desc] = tqdm(desc=desc, unit=unit, total=total, initial=done - 1, disable=silent)
        bars[desc].set_postfix(figures, refresh=False)
        bars[desc].update(1)
        if done == total:
            bars[desc].close()

    with _soft_stop() as check:

        def on_encode(done: int, total: int) -> None:
            show("encoding", "clip", done, total)
            check("nothing was trained; the clips encoded so far are kept")

        def on_step(report) -> None:
            figures = {"loss": f"{report.loss:.4g}", "lr": f"{report.learning_rate:.2g}"}
            show("training", "step", report.step, report.num_steps, figures)
            check(f"the state of step {report.step} is in {job.states}; --resume goes on from there")

        done = run_job(
            job, on_step=on_step, on_encode=on_encode, on_text=on_text,
            check=lambda: check("nothing was trained; the clips encoded so far are kept"), world=world,
        )  # fmt: skip
    if done.path is not None:
        result = done.training
        if result.problem:
            say(f"note: the last state was not saved: {result.problem}", sys.stderr)
        what = "LoRA" if job.training.mode == "lora" else "model"
        say(f"{what}: {os.path.abspath(done.path)} ({result.step} steps, last loss {result.losses[-1]:.4g})")


@contextmanager
def _soft_stop():
    """Yield check(text): raises KeyboardInterrupt(text) once Ctrl-C was pressed or the process was asked to end.

    So a step is finished and its state saved. A second Ctrl-C stops at once.
    """
    asked: list[int] = []

    def handler(number, frame):
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt("what was saved before is still there")
        asked.append(number)

    def check(text: str) -> None:
        if asked:
            raise KeyboardInterrupt(text)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


def _load(options):
    import torch

    from ..builtin_model import bundle
    from ..devices import pick_device
    from ..io.networks.builtin_names import weights_path
    from ..io.networks.motion_model import read_motion_model

    place = {"device": pick_device(options.device), "dtype": getattr(torch, options.dtype)}
    return bundle(read_motion_model(weights_path(options.model)), **place, kernels=options.kernels)


def _lora(model, options):
    """The LoRA asked for, on the model while the block lasts."""
    if options.lora is None:
        return nullcontext()
    from ..io.adapters.lora import load_lora

    return load_lora(options.lora, model.dit).attached(options.lora_strength)


def _sample(photo, region, model, options):
    from tqdm import tqdm

    from ..pipeline import animate_frames

    total = _steps(options.steps, model.spec.sampling.num_steps)
    if not model.vocabulary.motions(options.motion):
        say('note: no motion was named, so hardly anything will move; name one, such as --motion "zoom in"')
    with tqdm(desc="sampling", unit="step", total=total, disable=options.quiet) as bar:

        def on_step(step: int, num_steps: int, clean) -> None:
            bar.update()

        return animate_frames(
            photo, motion=options.motion, dynamics=options.dynamics, num_frames=options.frames,
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


def _info(options) -> None:
    from ..io.files.kind import shown
    from ..io.networks.builtin_names import weights_path
    from ..io.networks.motion_model import describe_motion_model

    path = weights_path(options.file)
    if os.path.isdir(path):
        say(f"folder: {path}\n{_public_weights(path)}")
        return
    family, spec, metadata = describe_motion_model(path)
    say(f"file: {path}\nfamily: {family or 'not known here'}")
    if family.startswith(("a SANA image model", "a SANA-Video model")):
        say(_public_weights(path))
    for name, value in ({} if spec is None else asdict(spec)).items():
        say(f"{name}: {_plain(value)}")
    for name, value in sorted(metadata.items()):
        if name not in ("spec", "family"):
            say(f"{shown(name)[1:-1]}: {shown(value, 2000)[1:-1]}")


def _public_weights(path) -> str:
    """What SANA or SANA-Video weights are, by their headers."""
    from ..io.networks.video_model import describe_headers, open_video_model

    return describe_headers(open_video_model(path))


def _plain(value) -> str:
    return ", ".join(f"{name} {entry}" for name, entry in value.items()) if isinstance(value, dict) else str(value)


def _motions(options) -> None:
    from ..text.vocabulary import MOTIONS

    if options.model is None:  # answers without torch
        say("\n".join(MOTIONS))
        first, *others = BUILTIN_NAMES
        for name in others:
            more = f"{name} knows more: {PROGRAM} motions --model {name}"
            say(f"note: these are the words of {first}; {more}", sys.stderr)
        return
    from ..io.networks.builtin_names import weights_path
    from ..io.networks.file_motions import file_motions
    from ..io.networks.motion_model import describe_motion_model
    from ..text.vocabulary import MotionVocabulary

    words = file_motions(describe_motion_model(weights_path(options.model))[2])
    say("\n".join(MotionVocabulary(words).listed))
