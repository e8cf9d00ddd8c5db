"""`motionblocks inflate`, `convert`, `info` and `motions`: weight files made, converted and described."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import ConfigError
from ..io.networks.builtin_names import BUILTIN_NAMES
from .console import PROGRAM, say


def add_describing(commands) -> None:
    """The verbs that only read: info, motions."""
    names = ", ".join(BUILTIN_NAMES)
    info = commands.add_parser("info", help="say what a weight file is", description="Say what a weight file is.")
    info.add_argument("file", nargs="?", help=f".safetensors file, diffusers folder, or one of {names}")
    info.set_defaults(run=_info)
    motions = commands.add_parser("motions", help="list the motions a model knows")
    motions.add_argument("--model", help=f".safetensors file, or one of {names}")
    motions.set_defaults(run=_motions)


def add_inflate(commands) -> None:
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


def add_convert(commands) -> None:
    command = commands.add_parser(
        "convert", help="make .safetensors of a .pth or .pt file, or one ComfyUI file of Wan weights",
        description="Write the weights of a SANA, SANA-Video or MiraMo checkpoint as .safetensors, under our names and "
        "with their sizes in the metadata; or a MIVA adapter of its published code, for Wan or AnimateDiff; or Wan "
        "weights of any layout as one file in ComfyUI's names; or a folder with OpenPose's three .pth files as one. "
        "Nothing in the source is run.",
    )  # fmt: skip
    add = command.add_argument
    add("source", help=".pth, .pt or .ckpt file; of Wan: file, index or folder; of OpenPose: folder (docs/models.md)")
    add("-o", "--output", required=True, help=".safetensors file to write, such as models/diffusion_models/NAME")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="type of the weights (default: as they are)")
    add("--expert", choices=("high_noise", "low_noise"),
        help="which half of a Wan 2.2 A14B model it is, where the name does not say")
    add("--overwrite", action="store_true", help="replace an existing output file")
    command.set_defaults(run=_convert)


def _convert(options) -> None:
    import torch

    from ..io.checkpoints.conversion import convert_checkpoint
    from ..io.checkpoints.openpose_conversion import is_openpose_folder
    from ..io.files.kind import shown

    _check_weights_output(options)
    dtype = options.dtype and getattr(torch, options.dtype)
    if is_openpose_folder(options.source):
        _convert_openpose(options)
        return
    if os.path.isdir(options.source) or Path(options.source).suffix.lower() in (".safetensors", ".json"):
        _convert_wan(options, dtype)
        return
    if options.expert:
        raise ConfigError(f"--expert is for Wan weights; {options.source} is a checkpoint: leave it out")
    done = convert_checkpoint(options.source, options.output, dtype=dtype)
    if done.half:
        say(f"note: its weights {done.half!r} were taken")
    for name in done.left_out[:5]:
        say(f"note: {shown(name)} is not used and was left out")
    if len(done.left_out) > 5:
        say(f"note: {len(done.left_out) - 5} more were left out")
    for note in done.notes:
        say(f"note: {note}")
    what = "adapter" if done.is_adapter else "model"
    say(f"{what}: {os.path.abspath(done.path)} ({done.num_parameters} parameters, {done.title})")


def _convert_openpose(options) -> None:
    from ..io.checkpoints.openpose_conversion import convert_openpose
    from ..io.networks.openpose import LICENCE

    for name in ("dtype", "expert"):
        if getattr(options, name):
            raise ConfigError(f"--{name} is not for OpenPose's networks, which {options.source} holds: leave it out")
    path, count = convert_openpose(options.source, options.output)
    say(f"note: {LICENCE}")
    say(f"model: {os.path.abspath(path)} ({count} parameters, OpenPose: body, hand, face)")


def _convert_wan(options, dtype) -> None:
    from ..io.networks.wan import convert_wan

    done = convert_wan(options.source, options.output, dtype=dtype, expert=options.expert or "")
    expert = f", {done.expert.replace('_', '-')} expert" if done.expert else ""
    say(f"model: {os.path.abspath(done.path)} ({done.num_parameters} parameters, {done.title}{expert})")


def _check_weights_output(options) -> None:
    """Refuse names that are no .safetensors file, or taken. Raises ConfigError."""
    if Path(options.output).suffix.lower() != ".safetensors":
        raise ConfigError(f"output is {options.output!r}; the name of a .safetensors file is needed")
    if os.path.lexists(options.output) and not options.overwrite:
        raise ConfigError(f"{options.output} exists; give another name, or --overwrite to replace it")


def _info(options) -> None:
    from ..io.files.kind import shown
    from ..io.networks.builtin_names import weights_path
    from ..io.networks.linear_video import describe_linear_video
    from ..io.text_encoders.prompts_file import is_prompts, open_prompts

    path = weights_path(options.file)
    if os.path.isdir(path) or str(path).endswith(".json"):
        say(f"{'folder' if os.path.isdir(path) else 'file'}: {path}\n{_public_weights(path)}")
        return
    family, spec, metadata = describe_linear_video(path)
    if is_prompts(metadata):
        say(f"file: {path}\n{open_prompts(path).describe()}")
        return
    say(f"file: {path}\nfamily: {family or 'not known here'}")
    if family.startswith(("a SANA image model", "a SANA-Video model", "a Wan 2.1 or 2.2")):
        say(_public_weights(path))
    for name, value in ({} if spec is None else asdict(spec)).items():
        say(f"{name}: {_plain(value)}")
    for name, value in sorted(metadata.items()):
        if name not in ("spec", "family"):
            say(f"{shown(name)[1:-1]}: {shown(value, 2000)[1:-1]}")


def _public_weights(path) -> str:
    """What SANA, SANA-Video or Wan weights are, by their headers."""
    from ..io.networks.video_model import open_video_model

    return open_video_model(path).describe()


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
    from ..io.networks.linear_video import describe_linear_video
    from ..text.vocabulary import MotionVocabulary

    words = file_motions(describe_linear_video(weights_path(options.model))[2])
    say("\n".join(MotionVocabulary(words).listed))
