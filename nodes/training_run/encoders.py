"""VAE and CLIP of the host as the encoders that the library's data set calls."""

import json
import uuid
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from ...motion.data.clips import digest
from ...motion.data.encoders import start_beside
from ...motion.data.latent_dataset import Encoders, TextEntry
from ...motion.errors import ConfigError, ShapeError
from ...motion.models.latent_spaces import SPACES, LatentSpace
from ...motion.models.model_spec import ModelSpec
from ...motion.models.wan.config import IMAGE_WIDTH
from ...motion.models.wan.spec import WanSpec
from ..host import pixels
from ..text_encoders.motion_vocabulary import MotionTextModel
from ..text_encoders.prompts import refuse_unread
from ..vaes_on_socket.builtin import BuiltinVAE
from ..vaes_on_socket.recognise import space_of_vae
from .trainable_copy import worked_in

SAMPLED = 64  # values of each weight that go into a fingerprint


def video_encoders(vae, clip_vision=None) -> tuple[Encoders, LatentSpace]:
    """Encoders of clips for Wan or a linear video model, without words, and the latent space.

    Samples of Wan hold what models are shown beside. Raises ShapeError for a VAE of another latent space, ConfigError
    for a clip_vision that nothing reads.
    """
    found = space_of_vae(vae)
    space = found if found is not None and found.temporal_ratio == 1 else SPACES["wan21"]
    if space.kind == "wan21":
        check_vae(vae, WanSpec())
    elif clip_vision is not None:
        raise ConfigError("clip_vision is for image to video by Wan 2.1; leave it unconnected beside this VAE")

    def encode_frames(video: Tensor) -> Tensor:
        with torch.inference_mode():
            return _frame_latents(vae.encode(pixels.to_image(video)[0].contiguous()))

    def encode_text(caption: str) -> TextEntry:
        raise ConfigError("prompts of a motion clip come encoded")

    fingerprint = _vae_fingerprint(vae)
    if space.kind != "wan21":
        return Encoders(encode_frames, encode_text, fingerprint, space.multiple), space
    return _with_start(encode_frames, encode_text, fingerprint, space.multiple, clip_vision), space


def _with_start(encode_frames, encode_text, fingerprint: str, multiple: int, clip_vision) -> Encoders:
    """Encoders whose samples also hold what an image-to-video Wan is shown of the first frame."""
    beside = start_beside(encode_frames)
    if clip_vision is None:
        return Encoders(encode_frames, encode_text, fingerprint, multiple, beside)
    see, seen = picture_reader(clip_vision)
    return Encoders(
        encode_frames, encode_text, f"{fingerprint} {seen}", multiple,
        lambda video: {**beside(video), "image_tokens": see(video)},
    )  # fmt: skip


def picture_reader(clip_vision) -> tuple[Callable[[Tensor], Tensor], str]:
    """What CLIP vision says of a video's first frame, (n, 1280), and its fingerprint."""
    mark = _weights_fingerprint(getattr(clip_vision, "patcher", None), "clip vision")
    return lambda video: _image_tokens(clip_vision, video), mark


def host_encoders(vae, clip, spec: ModelSpec, captions: dict[str, str], clip_vision=None) -> Encoders:
    """Encoders of this VAE and CLIP, checked against the model. captions: caption -> name of a clip that has it.

    clip: None makes every prompt zeros, for what reads none. clip_vision: of models that read a start image through it.
    Raises ShapeError and ConfigError for a VAE or CLIP of another model.
    """
    check_vae(vae, spec)
    multiple = 1 if isinstance(vae, BuiltinVAE) else int(vae.spacial_compression_encode()) * spec.config.patch_size

    def encode_frames(video: Tensor) -> Tensor:
        """(1, 3, t, h, w) -> unscaled latents (1, c, t, h', w')."""
        with torch.inference_mode():
            return _frame_latents(vae.encode(pixels.to_image(video)[0].contiguous()))

    def encode_text(caption: str) -> TextEntry:
        if clip is None:
            return TextEntry(torch.zeros(1, spec.config.caption_channels))
        try:
            return text_entry(clip, caption, spec)
        except ConfigError as error:
            if caption not in captions:
                raise
            raise ConfigError(f"caption {caption[:80]!r} of clip {captions[caption]!r}: {error}") from error

    fingerprint = f"{_vae_fingerprint(vae)} {'no text' if clip is None else _clip_fingerprint(clip)}"
    if not getattr(spec.config, "concat_channels", 0):
        return Encoders(encode_frames, encode_text, fingerprint, multiple)
    return _with_start(encode_frames, encode_text, fingerprint, multiple, clip_vision)


def _image_tokens(clip_vision, video: Tensor) -> Tensor:
    """What CLIP vision says of a video's first frame, (n, 1280). Raises ShapeError for another width."""
    with torch.inference_mode():
        image = pixels.to_image(video[:, :, :1])[0].contiguous()
        tokens = clip_vision.encode_image(image).penultimate_hidden_states
    if tokens.shape[-1] != IMAGE_WIDTH:
        raise ShapeError(
            f"clip_vision gives tokens of width {tokens.shape[-1]}; Wan needs {IMAGE_WIDTH}: load clip_vision_h, which "
            "belongs to it"
        )
    return _own(tokens)[0]


def check_vae(vae, spec: ModelSpec) -> None:
    """Refuse a VAE of another latent space. Raises ShapeError."""
    need = spec.space
    if isinstance(vae, BuiltinVAE) != (need.kind == "builtin"):
        have = "the built-in VAE" if isinstance(vae, BuiltinVAE) else "not the built-in VAE"
        raise ShapeError(
            f"vae is {have}, the model works in the {need.kind} latent space; connect the vae that belongs to the "
            "model" + (" (output vae of Load Built-in Motion Model)" if need.kind == "builtin" else "")
        )
    if need.kind == "builtin":
        return
    space, wanted = space_of_vae(vae), SPACES[need.kind]
    channels, ratio = getattr(vae, "latent_channels", need.channels), int(vae.spacial_compression_encode())
    if (channels, ratio) != (need.channels, need.spatial_ratio) or (space is not None and space != wanted):
        have = "" if space is None else f", as {space.title} does"
        raise ShapeError(
            f"vae makes {channels} channels of 1/{ratio} the size{have}; the model needs {need.channels} of "
            f"1/{need.spatial_ratio} (the {need.kind} latent space, {wanted.title}); connect the VAE that belongs to it"
            f"{wanted.where}"
        )


def text_entry(clip, caption: str, spec: ModelSpec) -> TextEntry:
    """One prompt, encoded as CLIP Text Encode does.

    Raises ShapeError for the text encoder of another model, ConfigError for a prompt that it cannot read.
    """
    with torch.inference_mode():
        out = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True, return_dict=True)
    refuse_unread([out])
    context, pooled, mask = out["cond"], out.get("pooled_output"), out.get("attention_mask")
    need = spec.config.caption_channels
    if context.ndim != 3 or context.shape[0] != 1 or context.shape[-1] != need:
        raise ShapeError(
            f"clip gives text of {tuple(context.shape)}; the model needs (1, n, {need}); connect the CLIP that belongs "
            "to the model"
        )
    if getattr(spec.config, "pooled_text_embedding", False) and (pooled is None or pooled.shape[-1] != need):
        raise ShapeError(f"clip gives no pooled text of width {need}, which the model needs; connect the CLIP of it")
    mask = None if mask is None else _own(mask).reshape(-1)
    return TextEntry(_own(context)[0], mask, None if pooled is None else _own(pooled)[0])


def text_parts(clip) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
    """Weights and metadata of a built-in text encoder for a model file; (None, {}) for other text encoders."""
    from ...motion.io.networks.file_motions import ENTRY

    model = getattr(clip, "cond_stage_model", None)
    if not isinstance(model, MotionTextModel):
        return None, {}
    weights = {name: _own(value) for name, value in model.encoder.state_dict().items()}
    return weights, {ENTRY: json.dumps(list(clip.tokenizer.vocabulary.words))}


def _own(tensor: Tensor) -> Tensor:
    """A float32 CPU copy that may be used outside inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32).clone()


def _frame_latents(latents: Tensor) -> Tensor:
    """Latents of a picture VAE (t, c, h, w) as a video (1, c, t, h, w); those of a video VAE as they are."""
    return rearrange(latents, "t c h w -> 1 c t h w") if latents.ndim == 4 else latents


def _vae_fingerprint(vae) -> str:
    if isinstance(vae, BuiltinVAE):
        return f"builtin {vae.codec.working_size}"
    return _weights_fingerprint(getattr(vae, "patcher", None), type(vae).__name__, getattr(vae, "vae_dtype", None))


def _clip_fingerprint(clip) -> str:
    from ..text_encoders.gemma import instruction_of, is_gemma

    instruction = (instruction_of(clip),) if is_gemma(clip) else ()
    return _weights_fingerprint(getattr(clip, "patcher", None), getattr(clip, "layer_idx", None), *instruction)


def _weights_fingerprint(patcher, *more) -> str:
    """A few values of every weight as they stand with its patches; never twice the same where they cannot be read."""
    if patcher is None:
        return uuid.uuid4().hex
    with torch.inference_mode(False), torch.no_grad():
        lines = [f"{key} {_some(key, chain)}" for key, chain in patcher.get_key_patches().items()]
    return digest(*map(str, more), *lines, length=16)


def _some(key: str, chain: list) -> str:
    """Type, shape and spread-out values of a weight; only a patched one is worked out whole."""
    weight = chain[0][0].detach() if len(chain) == 1 else worked_in(key, chain)
    flat = weight.reshape(-1)
    return f"{weight.dtype} {tuple(weight.shape)} {flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].float().tolist()}"
