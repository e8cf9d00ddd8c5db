"""Nodes that turn a photo and prompts into what a motion model is conditioned on."""

import torch
from comfy_api.latest import io

from ..motion.choices import CROP, EDGES, GO_ON, LONGER, MIRROR, SAME_MOVE
from ..motion.errors import ConfigError, ShapeError
from ..motion.limits import MAX_DYNAMICS, MAX_SIDE
from ..motion.models.latent_spaces import MAX_FRAMES, check_multiple, latent_frames
from .host import checks, conditions, devices, page, pixels
from .host.compat import inp, out, schema, unique_id
from .host.text_under import text_under
from .text_encoders.prompts import refuse_unread

CATEGORY = "MotionBlocks/conditioning"
DEFAULT_FPS = 8.0
FIRST_EDITION = "as in 0.1"  # edges of prompts that name none: their frames keep their bits
MAX_BATCH = 64


class ImageToVideo(io.ComfyNode):
    """Start photo, prompts and dynamics → conditioned prompts, start latent, and the VAE to decode with."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksImageToVideo",
            display_name="Photo to Video (MotionBlocks)",
            category=CATEGORY,
            description="Gives both prompts the start photo and the motion strength. Decode with this node's vae "
            "output: for the built-in model it plays the motion on the photo itself, at full resolution. For "
            "SANA-Video the motion strength is part of the prompt: Encode Prompts (Motion) writes it.",
            search_aliases=[
                "animate", "animate photo", "image to video", "i2v", "zoom", "pan", "camera", "camera move", "swing",
                "ken burns", "motion brush", "parallax", "start image", "dynamics", "motion bucket", "sana-video",
            ],
            inputs=[
                inp(
                    io.Conditioning.Input, "positive",
                    tooltip="What should move, from CLIP Text Encode or Encode Prompts (Motion).",
                ),
                inp(io.Conditioning.Input, "negative", tooltip="What to avoid; without effect at cfg 1.0."),
                inp(io.Vae.Input, "vae", tooltip="The VAE that belongs to the model; its loader names it."),
                inp(
                    io.Image.Input, "start_image",
                    tooltip="One photo; it becomes frame 1. Grey and RGBA are converted (alpha over white). Sides up "
                    "to 4096 px. The built-in VAE takes any size; Wan 2.1 needs multiples of 16 px, DC-AE and LTX-2 of "
                    "32 px.",
                ),
                inp(
                    io.Int.Input, "num_frames", default=16, min=2, max=MAX_FRAMES, step=1,
                    tooltip="Frames of the video, the photo included. The built-in model was trained on 16; SANA-Video "
                    "on 81 (Wan 2.1 needs 4k+1, LTX-2 8k+1).",
                ),
                inp(
                    io.Int.Input, "dynamics", default=12, min=0, max=MAX_DYNAMICS, step=1,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much moves: 0 nearly nothing, 19 most (the model's motion bucket). SANA-Video "
                    "reads it from the prompt alone: set it in Encode Prompts (Motion).",
                ),
                inp(
                    io.Int.Input, "batch_size", default=1, min=1, max=MAX_BATCH, step=1, optional=True,
                    tooltip="How many videos to make at once, each from its own noise.",
                ),
                inp(
                    io.Combo.Input, "longer", options=list(LONGER), default=SAME_MOVE, optional=True,
                    tooltip="What a clip of more frames than the model was trained on (16 for the built-in ones) does. "
                    "same move: goes as far, slower. go on: moves on, which only pans survive. back and forth: there "
                    "and back again. Without effect on SANA-Video.",
                ),
                inp(
                    io.Combo.Input, "edges", options=[*EDGES, FIRST_EDITION], default=CROP, optional=True,
                    tooltip="Built-in models: what is shown where a frame looks beyond the photo. crop: the part of "
                    "the photo that no frame leaves, enlarged at most 1.35 times, so frame 1 may be a part of the "
                    "photo. mirror: all of the photo, and a mirror image beyond its edges. as in 0.1: mirrored, and a "
                    "little softer; graphs saved with 0.1 keep it.",
                ),
                inp(
                    io.Float.Input, "fps", default=DEFAULT_FPS, min=1.0, max=120.0, step=1.0, optional=True,
                    tooltip="Frames per second, handed on by the output fps: connect it to Create Video, whose own 30 "
                    "would make 16 frames last half a second.",
                ),
                inp(
                    io.Mask.Input, "region", optional=True,
                    tooltip="Built-in models: what may move, white; motion fades in from its rim. Draw it in the mask "
                    "editor of Load Image. Nothing connected: everything may move.",
                ),
                inp(
                    io.ClipVisionOutput.Input, "clip_vision_output", optional=True,
                    tooltip="Wan 2.1 image to video: the photo through CLIP Vision Encode. Wan 2.2 does without.",
                ),
            ],
            outputs=[
                out(io.Conditioning, "positive", "Positive prompt with photo and dynamics."),
                out(io.Conditioning, "negative", "Negative prompt with photo and dynamics."),
                out(io.Latent, "latent", "The photo, still, in every frame: the start for KSampler and DCT Init."),
                out(io.Vae, "vae", "Decode with this one: it knows the photo."),
                out(io.Float, "fps", "Frames per second, for Create Video."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, positive, negative, vae, start_image, num_frames=16, dynamics=12, batch_size=1, longer=GO_ON,
        edges=FIRST_EDITION, fps=DEFAULT_FPS, region=None, clip_vision_output=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.scene_model import DRAWINGS_ONLY
        from ..motion.text.safe_words import safe_bucket, safety_notes
        from .text_encoders.motion_vocabulary import names_no_motion, words_of
        from .vaes_on_socket.small import SmallMotionVAE

        refuse_unread(part for _, part in positive)
        checks.in_range("dynamics", dynamics, 0, MAX_DYNAMICS)
        checks.in_range("batch_size", batch_size, 1, MAX_BATCH)
        checks.in_range("fps", fps, 1.0, 120.0)
        checks.choose("longer", longer, LONGER)
        checks.choose("edges", edges, (*EDGES, FIRST_EDITION))
        photo = pixels.start_photo(start_image)
        first, decoder, size, count, space = _encode(vae, photo, num_frames)
        words = words_of(positive) if edges != FIRST_EDITION else ()
        positive, negative = (
            conditions.tell(
                prompt, first_latent=first, first_latent_space=space and space.kind,
                motion_bucket_id=safe_bucket(words, dynamics), longer=longer if longer != GO_ON else None,
            )
            for prompt in (positive, negative)
        )  # fmt: skip
        for_wan = _seen_by_wan(vae, photo, num_frames, space, positive, clip_vision_output)
        positive, negative = ([[text, {**part, **for_wan}] for text, part in prompt] for prompt in (positive, negative))
        latent = {"samples": first.repeat(batch_size, 1, count, 1, 1)}
        h, w = photo.shape[1:3]
        text = f"photo {w}x{h} px → video {size[0]}x{size[1]} px\n{num_frames} frames, dynamics {dynamics}"
        if space is not None and space.kind != "builtin":
            text += f"\n{space.title}: {count} latent frames of {first.shape[-1]}x{first.shape[-2]}"
        if size != (w, h):
            text += "\nodd sides grow by one pixel (encoders need even ones)"
        if space is not None and space.kind == "builtin" and names_no_motion(positive):
            text += "\nno motion is named, so hardly anything will move; write one, such as zoom in, into positive"
        if isinstance(vae, SmallMotionVAE):
            text += f"\n{DRAWINGS_ONLY}"
        text = "\n".join((text, *safety_notes(words, dynamics)))
        decoder = _with_look(decoder, photo, edges, region, words, text, unique_id(cls))
        return io.NodeOutput(positive, negative, latent, decoder, float(fps), ui=text_under(cls, text))


def _with_look(decoder, photo: torch.Tensor, edges: str, region, words: tuple[str, ...], text: str, node_id):
    """The VAE to decode with, which also knows what to show at the edges and what may move, and tells it.

    words: the motions asked for. text: what stands under the node already.

    Raises ConfigError and ShapeError for a region that cannot be.
    """
    from .vaes_on_socket.builtin import BuiltinVAE

    if not isinstance(decoder, BuiltinVAE):
        if region is not None:
            raise ConfigError("region works with the built-in models only; disconnect it")
        return decoder
    mask = None if region is None else pixels.region_mask(region, *photo.shape[1:3])
    if edges == FIRST_EDITION:
        edges = None if mask is None else MIRROR

    def tell(notes: list[str]) -> None:
        page.show_text(page.page_text("\n".join((text, *notes))), node_id)

    return decoder.looking(edges, mask, words, tell)


def _encode(vae, photo: torch.Tensor, num_frames: int):
    """First latent (1, c, 1, h, w), VAE to decode with, video size (w, h), latent frame count, latent space or None."""
    from ..motion.models.heads.flow_codec import check_photo_size
    from .vaes_on_socket.builtin import BuiltinVAE, for_video
    from .vaes_on_socket.recognise import space_of_vae

    h, w = photo.shape[1:3]
    check_photo_size(h, w)
    checks.in_range("num_frames", num_frames, 2, MAX_FRAMES)
    space = space_of_vae(vae)
    if isinstance(vae, BuiltinVAE):
        height, width = vae.video_size(h, w)
        bound = vae.bound_to(photo[0].movedim(-1, 0).clone())
        return vae.encode(photo), bound, (width, height), num_frames, space
    if space is None:
        check_multiple(w, h, int(vae.spacial_compression_encode()), "start_image")
        count = latent_frames(num_frames, vae.temporal_compression_decode() or 1)
    else:
        space.check_size(w, h, "start_image")
        count = space.latent_frames(num_frames)
    first = vae.encode(photo)
    if first.ndim == 4:
        first = first.unsqueeze(2)
    if first.ndim != 5:
        raise ShapeError(f"this VAE gave a latent of {tuple(first.shape)}; a picture or video VAE is needed")
    return first[:, :, :1], for_video(vae), (w, h), count, space


def _seen_by_wan(vae, photo: torch.Tensor, num_frames: int, space, prompt: list, clip_vision_output) -> dict:
    """What the host's own Wan reads of a start image, under the host's keys, as its WanImageToVideo makes it.

    {} for other spaces, and where the prompt is SANA-Video's, whose models share the VAE and read none of it.
    """
    from ..motion.models.sana_video.config import SanaVideoConfig
    from ..motion.models.wan.start_video import start_video

    if space is None or space.kind != "wan21" or prompt[0][0].shape[-1] == SanaVideoConfig().caption_channels:
        return {}
    video = start_video(photo.movedim(-1, 1).unsqueeze(2), num_frames)[0].movedim(0, -1)
    encoded = vae.encode(video.contiguous())
    mask = encoded.new_ones(1, 1, *encoded.shape[2:])
    mask[:, :, 0] = 0
    seen = {"concat_latent_image": encoded, "concat_mask": mask}
    return seen if clip_vision_output is None else {**seen, "clip_vision_output": clip_vision_output}


class EmptyLatent(io.ComfyNode):
    """An empty video latent of the model's own latent space, for text-to-video models."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksEmptyLatent",
            display_name="Empty Motion Latent",
            category=CATEGORY,
            description="An empty video latent with the channels and cell size of a MotionBlocks model, or of Wan. To "
            "animate a photo use Photo to Video instead.",
            search_aliases=["empty video latent", "t2v", "sana-video", "wan"],
            inputs=[
                inp(
                    io.Model.Input, "model",
                    tooltip="A model from a MotionBlocks loader, or Wan 2.1 or 2.2 A14B from Load Diffusion Model.",
                ),
                inp(
                    io.Int.Input, "width", default=512, min=16, max=MAX_SIDE, step=16,
                    tooltip="Width in px, a multiple of the model's cell. The built-in model always works at 64 px.",
                ),
                inp(
                    io.Int.Input, "height", default=512, min=16, max=MAX_SIDE, step=16,
                    tooltip="Height in px, a multiple of the model's cell.",
                ),
                inp(
                    io.Int.Input, "num_frames", default=16, min=1, max=MAX_FRAMES,
                    tooltip="Frames of the video. SANA-Video: 4k+1 at 480p, 8k+1 at 720p; Wan 4k+1. Both were trained "
                    "on 81.",
                ),
                inp(io.Int.Input, "batch_size", default=1, min=1, max=MAX_BATCH, tooltip="How many videos at once."),
            ],
            outputs=[out(io.Latent, "latent", "Zeros of the right shape.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, width, height, num_frames, batch_size=1) -> io.NodeOutput:
        from .models.base import spec_of
        from .models.native_wan import find_native_wan

        for name, value, high in (("width", width, MAX_SIDE), ("height", height, MAX_SIDE)):
            checks.in_range(name, value, 1, high)
        checks.in_range("num_frames", num_frames, 1, MAX_FRAMES)
        checks.in_range("batch_size", batch_size, 1, MAX_BATCH)
        spec = spec_of(model) or find_native_wan(model)
        if spec is None:
            raise ConfigError(
                "this model is neither a MotionBlocks model nor plain Wan, so its latent space is not known here; use "
                "the core empty latent node that belongs to it"
            )
        space, side = spec.space, getattr(spec, "working_size", None)
        if side:
            width = height = side
        space.check_size(width, height, "the video")
        cells = (height // space.spatial_ratio, width // space.spatial_ratio)
        shape = (batch_size, space.channels, space.latent_frames(num_frames), *cells)
        return io.NodeOutput({"samples": torch.zeros(shape, device=devices.output_device())})
