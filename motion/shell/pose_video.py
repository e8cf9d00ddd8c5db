"""`motionblocks animate PICTURE --poses FILE`: who is seen in a picture follows poses."""

import os
from dataclasses import replace
from pathlib import Path

from ..errors import ConfigError
from ..io.networks.builtin_names import POSE_NAME
from .adapters import lora_on
from .console import say
from .scenes import parse_size, refuse_what_is_for_photos

SHORT = 96  # px of the short side where nobody gives a size: what the model was trained on
FPS = 16.0  # of pose files, which do not say it
PUPPETS_ONLY = "the small Wan that follows poses knows drawn puppets of the pack's own kind; other pictures dissolve"


def draw_pose_video(options) -> None:
    """Draw the picture `options.photo` in the poses of `options.poses`, and write the video.

    Raises ConfigError, ShapeError and CheckpointError.
    """
    import torch
    from tqdm import tqdm

    from ..devices import pick_device
    from ..io.media.video import check_fps, check_output, read_photo, write_video
    from ..io.networks.builtin_names import weights_path
    from ..io.pose_files import read_pose_file
    from ..pose.renderer import draw_people
    from ..scene_model import fit_picture, load_scene_model

    refuse_what_is_for_photos(options, "--poses")
    if options.photo is None:
        raise ConfigError("--poses moves a picture, and none is given: name one, such as assets/puppet.png")
    if options.adapter:
        raise ConfigError("--adapter: motion adapters would take the poses for frames of the video; leave it out")
    output = options.output or f"{Path(options.photo).stem}.mp4"
    check_output(output, overwrite=options.overwrite)
    photo = read_photo(options.photo)
    size = None if options.size is None else parse_size(options.size)
    picture = fit_picture(photo, size, short=SHORT)
    model = load_scene_model(weights_path(options.model or POSE_NAME), device=pick_device(options.device))
    poses = read_pose_file(options.poses)
    trained = model.spec.sampling.num_frames
    count = min(len(poses.points), trained) if options.frames is None else options.frames
    if count > len(poses.points):
        raise ConfigError(f"--frames is {count}, {options.poses} has {len(poses.points)}; leave it out for all of them")
    if count < len(poses.points) and options.frames is None:
        say(f"note: the first {count} of {len(poses.points)} poses are used, as many as the model was trained on; "
            "--frames takes more, up to 33")  # fmt: skip
    fitted = _fitted(replace(poses, points=poses.points[:count]), photo, picture, options)
    height, width = picture.shape[2:]
    frames = torch.from_numpy(fitted.points).float()
    skeletons = torch.stack([draw_people(list(people), height, width, parts=("body",)) for people in frames], dim=1)
    fps = check_fps(options.fps or FPS)
    total = model.spec.sampling.num_steps if options.steps is None else options.steps
    with tqdm(desc="sampling", unit="step", total=total, disable=options.quiet) as bar, lora_on(options, model.dit):
        video = model.draw_poses(
            picture, skeletons.unsqueeze(0), prompt=options.prompt or "", num_steps=options.steps, seed=options.seed,
            on_step=lambda *_: bar.update(),
        )  # fmt: skip
    say(f"note: {PUPPETS_ONLY}")
    written = write_video(output, video[0].cpu(), fps, overwrite=options.overwrite)
    content = f"{written.num_frames} frames, {written.width}x{written.height}, {fps:g} fps"
    say(f"video: {os.path.abspath(written.path)} ({content})")


def _fitted(poses, photo, picture, options):
    """Poses in px of the fitted picture (1, 3, h, w), and, with the pose of the photo (3, h, w), on its body."""
    from ..io.pose_files import read_pose_file
    from ..pose.retarget import describe_fit, retarget
    from ..scene_model import fitted_part

    size = (photo.shape[2], photo.shape[1])
    if options.pose_reference is None:
        say("note: the poses keep their own body; --pose-reference, a pose file of the picture, fits them to its body")
        reference, mode = replace(poses, points=poses.points[:1, :0], width=size[0], height=size[1]), "none"
    else:
        reference, mode = read_pose_file(options.pose_reference), "limb"
        reference = replace(reference, points=reference.points[:1])
        if (reference.width, reference.height) != size:
            raise ConfigError(
                f"{options.pose_reference} is of a picture of {reference.width}x{reference.height} px, {options.photo} "
                f"has {size[0]}x{size[1]}; give the pose of this very picture"
            )
    done = retarget(poses, reference, mode=mode)
    if mode != "none":
        say(describe_fit(done))
    part = fitted_part(photo.shape[1:], picture.shape[2:])
    return done.poses.in_part(part, (picture.shape[3], picture.shape[2]))
