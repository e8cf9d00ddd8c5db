"""A node that says where the frames of a video stand in time for Wan."""

from comfy_api.latest import io

from ..motion.choices import PLACES
from .host import checks
from .host.compat import inp, out, schema

FACTOR = "factor"
MODES = (FACTOR, *PLACES)
MAX_FRAMES = 1001
LEAST, MOST = 0.05, 20.0


class RopeTimeScale(io.ComfyNode):
    """Places of latent frames on Wan's axis of time."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksRopeTimeScale",
            display_name="Rope Time Scale",
            category="MotionBlocks/motion transfer",
            description="Says where the frames of a video stand in time for Wan, which otherwise takes them one after "
            "the other: a few frames of a longer clip, as Train Motion LoRA sees them, or all of them nearer or "
            "farther apart. Only for sampling; nothing in the weights changes.",
            search_aliases=["follow your motion", "adaptive rope", "rope scale", "rotary", "frame positions"],
            inputs=[
                inp(io.Model.Input, "model", tooltip="Wan 2.1, an expert of Wan 2.2, or the small Wan."),
                inp(
                    io.Combo.Input, "mode", options=list(MODES), default=FACTOR,
                    tooltip="factor: frame n stands at n times factor. The others are those of Train Motion LoRA, for "
                    "frames of a clip of num_frames. stride: where they were. paper: its formula to the letter. "
                    "center: the middle of what each latent frame covers. off: as Wan has it.",
                ),
                inp(
                    io.Float.Input, "factor", default=1.0, min=LEAST, max=MOST, step=0.01,
                    tooltip="How many times as far apart frames stand, with mode factor. 1 = as Wan has it; above "
                    "1 more happens between frames, below 1 less. Far from 1 pictures fall apart.",
                ),
                inp(
                    io.Int.Input, "num_frames", default=81, min=5, max=MAX_FRAMES, step=4,
                    tooltip="Frames of the whole clip that those of the video are spread over, 4k + 1, with the other "
                    "modes: 81 where 17 are sampled.",
                ),
            ],
            outputs=[out(io.Model, "model", "The model, for the sampler. Another one behind it takes its place.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, mode=FACTOR, factor=1.0, num_frames=81) -> io.NodeOutput:
        from .models.native_wan import SPACE
        from .models.native_wan_places import at_places

        checks.choose("mode", mode, MODES)
        checks.in_range("factor", factor, LEAST, MOST)
        checks.in_range("num_frames", num_frames, 5, MAX_FRAMES)
        if mode not in (FACTOR, "off"):
            SPACE.latent_frames(num_frames)
        return io.NodeOutput(at_places(model, mode, int(num_frames), float(factor)))
