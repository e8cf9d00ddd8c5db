"""Nodes that make a picture follow a sequence of poses, by FramePrompt."""

from comfy_api.latest import io

from ..motion.choices import SEQUENCE_ATTENTIONS, SEQUENCE_MODES, SEQUENCE_TIMESTEPS
from ..motion.errors import ConfigError
from .host import checks, devices, pixels, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/poses"
SEQUENCE = io.Custom("MOTIONBLOCKS_SEQUENCE")
IN_LATENT = "motionblocks_sequence"  # key of a LATENT; the host's nodes keep it
OWN = "as trained"  # a choice that leaves it to what the model says of itself
MAX_TILE = 4096


class PoseVideo(io.ComfyNode):
    """A reference and skeletons in front of what is sampled."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksPoseVideo",
            display_name="Pose Video",
            category=CATEGORY,
            description="Puts a picture and skeleton frames in front of the video that Wan makes, so that the "
            "picture's subject follows the poses (FramePrompt). Needs weights that were trained so: "
            "motionblocks-wan-pose on drawn puppets, or your own LoRA of Train Pose LoRA; nobody has published any "
            "for the large Wan. Any sampler, any scheduler; decode with Decode Pose Video.",
            search_aliases=["frameprompt", "pose to video", "follow poses", "openpose video"],
            inputs=[
                inp(
                    io.Model.Input, "model",
                    tooltip="Wan 2.1 or 2.2 image to video, or text to video as an experiment, with a pose LoRA; or "
                    "motionblocks-wan-pose. Wan 2.2: one Pose Video for each of the two experts.",
                ),
                inp(io.Vae.Input, "vae", tooltip="The VAE of the model: Wan 2.1's, or that of the small Wan."),
                inp(
                    io.Image.Input, "reference",
                    tooltip="One picture of who shall move. Sides are multiples of 16 px; its size is the video's.",
                ),
                inp(
                    io.Image.Input, "skeletons",
                    tooltip="A skeleton for each frame of the video, of the reference's size: from Draw Poses.",
                ),
                inp(io.Conditioning.Input, "positive", tooltip="What is seen; may be empty for the small Wan."),
                inp(io.Conditioning.Input, "negative", tooltip="What is not wanted; not used at cfg 1."),
                inp(
                    io.ClipVisionOutput.Input, "clip_vision_output", optional=True,
                    tooltip="Only for Wan 2.1 image to video: CLIP Vision Encode of the reference (clip_vision_h).",
                ),
                inp(
                    io.Combo.Input, "mode", options=[OWN, *SEQUENCE_MODES], default=OWN, optional=True, advanced=True,
                    tooltip="joint: one pass of the VAE over reference, poses and video, as in the paper. separate: a "
                    "pass for each. As trained: what the weights say, else joint.",
                ),
                inp(
                    io.Combo.Input, "timestep", options=[OWN, *SEQUENCE_TIMESTEPS], default=OWN, optional=True,
                    advanced=True,
                    tooltip="one: given frames are told the noise level of the others, as in the paper. clean: level "
                    "0. As trained: what the weights say, else one.",
                ),
                inp(
                    io.Combo.Input, "attention", options=[OWN, *SEQUENCE_ATTENTIONS], default=OWN, optional=True,
                    advanced=True,
                    tooltip="all: every frame looks at every other, as Wan does. segment: given frames look at one "
                    "another alone. As trained: what the weights say, else all.",
                ),
            ],
            outputs=[
                out(io.Model, "model", "The model with the sequence before its video, for the sampler."),
                out(io.Conditioning, "positive", "For the sampler."),
                out(io.Conditioning, "negative", "For the sampler."),
                out(io.Latent, "latent", "The empty latent of the video alone; denoise 1.0."),
                out(SEQUENCE, "sequence", "For Decode Pose Video."),
                out(io.String, "plan", "The sequence in words, and what does not fit the weights."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, vae, reference, skeletons, positive, negative, clip_vision_output=None, mode=OWN, timestep=OWN,
        attention=OWN,
    ) -> io.NodeOutput:  # fmt: skip
        import torch

        from ..motion.sequence.layout import SequenceLayout
        from .models.native_wan import native_wan
        from .models.pose_sequence import (
            PoseSequence,
            check_sizes,
            check_vision,
            chosen,
            encode,
            plan,
            too_long,
            trained_as,
        )
        from .models.prefix import SequencePrefix, put_before

        given = {name: _choice(name, value, known) for name, value, known in (
            ("mode", mode, SEQUENCE_MODES), ("timestep", timestep, SEQUENCE_TIMESTEPS),
            ("attention", attention, SEQUENCE_ATTENTIONS),
        )}  # fmt: skip
        wan = native_wan(model)
        check_vision(wan, clip_vision_output)
        photo, poses = pixels.start_photo(reference, "reference"), pixels.rgb_frames(skeletons, "skeletons")
        check_sizes(photo, poses)
        told, notes = chosen(trained_as(model), given)
        layout = SequenceLayout(len(poses), told.mode)
        text = "\n".join([*plan(wan, layout, told, photo.shape[2], photo.shape[1]), *too_long(model, layout), *notes])
        text_under(cls, text)
        latents = encode(vae, layout, photo, poses, with_grey=wan.starts_from_image)
        beside = {} if clip_vision_output is None else {"clip_vision_output": clip_vision_output}
        if wan.starts_from_image:
            shown = latents.shown[:, :, layout.given_latents :]
            beside |= {"concat_latent_image": shown, "concat_mask": shown.new_ones(1, 1, *shown.shape[2:])}
        positive, negative = (
            [[words, {**more, **beside}] for words, more in prompt] for prompt in (positive, negative)
        )
        prefix = SequencePrefix(layout, latents.given, told.clean_timestep, told.in_segments)
        sequence = PoseSequence(layout, latents.given)
        shape = (1, latents.given.shape[1], layout.target_latents, *latents.given.shape[3:])
        latent = {"samples": torch.zeros(shape, device=devices.output_device()), IN_LATENT: sequence}
        shown = text_under(cls, text)
        return io.NodeOutput(put_before(model, prefix), positive, negative, latent, sequence, shown.value, ui=shown)


class DecodePoseVideo(io.ComfyNode):
    """The frames that were made behind a reference and skeletons."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksDecodePoseVideo",
            display_name="Decode Pose Video",
            category=CATEGORY,
            description="Decodes what was sampled behind Pose Video: the sequence as a whole, of which the video's "
            "frames come out, as many as there are poses. VAE Decode alone would lose three frames and change the "
            "first ones.",
            search_aliases=["frameprompt decode", "vae decode poses"],
            inputs=[
                inp(io.Latent.Input, "samples", tooltip="LATENT of the sampler."),
                inp(io.Vae.Input, "vae", tooltip="The VAE that Pose Video had."),
                inp(
                    SEQUENCE.Input, "sequence", optional=True,
                    tooltip="From Pose Video. Not needed where the LATENT comes straight from its sampler, which "
                    "keeps it.",
                ),
                inp(
                    io.Int.Input, "tile_size", default=0, min=0, max=MAX_TILE, step=64, optional=True, advanced=True,
                    tooltip="Side in px of parts to decode one after the other where memory is short; 0 = whole "
                    "pictures. Time is never cut.",
                ),
            ],
            outputs=[out(io.Image, "images", "A frame for each pose.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, samples, vae, sequence=None, tile_size=0) -> io.NodeOutput:
        from .models.pose_sequence import PoseSequence, decode

        checks.in_range("tile_size", tile_size, 0, MAX_TILE)
        found = samples.get(IN_LATENT) if sequence is None else sequence
        if not isinstance(found, PoseSequence):
            what = "no sequence came with the LATENT" if found is None else f"sequence is {type(found).__name__}"
            raise ConfigError(f"{what}; connect the output sequence of Pose Video, which says what stands before it")
        tile = max(64, tile_size) if tile_size else 0
        return io.NodeOutput(decode(vae, found, samples["samples"], tile, progress.progress_step()))


def _choice(name: str, value: str, known: tuple[str, ...]) -> str | None:
    """A widget's word; None for what is left to the weights. Raises ConfigError."""
    found = checks.choose(name, value, (OWN, *known))
    return None if found == OWN else found
