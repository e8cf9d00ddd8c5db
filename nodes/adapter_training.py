"""The node that teaches one motion from a few clips into a small file."""

from comfy_api.latest import io

from ..motion.limits import MAX_DATA_SEED
from .host import checks
from .host.compat import inp, out, schema, unique_id
from .loaders import ASSETS
from .training_widgets import (
    MAX_STEPS,
    MORE,
    changed_data_input,
    every_inputs,
    memory_inputs,
    resume_input,
    shift_input,
    wan_inputs,
    window_inputs,
)

CATEGORY = "MotionBlocks/training"
FILE_PRECISIONS = ("bf16", "fp16", "fp32")
MAX_LABEL = 200  # characters
HELD_OUT = "raccoon.jpg"  # in the pack's assets


class TrainAdapter(io.ComfyNode):
    """About ten clips of one motion in, a motion adapter out, in the same graph."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksTrainAdapter",
            display_name="Train Motion Adapter",
            category=CATEGORY,
            description="Learns one motion from about ten clips into a small file that any photo can be moved with, "
            "alone or with others, on a part of the picture, for a part of the video. It stands in place of the "
            "prompt, so captions are not read. The file is saved even if you cancel, and comes out ready for Apply "
            "Motion Adapters.",
            search_aliases=["miva", "train motion", "few shot", "motion lora", "trainer"],
            inputs=[*_sockets(), *_main_widgets(), *_advanced_widgets(), *wan_inputs(), _file_precision(), _masked()],
            outputs=[
                out(io.Custom("MOTIONBLOCKS_ADAPTERS"), "adapters", "The adapter at weight 1."),
                out(io.LossMap, "loss", "Loss of every step, for the core node Plot Loss Graph."),
                out(io.Image, "samples", "Strips of three sample frames: before training, in between, at the end."),
                out(io.String, "report", "Clips, samples, losses, times and paths as text."),
                out(io.String, "path", "Full path of the saved adapter."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, vae, clips, clip=None, motion="", **settings) -> io.NodeOutput:
        from ..motion.adapters.miva import MIVA
        from .training_run.outputs import adapter_output
        from .training_run.request import read_request
        from .training_run.run import train

        label = " ".join(checks.whole_text("motion", motion).split())[:MAX_LABEL] or str(settings.get("file_prefix"))
        base = getattr(model.model, "file_name", "")
        if settings.get("sample_photo") is None:
            settings["sample_photo"] = _held_out_photo()
        request = read_request(
            model, clip, vae, clips, settings, adapter=MIVA.kind,
            told={"motion": label, **({"base_model": base} if base else {})},
        )  # fmt: skip
        return adapter_output(cls, request, train(request, unique_id(cls)))


def _held_out_photo():
    """A photo that is surely none of the clips': (1, h, w, 3) in [0, 1]."""
    from ..motion.io.media.video import read_photo

    return read_photo(ASSETS / HELD_OUT).movedim(0, -1).unsqueeze(0).contiguous()


def _sockets() -> list:
    return [
        inp(
            io.Model.Input, "model",
            tooltip="The model to teach: a linear video model, such as that of Load Built-in Motion Model, or Wan. It "
            "stays as it is.",
        ),
        inp(
            io.Clip.Input, "clip", optional=True,
            tooltip="The text encoder of the model, for the empty prompt. Only the built-in models that make a photo "
            "move need it. Wan learns the same without, so that no text encoder need be loaded.",
        ),
        inp(io.Vae.Input, "vae", tooltip="The VAE that belongs to the model; it is not trained."),
        inp(
            io.Custom("MOTION_CLIPS").Input, "clips",
            tooltip="About ten clips of the same motion, from Load Clips, Clips from Images, Make Camera Clips or "
            "Generate Clips.",
        ),
        inp(
            io.Image.Input, "sample_photo", optional=True,
            tooltip="Photo that the samples move, best none of the clips'; without it, one that comes with the pack.",
        ),
    ]  # fmt: skip


def _file_precision():
    return inp(
        io.Combo.Input, "file_precision", options=list(FILE_PRECISIONS), default=FILE_PRECISIONS[0], **MORE,
        tooltip="Number type of the saved file. bf16 and fp16 halve it and round what was learnt, more coarsely in "
        "bf16, which holds any size. It is trained in fp32 all the same, and states keep that.",
    )  # fmt: skip


def _masked():
    return inp(
        io.Boolean.Input, "masked", default=False, **MORE,
        tooltip="Wan text to video only: also learn where the subject is, which is meant to keep the motion to it. "
        "Clips need masks: those of Clips from Images, or videos beside Load Clips' own, such as bird.mask.mp4 beside "
        "bird.mp4. Takes about twice the memory and time.",
    )  # fmt: skip


def _main_widgets() -> list:
    return [
        inp(
            io.String.Input, "motion", default="",
            tooltip="What the adapter does, in your words; Load Motion Adapter shows it. Empty = file_prefix.",
        ),
        inp(
            io.Int.Input, "steps", default=0, min=0, max=MAX_STEPS,
            tooltip="Training steps in all, those of a resumed run included. 0 = 8000 for Wan, 240 for the "
            "built-in models.",
        ),
        inp(
            io.Float.Input, "learning_rate", default=0.0, min=0.0, max=1.0, step=1e-7, round=1e-7,
            tooltip="Size of the steps at their largest. 0 = 0.008 for the built-in models, 0.006 for the small Wan, "
            "0.00001 for Wan.",
        ),
        inp(
            io.Int.Input, "rank", default=0, min=0, max=1024,
            tooltip="Size of the adapter: how much it can hold. 0 = 11 for the built-in models, 16 for the small Wan, "
            "128 for Wan.",
        ),
        inp(
            io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False,
            tooltip="Of everything drawn at random. Stays fixed: another one trains all over again.",
        ),
        inp(
            io.String.Input, "file_prefix", default="my_adapter",
            tooltip="Name of the saved files: output/motion_adapters/my_adapter_00001.safetensors.",
        ),
        resume_input(),
        *every_inputs(),
    ]  # fmt: skip


def _advanced_widgets() -> list:
    return [
        inp(
            io.Int.Input, "batch_size", default=0, min=0, max=1024, **MORE,
            tooltip="Samples a step. More is steadier and takes more memory. 0 = 2 for the built-in models, 5 for the "
            "small Wan, 1 for Wan.",
        ),
        inp(
            io.Int.Input, "num_frames", default=0, min=0, max=1024, **MORE,
            tooltip="Frames of a training window; 0 = the model's own, 16 for the built-in ones, 17 for Wan.",
        ),
        inp(
            io.Int.Input, "stride_min", default=3, min=0, max=1000, **MORE,
            tooltip="Fewest frames of the clip from one frame of a window to the next; less where a clip is too short. "
            "3 at 24 frames a second keeps the speed that was filmed. 0 = the model's own.",
        ),
        *window_inputs(3),
        *memory_inputs(),
        shift_input(),
        changed_data_input(),
        inp(
            io.String.Input, "more_settings", default="", multiline=True, **MORE,
            tooltip="Rare settings, one a line, such as: schedule = constant, sigma_sampling = logit_normal, "
            "top_noise_share = 0.1, ema_decay = 0.99, flow_weight = 10. A wrong name lists the known ones.",
        ),
    ]  # fmt: skip
