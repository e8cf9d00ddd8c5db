"""Nodes that bring motion adapters into a graph, weigh them, and lay them on a model."""

from comfy_api.latest import io

from ..motion.choices import DELTA, FORMS
from ..motion.errors import ConfigError
from .host import checks, folders
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/adapters"
ADAPTERS = io.Custom("MOTIONBLOCKS_ADAPTERS")
CURVE = "Points such as 0:1, 0.5:0.3, joined by straight lines and multiplied by weight; empty = the same throughout."
folders.register_adapters_folder()


def _amounts(weight_tooltip: str) -> list:
    """The widgets of one adapter, and its mask."""
    return [
        inp(
            io.Float.Input, "weight", default=1.0, min=-4.0, max=4.0, step=0.05,
            tooltip=weight_tooltip,
        ),
        inp(
            io.String.Input, "step_curve", default="", optional=True,
            tooltip="How the weight goes over sampling, 0 = first step, 1 = last. " + CURVE,
        ),
        inp(
            io.String.Input, "frame_curve", default="", optional=True,
            tooltip="How the weight goes over the video, 0 = its beginning, 1 = its end: a motion can begin in the "
            "middle. " + CURVE,
        ),
        inp(
            io.Mask.Input, "mask", optional=True,
            tooltip="Where it acts, white: one picture of the photo's shape, or one for each frame of the video.",
        ),
    ]  # fmt: skip


class LoadAdapter(io.ComfyNode):
    """A motion adapter or a LoRA from its file, with its weight."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksLoadAdapter",
            display_name="Load Motion Adapter",
            category=CATEGORY,
            description="Loads a motion adapter made by Train Motion Adapter, or a LoRA, for Apply Motion Adapters; "
            "chain several through stack. Shows its motion, its base and the size it was trained at.",
            search_aliases=["miva", "motion lora", "adapter", "lora curve", "lora mask"],
            inputs=[
                inp(
                    io.Combo.Input, "adapter_name", options=folders.adapter_names(),
                    tooltip="One that comes with the pack, for motionblocks-tiny, or a .safetensors file in "
                    "models/motion_adapters or output/motion_adapters. After adding one, refresh the node definitions "
                    "(press R).",
                ),
                *_amounts("How much of it, 0 = none. Weights of all motion adapters that come to 1 are most stable."),
                inp(ADAPTERS.Input, "stack", optional=True, tooltip="Adapters that act together with this one."),
            ],
            outputs=[out(ADAPTERS, "adapters", "The stack, this adapter last.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, adapter_name):
        return folders.check_adapter_name(adapter_name)

    @classmethod
    def fingerprint_inputs(cls, adapter_name, weight=1.0, step_curve="", frame_curve="", mask=None, stack=None):
        try:
            stamp = folders.stamp(folders.adapter_path(adapter_name))
        except ValueError:
            stamp = ""
        return f"{adapter_name} {weight} {step_curve} {frame_curve} {stamp}"

    @classmethod
    def execute(
        cls, adapter_name, weight=1.0, step_curve="", frame_curve="", mask=None, stack=None
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.io.adapters.adapter_file import read_adapter
        from .models.listed_adapters import ListedAdapter, check_amounts, check_listed, describe

        check_amounts(weight, step_curve, frame_curve)
        before = check_listed("stack", stack)
        file = read_adapter(folders.adapter_path(adapter_name))
        made = ListedAdapter(file, float(weight), step_curve.strip(), frame_curve.strip(), mask)
        return io.NodeOutput((*before, made), ui=text_under(cls, f"{describe(file)}\n{made.how_much()}"))


class AddToStack(io.ComfyNode):
    """Adapters that are loaded already, with another weight, behind a stack."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksAddToStack",
            display_name="Add to Stack",
            category=CATEGORY,
            description="Puts adapters that are there already, such as those of Train Motion Adapter, behind a stack, "
            "with a weight, curves and a mask. Their files are not read again.",
            search_aliases=["adapter weight", "adapter mask", "miva"],
            inputs=[
                inp(ADAPTERS.Input, "adapters", tooltip="From Load Motion Adapter or Train Motion Adapter."),
                *_amounts("Multiplies the weight they have. A curve or mask given here takes the place of theirs."),
                inp(ADAPTERS.Input, "stack", optional=True, tooltip="Adapters that act together with these."),
            ],
            outputs=[out(ADAPTERS, "adapters", "The stack, these adapters last.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, adapters, weight=1.0, step_curve="", frame_curve="", mask=None, stack=None
    ) -> io.NodeOutput:  # fmt: skip
        from .models.listed_adapters import check_amounts, check_listed

        check_amounts(weight, step_curve, frame_curve)
        before = check_listed("stack", stack)
        changed = [item.changed(float(weight), step_curve, frame_curve, mask)
                   for item in check_listed("adapters", adapters)]  # fmt: skip
        return io.NodeOutput((*before, *changed), ui=text_under(cls, _amounts_of((*before, *changed))))


class CombineAdapters(io.ComfyNode):
    """Two stacks, one against the other."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksCombineAdapters",
            display_name="Combine Motion Adapters",
            category=CATEGORY,
            description="Joins two stacks so that all weights come to one sum, and moves intensity from one to the "
            "other by a single slider. For adapters on regions of their own chain them through stack instead.",
            search_aliases=["mix motions", "blend adapters", "balance"],
            inputs=[
                inp(ADAPTERS.Input, "first", tooltip="Its weights come to (1 - balance) · total."),
                inp(ADAPTERS.Input, "second", tooltip="Its weights come to balance · total."),
                inp(
                    io.Float.Input, "balance", default=0.5, min=0.0, max=1.0, step=0.01,
                    display_mode=io.NumberDisplay.slider, tooltip="0 = the first alone, 1 = the second alone.",
                ),
                inp(
                    io.Float.Input, "total", default=1.0, min=0.0, max=2.0, step=0.05, optional=True, advanced=True,
                    tooltip="What all weights come to; 1 is most stable.",
                ),
            ],
            outputs=[out(ADAPTERS, "adapters", "All of them, first to last.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, first, second, balance=0.5, total=1.0) -> io.NodeOutput:
        from .models.listed_adapters import check_listed, same_share

        checks.in_range("balance", balance, 0.0, 1.0)
        checks.in_range("total", total, 0.0, 2.0)
        shares = {"first": (first, (1 - balance) * total), "second": (second, balance * total)}
        made = tuple(item for name, (given, share) in shares.items()
                     for item in same_share(check_listed(name, given), share, name))  # fmt: skip
        return io.NodeOutput(made, ui=text_under(cls, _amounts_of(made)))


class ApplyAdapters(io.ComfyNode):
    """A stack of adapters on a model."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksApplyAdapters",
            display_name="Apply Motion Adapters",
            category=CATEGORY,
            description="Lays all adapters of a stack on a model, in place of those applied before. They act together "
            "in one call of the model. Another weight reloads nothing, and weight 0 is the model itself.",
            search_aliases=["miva", "apply lora", "stack adapters", "motion adapter"],
            inputs=[
                inp(
                    io.Model.Input, "model",
                    tooltip="The model that the adapters were trained for: a MotionBlocks model, or plain Wan. It "
                    "stays as it is.",
                ),
                inp(ADAPTERS.Input, "adapters", tooltip="From Load Motion Adapter, Add to Stack or the trainer."),
                inp(
                    io.Combo.Input, "form", options=list(FORMS), default=DELTA, optional=True,
                    tooltip="delta: where weights come to less than 1 the model's own way fills up, so 0 is the model "
                    "itself. paper: nothing fills up, and 0 is the model without its text. At a sum of 1 both agree.",
                ),
                inp(
                    io.Vae.Input, "vae", optional=True,
                    tooltip="Masked adapters on Wan only: the VAE of the model, which encodes first_frame_mask.",
                ),
                inp(
                    io.Mask.Input, "first_frame_mask", optional=True,
                    tooltip="Masked adapters on Wan only: where the subject is in the start image, white. The masks of "
                    "the other frames are made with the video.",
                ),
            ],
            outputs=[out(io.Model, "model", "For KSampler; cfg 1 is enough where the adapters replace the text.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model, adapters, form=DELTA, vae=None, first_frame_mask=None) -> io.NodeOutput:
        from .models.listed_adapters import check_listed, put_on
        from .models.native_wan_masks import FirstMask

        checks.choose("form", form, FORMS)
        first = None if vae is None or first_frame_mask is None else FirstMask(vae, first_frame_mask)
        made, text = put_on(model, check_listed("adapters", adapters), form, first)
        return io.NodeOutput(made, ui=text_under(cls, text))


def _amounts_of(listed) -> str:
    """A line for each adapter."""
    if not listed:
        raise ConfigError("the stack is empty; connect the output adapters of Load Motion Adapter")
    return "\n".join(f"{item.name}: {item.how_much()}" for item in listed)
