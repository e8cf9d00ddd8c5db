"""Nodes that bring clips to train on into a graph: from a folder, or drawn by the generator."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..motion.choices import CAMERA_MOVES
from ..motion.errors import ConfigError
from ..motion.limits import MAX_CLIP_FRAMES, MAX_DATA_SEED, MAX_FPS
from .host import checks, folders, pixels, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/training"
SHIPPED_CLIPS = Path(__file__).resolve().parents[1] / "assets" / "clips"
SHIPPED = "shipped: "
PREVIEW = 8  # pictures
MAX_CLIPS = 10_000
ANY, ANY_CAMERA = "any", "any camera"


def clip_folders() -> list[str]:
    """Sets that come with the pack, then the sub-folders of the host's input folder that hold videos."""
    from ..motion.data.sources.video_names import folders_with_videos

    shipped = [SHIPPED + name for name in folders_with_videos(SHIPPED_CLIPS)]
    return shipped + folders_with_videos(folders.input_folder())


def folder_path(name: str) -> Path:
    """Where a listed folder lies: below its root, or behind a link in the input folder. Raises ConfigError."""
    checks.choose("folder", name, clip_folders())
    return SHIPPED_CLIPS / name.removeprefix(SHIPPED) if name.startswith(SHIPPED) else folders.input_folder() / name


class LoadClips(io.ComfyNode):
    """A folder of videos as clips to train on."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksLoadClips",
            display_name="Load Clips",
            category=CATEGORY,
            description="Opens a folder of videos as clips for Train Motion Model: brought to one frame rate by their "
            "time stamps, with captions from .txt files or captions.jsonl. Unusable clips are skipped, and "
            "the summary says which and why.",
            search_aliases=["dataset", "training videos", "video folder", "captions"],
            inputs=[
                inp(
                    io.Combo.Input, "folder", options=clip_folders(),
                    tooltip="A set that comes with the pack, or a folder inside ComfyUI's input folder that holds "
                    "videos. After adding one, refresh the node definitions (press R).",
                ),
                inp(
                    io.Float.Input, "fps", default=24.0, min=0.0, max=MAX_FPS, step=0.5,
                    tooltip="Frame rate all clips are brought to. The trainer takes every stride-th of these frames: "
                    "24 with a stride of 3 gives the 8 frames a second that the built-in models know. 0 = clips keep "
                    "their own times, and the trainer brings them to the rate its model wants.",
                ),
                inp(
                    io.String.Input, "default_caption", default="", optional=True,
                    tooltip="Caption of clips that have none of their own; leave empty to let the model choose the "
                    "motion. Counted in the summary.",
                ),
                inp(
                    io.Boolean.Input, "require_captions", default=False, optional=True, advanced=True,
                    tooltip="Refuse a folder in which a clip has no caption of its own, instead of using the default.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder, fps=24.0, default_caption="", require_captions=False):
        """Changes with any clip or caption of the folder, so that it is read again."""
        try:
            path = folder_path(folder)
            files = [file for file in sorted(path.rglob("*")) if file.is_file()]
            stamps = [f"{file.relative_to(path)} {folders.stamp(file)}" for file in files]
        except (ValueError, OSError):
            stamps = []
        return "\n".join([f"{folder} {fps} {default_caption} {require_captions}", *stamps])

    @classmethod
    def execute(cls, folder, fps=24.0, default_caption="", require_captions=False) -> io.NodeOutput:
        from ..motion.data.sources.folder import open_clip_folder

        checks.in_range("fps", fps, 1.0 if fps else 0.0, MAX_FPS)
        caption = checks.whole_text("default_caption", default_caption)
        caption = None if require_captions else " ".join(caption.split())
        path = folder_path(folder)
        collection = open_clip_folder(
            path, fps=fps, default_caption=caption, on_step=progress.progress_step(), check=progress.throw_if_cancelled
        )
        return _shown(cls, collection)


class GenerateClips(io.ComfyNode):
    """Clips drawn by the procedural generator."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksGenerateClips",
            display_name="Generate Clips",
            category=CATEGORY,
            description="Draws clips of known motions for Train Motion Model: textures, objects, weather and camera "
            "moves, with captions and true flow, at 8 frames a second. Nothing to collect or to caption.",
            search_aliases=["procedural", "synthetic dataset", "training clips"],
            inputs=[
                inp(
                    io.String.Input, "motions", default=ANY_CAMERA, multiline=True,
                    tooltip="One caption a line, such as 'pan left' or 'pan up, zoom in', dealt out in turn. 'any' "
                    "draws every motion there is, 'any camera' only pan, zoom, rotate and still, which every built-in "
                    "model knows.",
                ),
                inp(io.Int.Input, "num_clips", default=32, min=1, max=MAX_CLIPS, tooltip="How many clips."),
                inp(
                    io.Int.Input, "num_frames", default=16, min=2, max=MAX_CLIP_FRAMES,
                    tooltip="Frames a clip. The built-in models know 16.",
                ),
                inp(
                    io.Int.Input, "size", default=64, min=32, max=512, step=16,
                    tooltip="Side in px, a multiple of 16; best the model's working size: 64 for motionblocks-tiny.",
                ),
                inp(
                    io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False,
                    tooltip="Other seeds draw other clips. Stays fixed, since new clips train all over again.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, motions, num_clips, num_frames=16, size=64, seed=0) -> io.NodeOutput:
        from ..motion.data.sources.generated import generate_collection

        for name, value, high in (("num_clips", num_clips, MAX_CLIPS), ("num_frames", num_frames, MAX_CLIP_FRAMES),
                                  ("size", size, 512), ("seed", seed, MAX_DATA_SEED)):  # fmt: skip
            checks.in_range(name, value, 0, high)
        wanted = _wanted(motions)
        return _shown(cls, generate_collection(num_clips, num_frames=num_frames, size=size, seed=seed, **wanted))


class ClipsFromImages(io.ComfyNode):
    """Images of any loader as clips to train on."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksClipsFromImages",
            display_name="Clips from Images",
            category=CATEGORY,
            description="Makes clips to train on of an image batch, such as the frames of Load Video: one clip, or one "
            "for every so many frames. Chain several through clips.",
            search_aliases=["dataset", "image batch", "frames to clips", "training videos"],
            inputs=[
                inp(io.Image.Input, "images", tooltip="Frames in their order; all of one size."),
                inp(
                    io.Float.Input, "fps", default=24.0, min=1.0, max=MAX_FPS, step=0.5,
                    tooltip="Frames a second of these images; the same for all clips that are trained together.",
                ),
                inp(
                    io.Int.Input, "frames_per_clip", default=0, min=0, max=MAX_CLIP_FRAMES,
                    tooltip="Cut the images into clips of so many frames, leaving out what remains; 0 = all are one "
                    "clip.",
                ),
                inp(
                    io.String.Input, "caption", default="", optional=True,
                    tooltip="Caption of these clips; motion adapters read none.",
                ),
                inp(
                    io.Custom("MOTION_CLIPS").Input, "clips", optional=True,
                    tooltip="Clips that come before these: from another Clips from Images, Load Clips or Generate "
                    "Clips, at the same fps.",
                ),
                inp(
                    io.Mask.Input, "masks", optional=True,
                    tooltip="Where the subject is, white: a mask for each image, of its size. For a masked adapter.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, images, fps=24.0, frames_per_clip=0, caption="", clips=None, masks=None) -> io.NodeOutput:
        from ..motion.adapters.masks import check_mask
        from ..motion.data.sources.images import image_clips, joined
        from .training_run.request import check_clips

        checks.in_range("fps", fps, 1.0, MAX_FPS)
        checks.in_range("frames_per_clip", frames_per_clip, 0, MAX_CLIP_FRAMES)
        text = " ".join(checks.whole_text("caption", caption).split())
        frames = pixels.moving_frames(images, "images").movedim(-1, 1)
        before = 0
        if clips is not None:
            check_clips(clips)
            before = len(clips)
        made = image_clips(
            frames, fps=float(fps), frames_per_clip=frames_per_clip, caption=text, first=before + 1,
            masks=None if masks is None else check_mask(masks),
        )  # fmt: skip
        return _shown(cls, made if clips is None else joined(clips, made))


class MakeCameraClips(io.ComfyNode):
    """Clips of one camera move over still photos."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksMakeCameraClips",
            display_name="Make Camera Clips",
            category=CATEGORY,
            description="Makes clips of one camera move from still photos: a window that glides, grows or turns inside "
            "each photo. For Train Motion Adapter: a camera move is learnt without filming it.",
            search_aliases=["dataset", "moves of a lens", "still photos to clips"],
            inputs=[
                inp(
                    io.Image.Input, "images",
                    tooltip="Photos, one or many of one size; the more they differ, the better only the move is "
                    "learnt. Larger than the clips is best.",
                ),
                inp(
                    io.Combo.Input, "move", options=list(CAMERA_MOVES), default=CAMERA_MOVES[0],
                    tooltip="What the camera does: pan left = it turns left, so the picture slides to the right. "
                    "rotate names the way the picture turns. One move for all clips.",
                ),
                inp(
                    io.Int.Input, "num_clips", default=100, min=1, max=MAX_CLIPS,
                    tooltip="How many clips; the photos are dealt out in turn, each clip with another window of its "
                    "photo.",
                ),
                inp(
                    io.Int.Input, "num_frames", default=16, min=2, max=MAX_CLIP_FRAMES,
                    tooltip="Frames a clip. The built-in models know 16; Wan needs 4k + 1, such as 17.",
                ),
                inp(
                    io.Float.Input, "fps", default=8.0, min=1.0, max=MAX_FPS, step=0.5,
                    tooltip="Frames a second. The built-in models know 8; then train with both strides at 1.",
                ),
                inp(
                    io.Float.Input, "amount", default=0.25, min=0.01, max=0.5, step=0.01,
                    tooltip="How far in a clip: 0.25 pans by a quarter of the picture, zooms by 1.28 or turns by 14 "
                    "degrees.",
                ),
                inp(
                    io.Float.Input, "vary", default=0.3, min=0.0, max=0.9, step=0.05,
                    tooltip="Clips differ by up to this share more or less, so that the model's dynamics slider keeps "
                    "its meaning. 0 = all alike.",
                ),
                inp(
                    io.Int.Input, "size", default=256, min=32, max=2048, step=16,
                    tooltip="Short side of the clips in px; the long one follows the photos. 64 or 128 are enough for "
                    "the built-in models, 480 for Wan 1.3B.",
                ),
                inp(
                    io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False,
                    tooltip="Other seeds choose other windows. Stays fixed, since new clips train all over again.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, move, num_clips=100, num_frames=16, fps=8.0, amount=0.25, vary=0.3, size=256, seed=0
    ) -> io.NodeOutput:
        from ..motion.data.sources.camera_clips import camera_clips

        checks.choose("move", move, CAMERA_MOVES)
        checks.in_range("fps", fps, 1.0, MAX_FPS)
        checks.in_range("seed", seed, 0, MAX_DATA_SEED)
        photos = pixels.rgb_frames(images, "images").movedim(-1, 1)
        made = camera_clips(
            photos, move, num_clips, num_frames=num_frames, fps=float(fps), amount=amount, vary=vary, side=size,
            seed=seed,
        )  # fmt: skip
        return _shown(cls, made)


def _wanted(motions: str) -> dict:
    """The text as `motions` or `words` of the generator. Raises ConfigError for an empty text."""
    from ..motion.data.procedural.scenes import AXES, WORDS

    lines = checks.whole_text("motions", motions).lower().splitlines()
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    if not lines:
        raise ConfigError(f"motions is empty; write one a line, or {ANY!r}; there are: {', '.join(WORDS)}")
    if lines in ([ANY], [ANY_CAMERA]):
        return {"words": WORDS if lines == [ANY] else (*AXES, "still")}
    return {"motions": lines}


def _outputs() -> list:
    return [
        out(io.Custom("MOTION_CLIPS"), "clips", "The clips, for Train Motion Model."),
        out(io.Image, "preview", "First and middle frame of some clips, all at the size of the first."),
        out(io.String, "summary", "How many clips, frames, rate, sizes, captions, and what was skipped and why."),
    ]


def _shown(cls, collection) -> io.NodeOutput:
    """Clips, preview and summary as outputs and in the node."""
    preview, summary = collection.preview(PREVIEW), text_under(cls, collection.summary())
    shown = ui.PreviewImage(preview, cls=cls).as_dict() | summary.as_dict()
    return io.NodeOutput(collection, preview, summary.value, ui=shown)
