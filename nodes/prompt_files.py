"""The node that saves encoded prompts, for training where the host's text encoders do not run."""

from comfy_api.latest import io

from ..motion.errors import ConfigError
from .host import checks, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/training"
PREFIX = "motionblocks/prompts/my_prompts"


class SavePrompts(io.ComfyNode):
    """Encoded prompts as a file, for training without the host."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksSavePrompts",
            display_name="Save Prompts",
            category=CATEGORY,
            description="Encodes prompts and saves what the text encoder makes of them, so that `./motionblocks train` "
            "can train Wan without ComfyUI. The empty prompt is always saved too.",
            search_aliases=["text embeddings", "cache text encoder", "umt5", "wan training", "captions"],
            inputs=[
                inp(
                    io.Clip.Input, "clip",
                    tooltip="Text encoder of the model to be trained; for Wan, Load CLIP with UMT5-XXL and type wan.",
                ),
                inp(
                    io.String.Input, "prompts", multiline=True, default="",
                    tooltip="One prompt a line, written as in the captions of your clips: the trainer finds a prompt "
                    "by its text. Encoded as CLIP Text Encode does, (weights:1.2) included.",
                ),
                inp(
                    io.String.Input, "filename_prefix", default=PREFIX,
                    tooltip="Folder and name inside the output folder; a number is added and no file is replaced.",
                ),
                inp(
                    io.Custom("MOTION_CLIPS").Input, "clips", optional=True,
                    tooltip="From Load Clips: their captions are saved as well, so that none need be typed.",
                ),
            ],
            outputs=[out(io.String, "path", "Full path of the saved file, for prompts: in a training job.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, prompts="", filename_prefix=PREFIX, clips=None) -> io.NodeOutput:
        from ..motion.io.files.atomic import make_folder, try_writing
        from .text_encoders.saved_prompts import encode_prompts, save_prompts
        from .training_run.folders import numbered_output
        from .training_run.request import check_clips

        if clip is None:
            raise ConfigError("clip is empty: the checkpoint that was loaded holds no text encoder; load one for it")
        if clips is not None:
            check_clips(clips)
        lines = [" ".join(line.split()) for line in checks.whole_text("prompts", prompts).splitlines()]
        captions = [] if clips is None else [entry.caption for entry in clips.clips]
        target = numbered_output(filename_prefix)
        try_writing(make_folder(target.parent))
        made = encode_prompts(clip, dict.fromkeys(["", *lines, *captions]), progress.progress_step())
        path = save_prompts(target, clip, made)
        return io.NodeOutput(str(path), ui=text_under(cls, _saved(path, made)))


def _saved(path, prompts: dict) -> str:
    """What stands under Save Prompts: the file, and each prompt with its tokens."""
    from ..motion.io.text_encoders.prompts_file import open_prompts

    more = [] if len(prompts) > 1 else ["only the empty prompt: type prompts, or connect clips, to train on captions"]
    return "\n".join([f"saved: {path}", open_prompts(path).describe(), *more])
