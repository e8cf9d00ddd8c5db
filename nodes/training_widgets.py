"""Widgets that both training nodes have, as they stand in both. Their order in a node is its own."""

from comfy_api.latest import io

from ..motion.choices import EXPERTS, WHOLE
from ..motion.limits import MAX_DATA_SEED
from .host.compat import inp
from .training_run.folders import LATEST, NEW, listed_states

MAX_STEPS = 1_000_000
PRECISIONS = ("fp32", "bf16")
MORE = {"optional": True, "advanced": True}


def resume_input():
    """Which state of an earlier run to go on from."""
    return inp(
        io.Combo.Input, "resume_from", options=[NEW, LATEST, *listed_states()], default=NEW,
        tooltip="new: a fresh run. latest: go on where the newest run of this file_prefix stopped. Or a state.",
    )  # fmt: skip


def every_inputs() -> list:
    """How often samples are shown and states saved."""
    return [
        inp(
            io.Int.Input, "sample_every", default=0, min=0, max=MAX_STEPS, **MORE,
            tooltip="Steps between two samples shown in the node; 0 = only before and after the training.",
        ),
        inp(
            io.Int.Input, "save_every", default=100, min=0, max=MAX_STEPS, **MORE,
            tooltip="Steps between two saved states to resume from; 0 = only at the end or when stopped.",
        ),
    ]  # fmt: skip


def window_inputs(stride_max: int) -> list:
    """How windows are cut from clips, from stride_max on; its default is the node's own."""
    return [
        inp(
            io.Int.Input, "stride_max", default=stride_max, min=0, max=1000, **MORE,
            tooltip="Most frames of the clip from one frame of a window to the next; 0 = the model's own.",
        ),
        inp(
            io.Int.Input, "windows_per_clip", default=4, min=1, max=10000, **MORE,
            tooltip="Windows cut from each clip.",
        ),
        inp(
            io.Int.Input, "resolution", default=512, min=16, max=4096, step=8, **MORE,
            tooltip="Short side in px at which clips are encoded. The built-in model has its own size.",
        ),
    ]  # fmt: skip


def preset_inputs(of: str) -> list:
    """Numbers that a preset has, 0, and the seed. of: whose size the rank is, such as "the LoRA"."""
    return [
        inp(
            io.Float.Input, "learning_rate", default=0.0, min=0.0, max=1.0, step=1e-7, round=1e-7,
            tooltip="Size of the steps at their largest; 0 = the preset's.",
        ),
        inp(io.Int.Input, "rank", default=0, min=0, max=1024, tooltip=f"Size of {of}; 0 = the preset's."),
        inp(
            io.Int.Input, "seed", default=0, min=0, max=MAX_DATA_SEED, control_after_generate=False,
            tooltip="Random seed. Changing it starts a new training run.",
        ),
    ]  # fmt: skip


def memory_inputs(of_presets: str = "") -> list:
    """What is computed in, and what is kept. of_presets: what some presets do whatever is asked."""
    return [
        inp(
            io.Combo.Input, "precision", options=list(PRECISIONS), default="fp32", **MORE,
            tooltip="bf16 is faster and smaller on a GPU; weights and optimizer stay fp32.",
        ),
        inp(
            io.Boolean.Input, "gradient_checkpointing", default=False, **MORE,
            tooltip="Compute the blocks twice to need less memory" + (f"; {of_presets}." if of_presets else "."),
        ),
    ]  # fmt: skip


def shift_input():
    """Shift of the noise levels."""
    return inp(
        io.Float.Input, "shift", default=0.0, min=0.0, max=1000.0, step=0.01, **MORE,
        tooltip="Shift of the noise levels; 0 = that of the model (ModelSamplingSD3 included).",
    )  # fmt: skip


def changed_data_input():
    """Whether a state of other clips may be resumed."""
    return inp(
        io.Boolean.Input, "allow_changed_data", default=False, **MORE,
        tooltip="Resume although clips or settings differ from those of the saved state.",
    )  # fmt: skip

def wan_inputs() -> list:
    """What Wan alone needs."""
    return [
        inp(
            io.ClipVision.Input, "clip_vision", optional=True,
            tooltip="Wan 2.1 image to video only: what it sees its start image through (clip_vision_h).",
        ),
        inp(
            io.Combo.Input, "expert", options=list(EXPERTS), default=WHOLE, optional=True, advanced=True,
            tooltip="Wan 2.2 has two models: train each in a run of its own, on its share of the noise levels. The "
            "files end in _high and _low. wan2.1: all noise levels, and all other models.",
        ),
    ]  # fmt: skip
