"""Nodes that make a Wan follow poses, by FramePrompt: clips with their poses in, a LoRA out."""

from comfy_api.latest import io, ui

from ..motion.choices import EXPERTS, SEQUENCE_MODES, WHOLE
from ..motion.errors import ConfigError
from ..motion.limits import MAX_DATA_SEED, MAX_FPS, MAX_SIDE
from .datasets import clip_folders, folder_path
from .host import checks, folders, pixels, progress
from .host.compat import inp, out, schema, unique_id
from .host.poses import POSE_KEYPOINT, canvas_of, confidence_input, read
from .host.text_under import text_under
from .training_widgets import (
    MAX_STEPS,
    MORE,
    changed_data_input,
    every_inputs,
    memory_inputs,
    preset_inputs,
    resume_input,
)

CATEGORY = "MotionBlocks/poses"
DATASET = io.Custom("MOTIONBLOCKS_POSE_DATASET")
PRESET_NAMES = ("paper", "low memory", "tiny")
NO_FOLDER = "none"
OWN = "preset"  # a choice that leaves it to the preset
MAX_FRAMES = 505  # of a target: twice as many, and one, are the longest latent video
MAX_TEXT = 4000  # characters of a caption
MAX_SAMPLES = 1000  # of a clip


class BuildPoseDataset(io.ComfyNode):
    """Clips and poses as encoded sequences."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksBuildPoseDataset",
            display_name="Build Pose Dataset",
            category=CATEGORY,
            description="Makes data for Train Pose LoRA of clips with poses: a reference picture, skeletons and the "
            "frames that belong to them, encoded and kept on the disk. Shows reference, skeletons and frames of some "
            "samples side by side first, so that poses can be checked before anything is trained.",
            search_aliases=["frameprompt", "pose training data", "skeleton dataset", "openpose clips"],
            inputs=[*_dataset_sockets(), *_dataset_widgets()],
            outputs=[
                out(DATASET, "dataset", "For Train Pose LoRA, or for the next Build Pose Dataset."),
                out(
                    io.Image, "sheet",
                    "A row a sample: the reference, three skeletons, and the three frames that they belong to.",
                ),
                out(io.String, "summary", "Samples, sizes, what was skipped and why, what came from the disk."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder=NO_FOLDER, **settings):
        """Changes with any clip, caption or pose of the folder, so that it is read again."""
        try:
            path = folder_path(folder) if folder != NO_FOLDER else None
            files = [] if path is None else [file for file in sorted(path.rglob("*")) if file.is_file()]
            stamps = [f"{file.relative_to(path)} {folders.stamp(file)}" for file in files]
        except (ValueError, OSError):
            stamps = []
        plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float | bool)}
        return "\n".join([folder, str(sorted(plain.items())), *stamps])

    @classmethod
    def execute(
        cls, vae, images=None, poses=None, clip_vision=None, dataset=None, folder=NO_FOLDER, preset="paper",
        caption="", source_fps=0.0, num_frames=0, width=0, height=0, mode=OWN, samples_per_clip=1,
        reference_anywhere=True, change_bodies=False, known_start=False, seed=0, min_confidence=0.3,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.data.pose_dataset import PoseDataset, build_pose_dataset
        from ..motion.training.pose_training import preset_named
        from .training_run.encoders import picture_reader, video_encoders
        from .training_run.folders import latents_folder

        if dataset is not None and not isinstance(dataset, PoseDataset):
            raise ConfigError(f"dataset is {type(dataset).__name__}; connect Build Pose Dataset, or nothing")
        asked = {"num_frames": (num_frames, MAX_FRAMES), "width": (width, MAX_SIDE), "height": (height, MAX_SIDE)}
        given = {name: checks.in_range(name, value, 0, most) for name, (value, most) in asked.items() if value}
        given |= {} if checks.choose("mode", mode, (OWN, *SEQUENCE_MODES)) == OWN else {"mode": mode}
        settings = preset_named(checks.choose("preset", preset, PRESET_NAMES)).settings(
            **given, samples_per_clip=samples_per_clip, reference_anywhere=bool(reference_anywhere),
            change_bodies=bool(change_bodies), known_start=bool(known_start), seed=seed,
        )  # fmt: skip
        text = " ".join(checks.whole_text("caption", caption)[:MAX_TEXT].split())
        number = 1 if dataset is None else len(dataset.items) + 1
        clips = _posed_clips(folder, images, poses, source_fps, text, min_confidence, number)
        encoders, space = video_encoders(vae)
        if space.kind != "wan21":
            raise ConfigError(f"vae is of {space.title}; poses are learned beside Wan: connect the Wan 2.1 VAE")
        see, seen_by = (None, "") if clip_vision is None else picture_reader(clip_vision)
        sheets = []
        text_under(cls, "encoding")
        made = build_pose_dataset(
            clips, settings, encoders, cache_folder=latents_folder(), see=see, seen_by=seen_by,
            on_step=progress.progress_step(), on_sheet=sheets.append,
        ).behind(dataset)  # fmt: skip
        shown = text_under(cls, made.report)
        return io.NodeOutput(made, sheets[0], shown.value,
                             ui=ui.PreviewImage(sheets[0], cls=cls).as_dict() | shown.as_dict())  # fmt: skip


class TrainPoseLoRA(io.ComfyNode):
    """Sequences in, a LoRA that follows poses out."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksTrainPoseLoRA",
            display_name="Train Pose LoRA",
            category=CATEGORY,
            description="Trains a LoRA by which Wan makes the subject of a picture follow poses (FramePrompt): "
            "reference, skeletons and video stand in one sequence, of which the video is learned. Nobody has published "
            "such weights for the large Wan. Out comes an ordinary LoRA; use it with Pose Video. Given frames look at "
            "all others (attention all): segment is not trained here. Saved even if you cancel.",
            search_aliases=["frameprompt", "pose lora", "character training", "train wan", "half frames"],
            inputs=[*_train_sockets(), *_train_widgets(), *_train_more()],
            outputs=[
                out(io.Model, "model", "The model with the LoRA on it, which knows how it was trained."),
                out(io.LoraModel, "lora", "The LoRA, for the core nodes Save LoRA Weights and Load LoRA Model."),
                out(io.LossMap, "loss", "Loss of every step, for the core node Plot Loss Graph."),
                out(io.Image, "samples", "Strips: reference, first, middle and last frame; black without vae."),
                out(io.String, "report", "Data, losses, times and paths as text."),
                out(io.String, "path", "Full path of the LoRA."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, dataset, clip, **settings) -> io.NodeOutput:
        from .training_run.pose_request import read_pose_request
        from .training_run.pose_run import pose_output, train_poses

        request = read_pose_request(model, dataset, clip, settings)
        return pose_output(cls, request, train_poses(request, unique_id(cls)))


def _dataset_sockets() -> list:
    return [
        inp(io.Vae.Input, "vae", tooltip="The VAE of the model: Wan 2.1's, or that of the small Wan."),
        inp(
            io.Image.Input, "images", optional=True,
            tooltip="Frames of one clip, with poses and source_fps; or choose a folder.",
        ),
        inp(
            POSE_KEYPOINT.Input, "poses", optional=True,
            tooltip="Poses of the images, a frame for each, detected in them; best from Clean Poses. Not retargeted.",
        ),
        inp(
            io.ClipVision.Input, "clip_vision", optional=True,
            tooltip="Only for Wan 2.1 image to video, which reads the reference through it (clip_vision_h).",
        ),
        inp(
            DATASET.Input, "dataset", optional=True,
            tooltip="Samples that come before these: from another Build Pose Dataset of the same size and length.",
        ),
    ]  # fmt: skip


def _dataset_widgets() -> list:
    return [
        inp(
            io.Combo.Input, "folder", options=[NO_FOLDER, *clip_folders()], default=NO_FOLDER, optional=True,
            tooltip="A folder of videos inside ComfyUI's input folder, each with its poses beside it: clip.mp4 and "
            "clip.json (Save Poses), a frame for each of the video's. Captions in clip.txt.",
        ),
        inp(
            io.Combo.Input, "preset", options=list(PRESET_NAMES), default="paper", optional=True,
            tooltip="paper: 40 frames, 832x480 px, mode joint. low memory: 20 frames, 448x256. tiny: for the small "
            "Wan, 17 frames, 96x96, mode separate.",
        ),
        inp(
            io.String.Input, "caption", default="", multiline=True, optional=True,
            tooltip="What is seen in the images; or of clips of a folder that have no caption of their own.",
        ),
        inp(
            io.Float.Input, "source_fps", default=0.0, min=0.0, max=MAX_FPS, step=0.01, optional=True,
            tooltip="Frames a second of images; needed with images, and with nothing else.",
        ),
        inp(
            io.Int.Input, "num_frames", default=0, min=0, max=MAX_FRAMES, optional=True,
            tooltip="Frames of a sample, at 16 a second; 0 = the preset's. Multiples of 4 in mode joint, 4k + 1 in "
            "mode separate. Shorter clips are skipped.",
        ),
        inp(
            io.Int.Input, "width", default=0, min=0, max=MAX_SIDE, step=16, optional=True,
            tooltip="Width in px, a multiple of 16; 0 = the preset's. Clips of another shape are cut.",
        ),
        inp(
            io.Int.Input, "height", default=0, min=0, max=MAX_SIDE, step=16, optional=True,
            tooltip="Height in px, a multiple of 16; 0 = the preset's.",
        ),
        inp(
            io.Int.Input, "samples_per_clip", default=1, min=1, max=MAX_SAMPLES, optional=True,
            tooltip="Samples drawn from each clip: other stretches of it, and other references.",
        ),
        inp(
            io.Combo.Input, "mode", options=[OWN, *SEQUENCE_MODES], default=OWN, **MORE,
            tooltip="joint: one pass of the VAE over reference, skeletons and frames, as in the paper. separate: a "
            "pass for each. Videos are made in the mode that was trained.",
        ),
        inp(
            io.Boolean.Input, "reference_anywhere", default=True, **MORE,
            tooltip="Take the reference from anywhere in the clip, so that it need not show the first pose. Off: the "
            "first frame that is made.",
        ),
        inp(
            io.Boolean.Input, "change_bodies", default=False, **MORE,
            tooltip="Draw the skeletons of half of the samples larger, smaller or elsewhere than the body, so that its "
            "size and place are learned from the reference. Off, as in the paper, skeletons must fit (Retarget Poses).",
        ),
        inp(
            io.Boolean.Input, "known_start", default=False, **MORE,
            tooltip="Also learn to go on where the first frames of the video are known, for videos made in parts. Off "
            "as in the paper.",
        ),
        inp(
            io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False, **MORE,
            tooltip="Other seeds draw other samples, and encode anew.",
        ),
        confidence_input(),
    ]  # fmt: skip


def _train_sockets() -> list:
    return [
        inp(
            io.Model.Input, "model",
            tooltip="Wan 2.1, an expert of Wan 2.2, or the small Wan: image to video; text to video is an experiment. "
            "It stays as it is. LoRAs on it take part.",
        ),
        inp(DATASET.Input, "dataset", tooltip="From Build Pose Dataset."),
        inp(io.Clip.Input, "clip", tooltip="The text encoder of the model: it encodes the captions of the data."),
        inp(
            io.Vae.Input, "vae", optional=True,
            tooltip="Only to show samples while it trains; without it none are drawn.",
        ),
    ]  # fmt: skip


def _train_widgets() -> list:
    return [
        inp(
            io.Combo.Input, "preset", options=list(PRESET_NAMES), default="paper",
            tooltip="paper: rank 128, 1e-4, 3640 steps. low memory: rank 32. Both compute blocks twice to need less "
            "memory. tiny: for the small Wan. Take the preset that the data was built with.",
        ),
        inp(
            io.Int.Input, "steps", default=0, min=0, max=MAX_STEPS,
            tooltip="Optimizer steps; 0 = the preset's. The paper sees every clip ten times.",
        ),
        *preset_inputs("the LoRA"),
        inp(
            io.String.Input, "file_prefix", default="my_poses",
            tooltip="Name of the file: output/loras/my_poses_00001.safetensors.",
        ),
        resume_input(),
    ]  # fmt: skip


def _train_more() -> list:
    return [
        inp(
            io.Int.Input, "batch_size", default=0, min=0, max=1024, **MORE,
            tooltip="Samples a step; 0 = the preset's.",
        ),
        inp(
            io.Boolean.Input, "include_cross_attn", default=True, **MORE,
            tooltip="Train the layers that read the text too, as the paper's list of layers does. Those that read "
            "pictures (k_img, v_img) never.",
        ),
        inp(
            io.Boolean.Input, "clean_timestep", default=False, **MORE,
            tooltip="Tell the network that reference and skeletons have no noise, frame by frame. Off, as in the "
            "paper, it is told one noise level. Videos are made as was trained.",
        ),
        inp(
            io.Float.Input, "caption_dropout", default=0.1, min=0.0, max=1.0, step=0.01, **MORE,
            tooltip="Share of samples trained with the empty prompt, so that cfg works; 0 as in the paper.",
        ),
        *every_inputs(),
        *memory_inputs("presets paper and low memory always do"),
        inp(
            io.Combo.Input, "expert", options=list(EXPERTS), default=WHOLE, **MORE,
            tooltip="Wan 2.2 has two models, and nothing in a MODEL tells them apart: say which this is, and train "
            "each in a run of its own. wan2.1: all noise levels, and all other models.",
        ),
        changed_data_input(),
        inp(
            io.String.Input, "more_settings", default="", multiline=True, **MORE,
            tooltip="Rare settings, one a line, such as: schedule = cosine, shift = 3, weight_decay = 0.5. A wrong "
            "name lists the known ones.",
        ),
    ]  # fmt: skip


def _posed_clips(folder, images, poses, source_fps, caption, min_confidence, number):
    """The clips of a folder, or the one that is connected. Raises ConfigError and ShapeError."""
    from ..motion.data.pose_clips import PosedClips, open_posed_folder, posed_images

    checks.in_range("source_fps", source_fps, 0.0, MAX_FPS)
    has_images, has_folder = images is not None or poses is not None, folder != NO_FOLDER
    if has_images == has_folder:
        what = "images and a folder are given" if has_folder else "neither images nor a folder is given"
        raise ConfigError(f"{what}; connect images with their poses, or choose a folder of clips")
    if has_folder:
        return open_posed_folder(
            folder_path(folder), default_caption=caption, on_step=progress.progress_step(),
            check=progress.throw_if_cancelled,
        )  # fmt: skip
    if images is None or poses is None:
        raise ConfigError(f"{'poses' if poses is None else 'images'} is not connected; a clip is learned from both")
    if not source_fps:
        raise ConfigError("source_fps is 0; images do not say how fast they were filmed: set their frames a second")
    frames = pixels.moving_frames(images, "images").movedim(-1, 1)
    found = read(poses, canvas_of(poses, frames[0].movedim(0, -1)), min_confidence)
    posed = posed_images(frames, found, fps=float(source_fps), caption=caption, number=number)
    return PosedClips((posed,))
