"""The node that trains a motion model, or a LoRA for one, on the user's own clips."""

from comfy_api.latest import io

from ..motion.limits import MAX_DATA_SEED
from .host.compat import inp, out, schema, unique_id
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
MODES = ("lora", "full")
SIGMAS = ("logit_normal", "uniform")
TARGETS = "attn1, attn_temporal, attn2, ff"


class TrainMotionModel(io.ComfyNode):
    """Clips in, trained MODEL out, in the same graph."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksTrainMotionModel",
            display_name="Train Motion Model",
            category=CATEGORY,
            description="Trains a LoRA for a MotionBlocks model or for Wan, or all weights of a MotionBlocks model, on "
            "your clips. The trained model comes out for use in the same graph; weights and states are saved, even if "
            "you cancel.",
            search_aliases=["train lora", "finetune", "motion lora", "trainer", "wan lora", "wan 2.2"],
            inputs=[*_sockets(), *_main_widgets(), *_advanced_widgets(), *wan_inputs()],
            outputs=[
                out(io.Model, "model", "The trained model, ready for KSampler."),
                out(io.LoraModel, "lora", "The LoRA, for the core nodes Save LoRA Weights and Load LoRA Model."),
                out(io.LossMap, "loss", "Loss of every step, for the core node Plot Loss Graph."),
                out(io.Image, "samples", "Strips of three sample frames: before training, in between, at the end."),
                out(io.String, "report", "Clips, samples, losses, times and paths as text."),
                out(io.String, "path", "Full path of the saved weights."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, clip, vae, clips, **settings) -> io.NodeOutput:
        from .training_run.outputs import node_output
        from .training_run.request import read_request
        from .training_run.run import train

        request = read_request(model, clip, vae, clips, settings)
        return node_output(cls, request, train(request, unique_id(cls)))


def _sockets() -> list:
    return [
        inp(
            io.Model.Input, "model",
            tooltip="The MotionBlocks model, or Wan from Load Diffusion Model, to start from. It stays as it is.",
        ),
        inp(io.Clip.Input, "clip", tooltip="The text encoder that belongs to the model; it is not trained."),
        inp(io.Vae.Input, "vae", tooltip="The VAE that belongs to the model; it is not trained."),
        inp(io.Custom("MOTION_CLIPS").Input, "clips", tooltip="From Load Clips or Generate Clips."),
        inp(
            io.Image.Input, "sample_photo", optional=True,
            tooltip="Photo that the samples start from; without it, the first frame of the first clip.",
        ),
    ]  # fmt: skip


def _main_widgets() -> list:
    return [
        inp(
            io.Combo.Input, "mode", options=list(MODES), default="lora",
            tooltip="lora: a small file beside the model. full: all weights, a new model file.",
        ),
        inp(
            io.Int.Input, "steps", default=200, min=1, max=MAX_STEPS,
            tooltip="Training steps in all, those of a resumed run included.",
        ),
        inp(
            io.Int.Input, "batch_size", default=1, min=1, max=1024, advanced=True,
            tooltip="Samples a step. More is steadier and takes more memory.",
        ),
        inp(
            io.Float.Input, "learning_rate", default=1e-4, min=1e-7, max=1.0, step=1e-7, round=1e-7,
            tooltip="Size of the steps at their largest. Higher learns faster, and forgets or breaks sooner.",
        ),
        inp(
            io.Int.Input, "rank", default=16, min=1, max=1024,
            tooltip="Size of the LoRA: how much it can hold. Without effect in full.",
        ),
        inp(
            io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False,
            tooltip="Of everything drawn at random. Stays fixed: another one trains all over again.",
        ),
        inp(
            io.String.Input, "file_prefix", default="my_motion",
            tooltip="Name of the saved files: output/loras/my_motion_00001.safetensors (full: diffusion_models).",
        ),
        resume_input(),
        inp(
            io.String.Input, "sample_text", default="", optional=True,
            tooltip="Prompt of the samples; empty = the caption of the first clip.",
        ),
        *every_inputs(),
    ]  # fmt: skip


def _advanced_widgets() -> list:
    return [
        inp(
            io.Int.Input, "num_frames", default=16, min=0, max=1024, **MORE,
            tooltip="Frames of a training window; 0 = the model's own. The built-in model knows 16.",
        ),
        inp(
            io.Int.Input, "stride_min", default=3, min=0, max=1000, **MORE,
            tooltip="Fewest frames of the clip from one frame of a window to the next; less where a clip is too short. "
            "0 = the model's own.",
        ),
        *window_inputs(10),
        inp(
            io.String.Input, "targets", default=TARGETS, **MORE,
            tooltip="Layers that get a LoRA: parts of their names, with commas. attn_temporal alone = timing "
            "only. Empty = the model's own.",
        ),
        inp(
            io.Float.Input, "caption_dropout", default=0.1, min=0.0, max=1.0, step=0.01, **MORE,
            tooltip="Share of samples trained without their caption.",
        ),
        inp(
            io.Float.Input, "ema_decay", default=0.0, min=0.0, max=0.99999, step=0.0001, round=0.00001, **MORE,
            tooltip="Save a running average of the weights: 0 = off, 0.99 over about 100 steps.",
        ),
        *memory_inputs(),
        inp(
            io.Combo.Input, "sigma_sampling", options=list(SIGMAS), default="logit_normal", **MORE,
            tooltip="How noise levels are drawn: most in the middle, or evenly.",
        ),
        shift_input(),
        changed_data_input(),
        inp(
            io.String.Input, "more_settings", default="", multiline=True, **MORE,
            tooltip="Rare settings, one a line, such as: schedule = constant, optimizer = muon, "
            "gradient_accumulation = 4, alpha = 8, flow_weight = 10. A wrong name lists the known ones.",
        ),
    ]  # fmt: skip
