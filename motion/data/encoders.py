"""What turns pictures and captions into a model's input, as the data set needs it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..io.text_encoders.prompts_file import PromptsFile
from ..models.latent_spaces import SPACES
from ..models.model_spec import ModelSpec
from ..models.wan.start_video import concat_latents, start_video
from ..models.wan.vae import WanVAE
from .clips import digest


@dataclass(frozen=True)
class TextEntry:
    """One encoded caption."""

    context: Tensor  # (m, d)
    attention_mask: Tensor | None = None  # (m,), 1 where a key counts
    pooled: Tensor | None = None  # (d,)

    @property
    def fingerprint(self) -> str:
        """Changes with every number."""
        return digest(*(f"{name} {digest_bits(value)}" for name, value in vars(self).items() if value is not None))


@dataclass(frozen=True)
class Encoders:
    """What turns pictures and captions into the model's input. Nothing here is trained."""

    encode_frames: Callable[[Tensor], Tensor]  # (1, 3, t, h, w) in [0, 1] -> unscaled latents (1, c, t, h', w')
    encode_text: Callable[[str], TextEntry]
    fingerprint: str  # of VAE, text encoder and number type; where captions have one of their own, of the VAE alone
    spatial_multiple: int = 1  # frames are cropped to a multiple of this many px
    # What a sample holds beside its latents, by name, float32, from the frames that encode_frames gets.
    encode_beside: Callable[[Tensor], dict[str, Tensor]] | None = None
    text_fingerprint: str = ""  # of what encode_text gives, so that other captions leave encoded clips as they are
    # Samples also hold "mask_latents" (c, t, h, w), unscaled, of the clips' masks as grey videos, and "mask_scores"
    # (t, rows, columns) of tokens that are so many px a side; 0: nothing of masks.
    mask_cell: int = 0


def digest_bits(value: Tensor) -> str:
    """A fingerprint of a tensor's shape and of every bit of it in float32."""
    raw = value.detach().to("cpu", torch.float32).contiguous()
    return digest(str(tuple(raw.shape)), raw.numpy().tobytes())


def builtin_encoders(model) -> Encoders:
    """The codec and text encoder of a built-in model (`motion.builtin_model.BuiltinModel`)."""
    place = next(model.text_encoder.parameters()).device

    def encode_text(caption: str) -> TextEntry:
        ids = torch.tensor([model.vocabulary.tokenize(caption)], device=place)
        context, pooled, mask = (part[0].cpu() for part in model.text_encoder(ids))
        return TextEntry(context, mask, pooled)

    made_of = digest("builtin", str(model.codec.working_size), *model.vocabulary.words, *_weights(model.text_encoder))
    return Encoders(model.codec.encode, encode_text, made_of)


def wan_encoders(
    vae: WanVAE, encode_text: Callable[[str], TextEntry], text_fingerprint: str, *, with_start: bool = False
) -> Encoders:
    """The Wan 2.1 VAE with whatever encodes captions. Clips have 4k + 1 frames, and sides that are cropped to 16 px.

    text_fingerprint: changes with what encode_text gives. The VAE is fingerprinted by every bit of its weights.
    with_start: samples also hold "concat_latents", for variants that read a start video: see `start_beside`.
    """

    def encode_frames(video: Tensor) -> Tensor:
        return vae.encode(video * 2 - 1)

    made_of = digest("wan21", *_weights(vae))
    beside = start_beside(encode_frames) if with_start else None
    return Encoders(encode_frames, encode_text, made_of, SPACES["wan21"].multiple, beside, text_fingerprint)


def start_beside(encode_frames: Callable[[Tensor], Tensor]) -> Callable[[Tensor], dict[str, Tensor]]:
    """For `Encoders.encode_beside`: "concat_latents" (20, t, h, w), each clip's first frame as its start image.

    encode_frames: of the Wan 2.1 VAE, as in `Encoders`.
    """

    def encode(video: Tensor) -> dict[str, Tensor]:
        start = encode_frames(start_video(video[:, :, :1], video.shape[2]))
        return {"concat_latents": concat_latents(SPACES["wan21"].scaled(start.float()))[0]}

    return encode


def mask_cell(spec: ModelSpec) -> int:
    """Side of a token of this model in px, for `Encoders.mask_cell`."""
    return spec.space.spatial_ratio * spec.config.patch_size


def saved_texts(file: PromptsFile, captions: Iterable[str]) -> tuple[Callable[[str], TextEntry], str]:
    """What finds these captions and the empty one in a prompts file, and their fingerprint.

    Zeros that the text encoder padded with are left out. Raises CheckpointError for values that are not finite.
    """
    found = file.read(sorted({"", *captions}))
    entries = {text: TextEntry(prompt.context, prompt.attention_mask, prompt.pooled) for text, prompt in found.items()}
    parts = [f"{text!r} {[None if part is None else _tensor_digest(part) for part in vars(entry).values()]}"
             for text, entry in entries.items()]  # fmt: skip
    return entries.__getitem__, digest("prompts", file.encoder, *parts)


def _weights(module: nn.Module) -> list[str]:
    """A line for each weight that changes with every bit of it."""
    return [f"{name} {_tensor_digest(value)}" for name, value in sorted(module.state_dict().items())]


def _tensor_digest(tensor: Tensor) -> str:
    raw = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return digest(f"{tuple(tensor.shape)} {tensor.dtype}", raw.numpy().tobytes())
