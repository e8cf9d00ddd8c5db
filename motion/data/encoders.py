"""What turns pictures and captions into a model's input, as the data set needs it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .clips import digest


@dataclass(frozen=True)
class TextEntry:
    """One encoded caption."""

    context: Tensor  # (m, d)
    attention_mask: Tensor | None = None  # (m,), 1 where a key counts
    pooled: Tensor | None = None  # (d,)


@dataclass(frozen=True)
class Encoders:
    """What turns pictures and captions into the model's input. Nothing here is trained."""

    encode_frames: Callable[[Tensor], Tensor]  # (1, 3, t, h, w) in [0, 1] -> unscaled latents (1, c, t, h', w')
    encode_text: Callable[[str], TextEntry]
    fingerprint: str  # of VAE, text encoder and number type
    spatial_multiple: int = 1  # frames are cropped to a multiple of this many px


def builtin_encoders(model) -> Encoders:
    """The codec and text encoder of a built-in model (`motion.builtin_model.BuiltinModel`)."""
    weights = [f"{name} {_tensor_digest(value)}" for name, value in sorted(model.text_encoder.state_dict().items())]
    place = next(model.text_encoder.parameters()).device

    def encode_text(caption: str) -> TextEntry:
        ids = torch.tensor([model.vocabulary.tokenize(caption)], device=place)
        context, pooled, mask = (part[0].cpu() for part in model.text_encoder(ids))
        return TextEntry(context, mask, pooled)

    made_of = digest("builtin", str(model.codec.working_size), *model.vocabulary.words, *weights)
    return Encoders(model.codec.encode, encode_text, made_of)


def _tensor_digest(tensor: Tensor) -> str:
    raw = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return digest(f"{tuple(tensor.shape)} {tensor.dtype}", raw.numpy().tobytes())
