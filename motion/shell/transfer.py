"""`motionblocks prepare-motion-clip`, `classify-heads`, `train-motion-lora`: how one clip moves, for other subjects."""

import os
from dataclasses import replace
from pathlib import Path

from ..choices import EXPERTS, HEAD_METHODS, HEAD_RULES, MOTION_LOSSES, PLACES, SECOND_HEADS, STAGES, STRIDE
from ..errors import ConfigError
from ..io.networks.builtin_names import SCENE_NAMES
from .console import PROGRAM, say
from .train import NOTHING_TRAINED, Terminal, report_training, soft_stop

PRESETS = ("tiny", "quick", "paper")
UNUSED = "unused.safetensors"  # output of a job that writes none
JSON = ".json"


def add_prepare_motion_clip(commands) -> None:
    command = commands.add_parser(
        "prepare-motion-clip", help="show which frames of a clip its motion is learned from",
        description="Choose a window at 16 frames a second and of it the few that are trained; every index is shown.",
    )  # fmt: skip
    _add_clip(command)
    command.add_argument("--model", default=SCENE_NAMES[0], help="that is to be trained (default: %(default)s)")
    command.add_argument("-o", "--output", help="write the frames that are trained as a video (.mp4, .webp, .gif, or a "
                         "folder of PNG)")  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    command.set_defaults(run=_prepare)


def add_classify_heads(commands) -> None:
    command = commands.add_parser(
        "classify-heads", help="tell which attention heads of a Wan look along time",
        description="Look at how the attention heads of a Wan spread over a clip and write what was seen as JSON, and "
        "as a picture beside it. With a .json file of this command in place of CLIP, judge it by another rule.",
    )  # fmt: skip
    _add_clip(command)
    _add_model(command)
    add = command.add_argument
    add("-o", "--output", help="JSON file; the picture has its name with .png (default: CLIP's name with _heads.json)")
    add("--rule", choices=HEAD_RULES, default=HEAD_RULES[0], help="by whom heads without structure are judged "
        "(default: %(default)s)")  # fmt: skip
    add("--alpha", type=float, default=1.3, help="how clear the lead must be (default: %(default)s)")
    add("--target-fraction", type=float, default=0.0, help="share of heads that shall be temporal; 0 = by the rule")
    add("--sigmas", default="", help="noise levels to look at, with commas (default: where the model's noise begins)")
    add("--seeds", type=int, default=1, help="noises to look at, at each level (default: %(default)s)")
    add("--method", choices=HEAD_METHODS, default=HEAD_METHODS[0], help="what is measured (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace existing output files")
    command.set_defaults(run=_classify)


def add_train_motion_lora(commands) -> None:
    command = commands.add_parser(
        "train-motion-lora", help="learn how one clip moves, leave its looks behind",
        description="One clip in, a LoRA of its motion out (Follow-Your-Motion); draw another subject with it by "
        "`animate --prompt … --lora FILE`. A job file with `motion:` does the same (`train --config`).",
        epilog="Ctrl-C saves the state and stops; --resume goes on from there.",
    )  # fmt: skip
    _add_clip(command)
    _add_model(command)
    add = command.add_argument
    add("-o", "--output", help=".safetensors file (default: CLIP's name with _motion.safetensors)")
    add("--preset", choices=PRESETS, help="numbers that go together (default: tiny for small models, else quick)")
    add("--stage", choices=STAGES, default=STAGES[0], help="what is trained (default: %(default)s)")
    add("--heads", choices=SECOND_HEADS, help="that the second stage trains (default: the preset's)")
    add("--head-map", metavar="JSON", help="file of classify-heads; without it the heads are looked at first")
    add("--spatial-steps", type=int, default=0, help="of the first stage (default: the preset's)")
    add("--temporal-steps", type=int, default=0, help="of the second stage (default: the preset's)")
    add("--learning-rate", type=float, help="at its highest (default: the preset's)")
    add("--rank", type=int, help="size of the LoRAs (default: the preset's)")
    add("--batch-size", type=int, help="samples a step (default: the preset's)")
    add("--seed", type=int, default=0, help="another seed is another training (default: %(default)s)")
    add("--save-every", type=int, default=100, help="steps between saved states (default: %(default)s)")
    add("--motion-loss", choices=MOTION_LOSSES, help="how changes from frame to frame are compared")
    add("--frame-places", choices=PLACES, default=STRIDE,
        help="where sparse frames stand in time (default: %(default)s)")
    add("--checkpointing", action="store_true", help="compute every block twice: less memory")
    add("--resume", action="store_true", help="go on from the newest whole state of this output")
    add("--allow-changes", action="store_true", help="resume although the clip, the map or settings differ")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("--quiet", action="store_true", help="no progress lines")
    command.set_defaults(run=_train)


def _add_clip(command) -> None:
    add = command.add_argument
    add("clip", metavar="CLIP", help="video file, or a folder whose first counts; its caption is in a .txt beside it")
    add("--caption", help="what is seen and what it does (default: the clip's own)")
    add("--start", type=float, default=0.0, help="seconds into the clip (default: %(default)s)")
    add("--num-frames", type=int, default=0, help="of the window, 4k + 1 (default: 81, of the small Wan 17); any "
        "number for models that animate photos (default: 16, at 8 a second)")  # fmt: skip
    add("--sparse-frames", type=int, help="of them trained, 4k + 1; 0 = all (default: 17, of small models all)")
    add("--resolution", type=int, default=0, help="short side in px (default: 512, of the small Wan 64)")


def _add_model(command) -> None:
    add = command.add_argument
    add("--model", default=SCENE_NAMES[0],
        help="a built-in model, or a Wan file or folder (default: %(default)s)")
    add("--vae", help="file or folder of the Wan 2.1 VAE; the small Wan brings its own")
    add("--prompts", metavar="FILE", help="the caption, encoded by ComfyUI (node Save Prompts); not for the small Wan")
    add("--expert", choices=[name.replace(" ", "_") for name in EXPERTS[1:]],
        help="which of the two networks of Wan 2.2 A14B the file is, where its name does not say it")
    add("--dtype", choices=("float32", "bfloat16"), help="type the model computes in (default: the file's)")
    add("--device", help="cpu, cuda, … (default: cuda where torch sees it, else cpu)")


def _job(options, output: str, training: dict | None = None, **motion):
    """A job of these options; options that a command does not have are left out."""
    from ..training.job_file import TrainingJob

    plain = ("model", "vae", "prompts", "expert", "dtype", "device", "overwrite", "allow_changes", "caption")
    given = {name: getattr(options, name) for name in plain if getattr(options, name, None) is not None}
    clip = {name: getattr(options, name) for name in ("start", "num_frames", "sparse_frames", "resolution")}
    clip = {name: value for name, value in clip.items() if value is not None}
    return TrainingJob.from_dict({
        "clips": options.clip, "output": output, **given, "training": training or {}, "motion": {**clip, **motion},
    })  # fmt: skip


def _prepare(options) -> None:
    from ..io.media.video import check_output, write_video
    from ..training.job_motion import numbers_of, open_job_clip, plan_of

    if options.output is not None:
        check_output(options.output, overwrite=options.overwrite)
    job = _job(options, UNUSED)
    clip = open_job_clip(job)
    plan = plan_of(clip, job.motion, numbers_of(job.model))
    say(f"{clip.name}: {clip.width}x{clip.height} px, {clip.num_frames} frames at {clip.fps:.4g} fps")
    say(f"caption: {clip.caption or '(none): name what is seen, so that it stays apart'}")
    say(plan.text())
    if options.output is not None:
        frames = clip.frames(list(plan.sparse)).movedim(1, -1)
        fps = plan.fps * (len(plan.sparse) - 1) / (len(plan.window) - 1)
        written = write_video(options.output, frames, fps, overwrite=options.overwrite)
        say(f"video: {os.path.abspath(written.path)} ({written.num_frames} frames, {fps:.4g} fps)")


def _classify(options) -> None:
    from ..analysis.head_map import draw_head_map
    from ..io.files.atomic import write_chunks
    from ..io.media.video import write_picture
    from ..training.job_motion import look_at_clip, read_head_map

    output = _output(options, f"{Path(options.clip).stem}_heads{JSON}", JSON)
    picture = output.with_suffix(".png")
    for path in (output, picture):
        if path.exists() and not options.overwrite:
            raise ConfigError(f"{path} exists; choose another output, or say --overwrite")
    settings = {"rule": options.rule, "alpha": options.alpha, "target_fraction": options.target_fraction}
    if Path(options.clip).suffix.lower() == JSON:
        found = read_head_map(options.clip).changed(**settings)
    else:
        if options.seeds < 1:
            raise ConfigError(f"--seeds is {options.seeds}; at least 1 is needed")
        looks = {"sigmas": _levels(options.sigmas), "seeds": options.seeds, "method": options.method}
        found = look_at_clip(_job(options, UNUSED), **looks, **settings)
    write_chunks(output, [found.to_json().encode(), b"\n"])
    write_picture(picture, draw_head_map(found)[0], overwrite=True)
    say(found.summary())
    say(f"head map: {os.path.abspath(output)}\npicture: {os.path.abspath(picture)}")


def _train(options) -> None:
    from ..io.files.safetensors import read_header
    from ..training.job import run_job

    output = _output(options, f"{Path(options.clip).stem}_motion.safetensors", ".safetensors")
    training = {"seed": options.seed, "save_every": options.save_every, "gradient_checkpointing": options.checkpointing}
    training |= {name: getattr(options, name) for name in ("learning_rate", "rank", "batch_size")
                 if getattr(options, name) is not None}  # fmt: skip
    names = ("preset", "stage", "heads", "head_map", "spatial_steps", "temporal_steps", "motion_loss", "frame_places")
    motion = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    job = _job(options, str(output), training, **motion)
    job = replace(job, resume="latest") if options.resume else job
    with soft_stop() as check:
        watcher = Terminal(str(job.states), check, silent=options.quiet)
        done = run_job(job, watcher, check=lambda: check(NOTHING_TRAINED))
    report_training(done, "LoRA of the looks" if options.stage == STAGES[1] else "motion LoRA")
    told = read_header(output).metadata
    given = "--prompt …"
    if "dynamics" in told:
        given = f'PHOTO --motion "{told["caption"]}" --dynamics {told["dynamics"]}'
    strength = told["suggested_strength"]
    say(f"use it with another subject: {PROGRAM} animate {given} --lora {output} --lora-strength {strength}")


def _output(options, default: str, suffix: str) -> Path:
    path = Path(options.output or default)
    if path.suffix.lower() != suffix:
        raise ConfigError(f"output {path} must end with {suffix}")
    return path


def _levels(text: str) -> list[float]:
    """Noise levels of "0.9998, 0.7". Raises ConfigError."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"--sigmas is {text[:60]!r}; numbers with commas are needed, such as 0.9998,0.7") from error
