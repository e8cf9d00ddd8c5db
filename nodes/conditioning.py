"""Nodes that turn a photo and prompts into what a motion model is conditioned on."""

import math

import torch
from comfy_api.latest import io, ui

from ..motion.errors import ConfigError, ShapeError
from . import _convert, _host
from ._compat import inp, out, schema, unique_id

CATEGORY = "MotionBlocks/conditioning"
MAX_FRAMES = 1024
MAX_BATCH = 64
MAX_BUCKET = 19
MAX_SIDE = 4096


def latent_frames(num_frames: int, stride: int) -> int:
    """Latent frames of a video VAE that takes stride·k + 1 frames. Raises ConfigError naming the nearest counts."""
    _host.in_range("num_frames", num_frames, 2, MAX_FRAMES)
    if (num_frames - 1) % stride:
        low = (num_frames - 1) // stride * stride + 1
        near = f"{low} or {low + stride}" if low > 1 else f"{low + stride}"
        raise ConfigError(f"num_frames is {num_frames}; this VAE needs {stride}k + 1; use {near}")
    return (num_frames - 1) // stride + 1


def check_multiple(width: int, height: int, multiple: int, what: str) -> None:
    """Refuse sides that a VAE would crop without a word. Raises ShapeError naming the two nearest sizes."""
    if width % multiple or height % multiple or not width or not height:
        smaller = [max(side // multiple, 1) * multiple for side in (width, height)]
        larger = [math.ceil(side / multiple) * multiple for side in (width, height)]
        raise ShapeError(
            f"{what} is {width}x{height} px; this VAE needs multiples of {multiple}; scale it to "
            f"{smaller[0]}x{smaller[1]} or {larger[0]}x{larger[1]} with the core node Upscale Image (ImageScale)"
        )


class ImageToVideo(io.ComfyNode):
    """Start photo, prompts and dynamics → conditioned prompts, start latent, and the VAE to decode with."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksImageToVideo",
            display_name="Image to Video",
            category=CATEGORY,
            description="Gives both prompts the start photo and the motion strength. Decode with this node's vae "
            "output: for the built-in model it plays the motion on the photo itself, at full resolution.",
            search_aliases=["i2v", "animate image", "start image", "dynamics", "motion bucket"],
            inputs=[
                inp(io.Conditioning.Input, "positive", tooltip="What should move, from CLIP Text Encode."),
                inp(io.Conditioning.Input, "negative", tooltip="What to avoid; without effect at cfg 1.0."),
                inp(io.Vae.Input, "vae", tooltip="The VAE that belongs to the model."),
                inp(
                    io.Image.Input, "start_image",
                    tooltip="One photo; it becomes frame 1. Grey and RGBA are converted (alpha over white). Sides up "
                    "to 4096 px. The built-in VAE takes any size; others need their own multiple.",
                ),
                inp(
                    io.Int.Input, "num_frames", default=16, min=2, max=MAX_FRAMES, step=1,
                    tooltip="Frames of the video, the photo included. The built-in model was trained on 16.",
                ),
                inp(
                    io.Int.Input, "dynamics", default=12, min=0, max=MAX_BUCKET, step=1,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much moves: 0 nearly nothing, 19 most (the model's motion bucket).",
                ),
                inp(
                    io.Int.Input, "batch_size", default=1, min=1, max=MAX_BATCH, step=1, optional=True,
                    tooltip="How many videos to make at once, each from its own noise.",
                ),
            ],
            outputs=[
                out(io.Conditioning, "positive", "Positive prompt with photo and dynamics."),
                out(io.Conditioning, "negative", "Negative prompt with photo and dynamics."),
                out(io.Latent, "latent", "The photo, still, in every frame: the start for KSampler and DCT Init."),
                out(io.Vae, "vae", "Decode with this one: it knows the photo."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, positive, negative, vae, start_image, num_frames=16, dynamics=12, batch_size=1
    ) -> io.NodeOutput:
        from node_helpers import conditioning_set_values

        _host.in_range("dynamics", dynamics, 0, MAX_BUCKET)
        _host.in_range("batch_size", batch_size, 1, MAX_BATCH)
        photo = _convert.start_photo(start_image)
        first, decoder, size, count = _encode(vae, photo, num_frames)
        told = {"first_latent": first, "motion_bucket_id": dynamics}
        positive, negative = (conditioning_set_values(prompt, told) for prompt in (positive, negative))
        latent = {"samples": first.repeat(batch_size, 1, count, 1, 1)}
        h, w = photo.shape[1:3]
        text = f"photo {w}x{h} px → video {size[0]}x{size[1]} px\n{num_frames} frames, dynamics {dynamics}"
        if size != (w, h):
            text += "\nodd sides grow by one pixel (encoders need even ones)"
        _host.show_text(text, unique_id(cls))
        return io.NodeOutput(positive, negative, latent, decoder, ui=ui.PreviewText(text))


def _encode(vae, photo: torch.Tensor, num_frames: int):
    """First latent (1, c, 1, h, w), VAE to decode with, video size (w, h), latent frame count."""
    from ..motion.models.flow_codec import check_photo_size
    from ._vae import BuiltinVAE, for_video

    h, w = photo.shape[1:3]
    check_photo_size(h, w)
    if isinstance(vae, BuiltinVAE):
        count = latent_frames(num_frames, 1)
        height, width = vae.video_size(h, w)
        return vae.encode(photo), vae.bound_to(photo[0].movedim(-1, 0).clone()), (width, height), count
    check_multiple(w, h, int(vae.spacial_compression_encode()), "start_image")
    count = latent_frames(num_frames, vae.temporal_compression_decode() or 1)
    first = vae.encode(photo)
    if first.ndim == 4:
        first = first.unsqueeze(2)
    if first.ndim != 5:
        raise ShapeError(f"this VAE gave a latent of {tuple(first.shape)}; a picture or video VAE is needed")
    return first[:, :, :1], for_video(vae), (w, h), count


class EmptyLatent(io.ComfyNode):
    """An empty video latent of the model's own latent space, for text-to-video models."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksEmptyLatent",
            display_name="Empty Motion Latent",
            category=CATEGORY,
            description="An empty video latent with the channels and cell size of a MotionBlocks model. To animate a "
            "photo use Image to Video instead.",
            search_aliases=["empty video latent", "t2v"],
            inputs=[
                inp(io.Model.Input, "model", tooltip="A model from a MotionBlocks loader."),
                inp(
                    io.Int.Input, "width", default=512, min=16, max=MAX_SIDE, step=16,
                    tooltip="Width in px, a multiple of the model's cell. The built-in model always works at 64 px.",
                ),
                inp(
                    io.Int.Input, "height", default=512, min=16, max=MAX_SIDE, step=16,
                    tooltip="Height in px, a multiple of the model's cell.",
                ),
                inp(io.Int.Input, "num_frames", default=16, min=1, max=MAX_FRAMES, tooltip="Frames of the video."),
                inp(io.Int.Input, "batch_size", default=1, min=1, max=MAX_BATCH, tooltip="How many videos at once."),
            ],
            outputs=[out(io.Latent, "latent", "Zeros of the right shape.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, width, height, num_frames, batch_size=1) -> io.NodeOutput:
        from ._model import spec_of

        for name, value, high in (("width", width, MAX_SIDE), ("height", height, MAX_SIDE)):
            _host.in_range(name, value, 1, high)
        _host.in_range("num_frames", num_frames, 1, MAX_FRAMES)
        _host.in_range("batch_size", batch_size, 1, MAX_BATCH)
        spec = spec_of(model)
        if spec is None:
            raise ConfigError(
                "this model is not a MotionBlocks model, so its latent space is not known here; use the core empty "
                "latent node that belongs to it"
            )
        ratio = spec.latent.spatial_ratio
        if spec.latent.working_size:
            width = height = spec.latent.working_size
        check_multiple(width, height, ratio * spec.config.patch_size, "the video")
        shape = (batch_size, spec.latent.channels, num_frames, height // ratio, width // ratio)
        return io.NodeOutput({"samples": torch.zeros(shape, device=_host.output_device())})
