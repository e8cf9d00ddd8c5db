"""Nodes that learn how one clip moves, and leave behind what it looks like."""

from comfy_api.latest import io, ui

from ..motion.choices import (
    EXPERTS,
    HEAD_METHODS,
    HEAD_RULES,
    MOTION_LOSSES,
    PLACES,
    SECOND_HEADS,
    STAGES,
    WHOLE,
)
from ..motion.errors import ConfigError
from ..motion.limits import MAX_FPS, MAX_SIDE
from .host import checks, progress
from .host.compat import inp, out, schema, unique_id
from .host.text_under import text_under
from .training_widgets import MAX_STEPS, MORE, changed_data_input, memory_inputs, preset_inputs, resume_input

CATEGORY = "MotionBlocks/motion transfer"
MOTION_CLIP = io.Custom("MOTIONBLOCKS_MOTION_CLIP")
HEAD_MAP = io.Custom("MOTIONBLOCKS_HEAD_MAP")
PRESET_NAMES = ("tiny", "quick", "paper")
OWN = "preset"  # a choice that leaves it to the preset
MAX_FRAMES = 1001
MAX_TEXT = 4000  # characters of a caption
FIRST_LEVEL = "0.9998"
NO_CAPTION = "\nno caption: name what is seen, so that it stays apart"


class PrepareMotionClip(io.ComfyNode):
    """Frames of one clip, chosen and encoded."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksPrepareMotionClip",
            display_name="Prepare Motion Clip",
            category=CATEGORY,
            description="Chooses the frames of one clip that its motion is learned from, and encodes them: a window at "
            "16 frames a second, and of it a few, evenly apart. Every index is shown. Connect one of clips, video or "
            "images.",
            search_aliases=["follow your motion", "motion transfer", "one clip", "reference video", "sparse frames"],
            inputs=[
                inp(
                    io.Vae.Input, "vae",
                    tooltip="The VAE of the model: Wan 2.1's, that of the small Wan, or of a linear video model.",
                ),
                inp(
                    io.Custom("MOTION_CLIPS").Input, "clips", optional=True,
                    tooltip="From Load Clips or Generate Clips: the first clip, at its own times where fps is 0 there.",
                ),
                inp(io.Video.Input, "video", optional=True, tooltip="From Load Video, at its own rate."),
                inp(
                    io.Image.Input, "images", optional=True,
                    tooltip="Frames in their order. They do not say how fast they were filmed: set source_fps.",
                ),
                inp(
                    io.ClipVision.Input, "clip_vision", optional=True,
                    tooltip="Only for Wan 2.1 image to video, which reads its first frame through it (clip_vision_h).",
                ),
                inp(
                    io.String.Input, "caption", default="", multiline=True, optional=True,
                    tooltip="What is seen in the clip and what it does. Name the looks, so that they stay in the "
                    "words. Empty = the caption that the clip came with.",
                ),
                inp(
                    io.Float.Input, "source_fps", default=0.0, min=0.0, max=MAX_FPS, step=0.01, optional=True,
                    tooltip="Frames a second of images; needed with images, and with nothing else.",
                ),
                inp(
                    io.Float.Input, "start", default=0.0, min=0.0, max=36000.0, step=0.01, optional=True,
                    tooltip="Seconds into the clip at which the window begins.",
                ),
                inp(
                    io.Int.Input, "num_frames", default=81, min=9, max=MAX_FRAMES, step=4, optional=True,
                    tooltip="Frames of the window, 4k + 1: 81 for Wan, 17 for the small Wan. A shorter clip gives the "
                    "most it has. Linear video models take any number, at 8 a second: 17.",
                ),
                inp(
                    io.Int.Input, "sparse_frames", default=17, min=0, max=MAX_FRAMES, step=1, optional=True,
                    tooltip="How many of them are trained, 4k + 1, evenly apart: 17 of 81, 9 of 17. 0 = all, which "
                    "takes many times as long.",
                ),
                inp(
                    io.Int.Input, "resolution", default=512, min=16, max=MAX_SIDE, step=16, optional=True,
                    tooltip="Short side in px at which the clip is trained; 64 for the small Wan.",
                ),
            ],
            outputs=[
                out(MOTION_CLIP, "motion_clip", "The clip, for Classify Attention Heads and Train Motion LoRA."),
                out(io.Image, "frames", "The frames that are trained."),
                out(io.String, "caption", "The caption, for CLIP Text Encode."),
                out(io.String, "plan", "Every index, and what became of the clip."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, vae, clips=None, video=None, images=None, clip_vision=None, caption="", source_fps=0.0, start=0.0,
        num_frames=81, sparse_frames=17, resolution=512,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.data.motion_clip import encode_motion_clip
        from ..motion.data.sparse_frames import plan_frames, rate_in
        from .training_run.encoders import video_encoders
        from .training_run.motion_source import source_clip

        checks.in_range("start", start, 0.0, 36000.0)
        checks.in_range("num_frames", num_frames, 0, MAX_FRAMES)
        checks.in_range("sparse_frames", sparse_frames, 0, MAX_FRAMES)
        checks.in_range("resolution", resolution, 16, MAX_SIDE)
        text = " ".join(checks.whole_text("caption", caption)[:MAX_TEXT].split())
        clip = source_clip(clips, video, images, source_fps)
        encoders, space = video_encoders(vae, clip_vision)
        plan = plan_frames(
            clip, num_frames=num_frames, sparse_frames=sparse_frames, start=start, fps=rate_in(space),
            group=space.temporal_ratio,
        )  # fmt: skip
        shown = text_under(cls, plan.text())
        made = encode_motion_clip(
            clip, plan, encoders, space, resolution=resolution, caption=text or clip.caption,
            on_step=progress.progress_step(),
        )  # fmt: skip
        missing = "" if made.caption or space.kind == "builtin" else NO_CAPTION
        shown = text_under(cls, plan.text() + missing)
        frames = clip.frames(list(plan.sparse)).movedim(1, -1)
        looked = ui.PreviewImage(frames, cls=cls).as_dict() | shown.as_dict()
        return io.NodeOutput(made, frames, made.caption, shown.value, ui=looked)


class ClassifyHeads(io.ComfyNode):
    """Which attention heads of a Wan look along time."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksClassifyHeads",
            display_name="Classify Attention Heads",
            category=CATEGORY,
            description="Looks at how the attention heads of a Wan spread over a clip, one pass for each noise level "
            "and seed, and tells which follow things along time and which stay in the picture. Nothing is changed. "
            "Train Motion LoRA does this by itself; here it can be seen, and set otherwise.",
            search_aliases=["follow your motion", "head probe", "attention map", "temporal heads", "spatial heads"],
            inputs=[
                inp(io.Model.Input, "model", tooltip="Wan 2.1 or 2.2, from its loader, or the small Wan."),
                inp(
                    MOTION_CLIP.Input, "motion_clip",
                    tooltip="From Prepare Motion Clip; all frames of its window are looked at.",
                ),
                inp(io.Conditioning.Input, "positive", tooltip="The clip's caption, encoded."),
                inp(
                    io.Combo.Input, "rule", options=list(HEAD_RULES), default="release",
                    tooltip="release: temporal where time has alpha times as much as space, as the released code does. "
                    "paper: temporal unless space has alpha times as much. They part over heads that do neither.",
                ),
                inp(
                    io.Float.Input, "alpha", default=1.3, min=0.01, max=100.0, step=0.01,
                    tooltip="How clear the lead must be.",
                ),
                inp(
                    io.Float.Input, "target_fraction", default=0.0, min=0.0, max=0.99, step=0.01,
                    tooltip="Share of heads that shall be temporal, those that lean most to time; 0 = as rule and "
                    "alpha say.",
                ),
                inp(
                    io.String.Input, "sigmas", default=FIRST_LEVEL, **MORE,
                    tooltip="Noise levels to look at, with commas; their mean decides. 0.7 for the low-noise expert of "
                    "Wan 2.2. Several tell how far types drift.",
                ),
                inp(
                    io.Int.Input, "seeds", default=1, min=1, max=16, **MORE,
                    tooltip="How many noises to look at, at each level.",
                ),
                inp(
                    io.Combo.Input, "method", options=list(HEAD_METHODS), default="masses", **MORE,
                    tooltip="masses: how much attention falls near, in space or along time. svg: which of the two "
                    "would do with less error (Sparse-VideoGen).",
                ),
                inp(
                    io.Int.Input, "rows_per_frame", default=0, min=0, max=100000, **MORE,
                    tooltip="Tokens looked from in each frame; 0 = about 256 in all.",
                ),
                inp(
                    io.String.Input, "text", default="", multiline=True, **MORE,
                    tooltip="The text of an earlier map: it is read instead of looking again, so that rule, alpha and "
                    "target_fraction can be tried at once.",
                ),
            ],
            outputs=[
                out(HEAD_MAP, "head_map", "The map, for Train Motion LoRA."),
                out(io.Image, "picture", "A row a layer, a box a head: blue in space, orange along time."),
                out(io.String, "text", "The map as JSON, to keep or to set otherwise."),
                out(io.String, "report", "How many heads are temporal, and how steady that is."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, motion_clip, positive, rule="release", alpha=1.3, target_fraction=0.0, sigmas=FIRST_LEVEL, seeds=1,
        method="masses", rows_per_frame=0, text="",
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.analysis.head_map import draw_head_map
        from .training_run.motion_run import look_at_heads, map_of_text

        checks.choose("rule", rule, HEAD_RULES)
        checks.in_range("seeds", seeds, 1, 16)
        settings = {"rule": rule, "alpha": float(alpha), "target_fraction": float(target_fraction)}
        if text.strip():
            found, told = map_of_text(model, checks.whole_text("text", text), settings)
        else:
            found, told = look_at_heads(
                model, motion_clip, positive, sigmas=_levels(sigmas), seeds=range(seeds), method=method,
                per_frame=rows_per_frame or None, on_look=progress.progress_step(), **settings,
            )  # fmt: skip
        picture, shown = draw_head_map(found), text_under(cls, "\n".join([found.summary(), *told]))
        looked = ui.PreviewImage(picture, cls=cls).as_dict() | shown.as_dict()
        return io.NodeOutput(found, picture, found.to_json(), shown.value, ui=looked)


class TrainMotionLoRA(io.ComfyNode):
    """One clip in, a LoRA of its motion out."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksTrainMotionLoRA",
            display_name="Train Motion LoRA",
            category=CATEGORY,
            description="Learns how one clip moves, by Follow-Your-Motion: a first LoRA takes up what the clip looks "
            "like, from single frames, and is put aside; a second learns the rest, which is how it moves. Out comes "
            "an ordinary LoRA for Load LoRA (Model Only): write another subject into the prompt. Saved even if you "
            "cancel.",
            search_aliases=["follow your motion", "motion transfer", "one shot", "motion lora", "train wan", "fym"],
            inputs=[*_train_sockets(), *_train_widgets(), *_train_more()],
            outputs=[
                out(io.Model, "model", "The model with the LoRA of the motion on it, at the preset's strength."),
                out(io.LoraModel, "lora", "The LoRA, for the core nodes Save LoRA Weights and Load LoRA Model."),
                out(io.LossMap, "loss", "Loss of every step of both stages, for the core node Plot Loss Graph."),
                out(io.Image, "samples", "Strips of three frames: before, in between, at the end; black without vae."),
                out(io.String, "report", "What was trained, losses, times and paths as text."),
                out(io.String, "path", "Full path of the LoRA."),
                out(HEAD_MAP, "head_map", "The map of heads that was used; nothing where none was needed."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, motion_clip, positive, **settings) -> io.NodeOutput:
        from .training_run.motion_request import read_motion_request
        from .training_run.motion_run import motion_output, train_motion

        request = read_motion_request(model, motion_clip, positive, settings)
        return motion_output(cls, request, *train_motion(request, unique_id(cls)))


def _train_sockets() -> list:
    return [
        inp(
            io.Model.Input, "model",
            tooltip="Wan 2.1, an expert of Wan 2.2, the small Wan, or a linear video model. It stays as it is. LoRAs "
            "on it take part.",
        ),
        inp(MOTION_CLIP.Input, "motion_clip", tooltip="From Prepare Motion Clip."),
        inp(io.Conditioning.Input, "positive", tooltip="The clip's caption, encoded: output caption of that node."),
        inp(
            HEAD_MAP.Input, "head_map", optional=True,
            tooltip="From Classify Attention Heads. Without it the heads are looked at here.",
        ),
        inp(
            io.Vae.Input, "vae", optional=True,
            tooltip="Only to show samples while it trains; without it none are drawn.",
        ),
        inp(
            io.Conditioning.Input, "sample_positive", optional=True,
            tooltip="Prompt of the samples, best of another subject; without it the clip's caption.",
        ),
        inp(
            io.Conditioning.Input, "sample_negative", optional=True,
            tooltip="Negative prompt of the samples; without it they are drawn without guidance.",
        ),
    ]  # fmt: skip


def _train_widgets() -> list:
    return [
        inp(
            io.Combo.Input, "preset", options=list(PRESET_NAMES), default="quick",
            tooltip="tiny: for the small Wan, 100 + 200 steps. quick: 1500 + 1500 steps, rank 16, for Wan on a card. "
            "paper: 3000 + 2000 steps, rank 128. Built-in linear models: tiny, 120 steps.",
        ),
        inp(
            io.Combo.Input, "stage", options=list(STAGES), default="both",
            tooltip="both: looks first, then motion. temporal: motion alone, which also keeps the looks; or connect a "
            "model with the spatial LoRA on it. spatial: looks alone. Models that begin with a picture train the "
            "temporal stage alone.",
        ),
        inp(
            io.Combo.Input, "heads", options=[OWN, *SECOND_HEADS], default=OWN,
            tooltip="Heads that the second stage trains. temporal: as in the paper. all: every head; on the "
            "small Wan neither wins, and what keeps the looks out is the first stage. preset: all for tiny, else "
            "temporal. Linear video models have layers for time instead, and for them preset is temporal.",
        ),
        inp(
            io.Int.Input, "spatial_steps", default=0, min=0, max=MAX_STEPS,
            tooltip="Steps of the first stage; 0 = the preset's.",
        ),
        inp(
            io.Int.Input, "temporal_steps", default=0, min=0, max=MAX_STEPS,
            tooltip="Steps of the second stage; 0 = the preset's. Too many bring the looks in.",
        ),
        *preset_inputs("the LoRAs"),
        inp(
            io.String.Input, "file_prefix", default="my_clip_motion",
            tooltip="Name of the files: output/loras/my_clip_motion_00001.safetensors, and with _spatial that of the "
            "first stage.",
        ),
        resume_input(),
    ]  # fmt: skip


def _train_more() -> list:
    return [
        inp(
            io.Int.Input, "batch_size", default=0, min=0, max=1024, **MORE,
            tooltip="Samples a step, of one clip with different noise; 0 = the preset's.",
        ),
        inp(
            io.Combo.Input, "motion_loss", options=[OWN, *MOTION_LOSSES], default=OWN, **MORE,
            tooltip="How changes from frame to frame are compared: paper, as released, or off.",
        ),
        inp(
            io.Combo.Input, "frame_places", options=list(PLACES), default="stride", **MORE,
            tooltip="Where sparse frames stand in time. stride: where they were. paper: its formula to the letter. "
            "center: the middle of what each latent frame covers. off: one after the other.",
        ),
        inp(
            io.Boolean.Input, "include_o", default=True, **MORE,
            tooltip="Train the projection behind attention too, as the paper does; the released code does not.",
        ),
        inp(
            io.Int.Input, "sample_every", default=0, min=0, max=MAX_STEPS, **MORE,
            tooltip="Steps between two samples, with the motion LoRA alone; 0 = before and after. Needs vae.",
        ),
        inp(
            io.Int.Input, "save_every", default=100, min=0, max=MAX_STEPS, **MORE,
            tooltip="Steps between two saved states to resume from; 0 = only at the end or when stopped.",
        ),
        *memory_inputs(),
        inp(
            io.Combo.Input, "expert", options=list(EXPERTS), default=WHOLE, **MORE,
            tooltip="Wan 2.2 has two models, and nothing in a MODEL tells them apart: say which this is. Motion is "
            "made by the high-noise expert; train that one. wan2.1: all noise levels, and all other models.",
        ),
        changed_data_input(),
        inp(
            io.String.Input, "more_settings", default="", multiline=True, **MORE,
            tooltip="Rare settings, one a line, such as: schedule = cosine, shift = 3, weight_decay = 0.5. A wrong "
            "name lists the known ones.",
        ),
    ]  # fmt: skip


def _levels(text: str) -> list[float]:
    """Noise levels of a text. Raises ConfigError."""
    try:
        return [float(part) for part in str(text).replace(";", ",").split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(
            f"sigmas is {str(text)[:60]!r}; numbers with commas are needed, such as 0.9998, 0.7"
        ) from error
