"""The node that teaches one motion from a few clips into a small file."""

from comfy_api.latest import io

from ..motion.limits import MAX_DATA_SEED
from .host import checks
from .host.compat import inp, out, schema, unique_id
from .loaders import ASSETS
from .training import MAX_STEPS, PRECISIONS
from .training_run.folders import LATEST, NEW, listed_states

CATEGORY = "MotionBlocks/training"
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
            inputs=[*_sockets(), *_main_widgets(), *_advanced_widgets()],
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
    def execute(cls, model, clip, vae, clips, motion="", **settings) -> io.NodeOutput:
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
            tooltip="The linear video model to teach, such as that of Load Built-in Motion Model. It stays as it is.",
        ),
        inp(io.Clip.Input, "clip", tooltip="The text encoder of the model; it says the empty prompt."),
        inp(io.Vae.Input, "vae", tooltip="The VAE that belongs to the model; it is not trained."),
        inp(
            io.Custom("MOTION_CLIPS").Input, "clips",
            tooltip="About ten clips of the same motion, from Load Clips, Clips from Images or Generate Clips.",
        ),
        inp(
            io.Image.Input, "sample_photo", optional=True,
            tooltip="Photo that the samples move, best none of the clips'; without it, one that comes with the pack.",
        ),
    ]  # fmt: skip


def _main_widgets() -> list:
    return [
        inp(
            io.String.Input, "motion", default="",
            tooltip="What the adapter does, in your words; Load Motion Adapter shows it. Empty = file_prefix.",
        ),
        inp(
            io.Int.Input, "steps", default=0, min=0, max=MAX_STEPS,
            tooltip="Training steps in all, those of a resumed run included. 0 = 240, for the built-in models.",
        ),
        inp(
            io.Float.Input, "learning_rate", default=0.0, min=0.0, max=1.0, step=1e-7, round=1e-7,
            tooltip="Size of the steps at their largest. 0 = 0.008, for the built-in models.",
        ),
        inp(
            io.Int.Input, "rank", default=0, min=0, max=1024,
            tooltip="Size of the adapter: how much it can hold. 0 = 11, for the built-in models.",
        ),
        inp(
            io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False,
            tooltip="Of everything drawn at random. Stays fixed: another one trains all over again.",
        ),
        inp(
            io.String.Input, "file_prefix", default="my_adapter",
            tooltip="Name of the saved files: output/motion_adapters/my_adapter_00001.safetensors.",
        ),
        inp(
            io.Combo.Input, "resume_from", options=[NEW, LATEST, *listed_states()], default=NEW,
            tooltip="new: a fresh run. latest: go on where the newest run of this file_prefix stopped. Or a state.",
        ),
        inp(
            io.Int.Input, "sample_every", default=0, min=0, max=MAX_STEPS, optional=True, advanced=True,
            tooltip="Steps between two samples shown in the node; 0 = only before and after the training.",
        ),
        inp(
            io.Int.Input, "save_every", default=100, min=0, max=MAX_STEPS, optional=True, advanced=True,
            tooltip="Steps between two saved states to resume from; 0 = only at the end or when stopped.",
        ),
    ]  # fmt: skip


def _advanced_widgets() -> list:
    more = {"optional": True, "advanced": True}
    return [
        inp(
            io.Int.Input, "batch_size", default=0, min=0, max=1024, **more,
            tooltip="Samples a step. More is steadier and takes more memory. 0 = 2, for the built-in models.",
        ),
        inp(
            io.Int.Input, "num_frames", default=0, min=0, max=1024, **more,
            tooltip="Frames of a training window; 0 = the model's own, 16 for the built-in ones.",
        ),
        inp(
            io.Int.Input, "stride_min", default=3, min=0, max=1000, **more,
            tooltip="Fewest frames of the clip from one frame of a window to the next; less where a clip is too short. "
            "3 at 24 frames a second keeps the speed that was filmed. 0 = the model's own.",
        ),
        inp(
            io.Int.Input, "stride_max", default=3, min=0, max=1000, **more,
            tooltip="Most frames of the clip from one frame of a window to the next; 0 = the model's own.",
        ),
        inp(
            io.Int.Input, "windows_per_clip", default=4, min=1, max=10000, **more,
            tooltip="Windows cut from each clip.",
        ),
        inp(
            io.Int.Input, "resolution", default=512, min=16, max=4096, step=8, **more,
            tooltip="Short side in px at which clips are encoded. The built-in model has its own size.",
        ),
        inp(
            io.Combo.Input, "precision", options=list(PRECISIONS), default="fp32", **more,
            tooltip="bf16 is faster and smaller on a GPU; weights and optimizer stay fp32.",
        ),
        inp(
            io.Boolean.Input, "gradient_checkpointing", default=False, **more,
            tooltip="Compute the blocks twice to need less memory.",
        ),
        inp(
            io.Float.Input, "shift", default=0.0, min=0.0, max=1000.0, step=0.01, **more,
            tooltip="Shift of the noise levels; 0 = that of the model (ModelSamplingSD3 included).",
        ),
        inp(
            io.Boolean.Input, "allow_changed_data", default=False, **more,
            tooltip="Resume although clips or settings differ from those of the saved state.",
        ),
        inp(
            io.String.Input, "more_settings", default="", multiline=True, **more,
            tooltip="Rare settings, one a line, such as: schedule = constant, sigma_sampling = logit_normal, "
            "top_noise_share = 0.1, ema_decay = 0.99, flow_weight = 10. A wrong name lists the known ones.",
        ),
    ]  # fmt: skip
