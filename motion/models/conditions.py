"""What networks are told about samples besides latents and noise level, and how rows of it are repeated and joined."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..errors import ShapeError
from ..layers.frame_curve import FrameCurve, frame_curve
from .subject_masks import SubjectMasks

TEXT = ("context", "attention_mask", "pooled")


@dataclass(frozen=True, eq=False)
class Conditions:
    """One batch's conditions. A network reads those it knows; None is what nobody said.

    A row is a sample. A single row may stand for all of them until `for_rows`; networks want a row each.
    """

    context: Tensor  # (b or 1, n, caption_channels): the encoded prompt
    attention_mask: Tensor | None = None  # (b or 1, n), 1 = real token
    pooled: Tensor | None = None  # (b or 1, caption_channels)
    motion_bucket_id: Tensor | None = None  # (b or 1,) long, larger = more motion
    first_latent: Tensor | None = None  # (b or 1, c, 1 or t, h, w), scaled; frame 0 counts: the start image
    frame_indices: Tensor | None = None  # (t,) or (b, t), may be fractional; None: 0..t-1
    detail_indices: Tensor | None = None  # the same for detail, whole numbers; None: frame_indices
    curve: FrameCurve | None = None  # what a flow head sees of frames between whole places
    concat_latents: Tensor | None = None  # (b or 1, c, t, h, w): beside the latents, a start video: its mask, then it
    image_tokens: Tensor | None = None  # (b or 1, n, d): CLIP vision tokens of the start image
    masks: SubjectMasks | None = None  # of the subject, for adapters that know it

    def check(self, name: str) -> "Conditions":
        """Return the record. name: what messages call the prompt. Raises ShapeError for a text that does not fit."""
        context, mask, pooled = self.context, self.attention_mask, self.pooled
        if context.ndim != 3 or context.shape[1] < 1:
            raise ShapeError(
                f"{name}: context is {tuple(context.shape)}; (b, n, d) with n >= 1 is needed; encode a prompt"
            )
        if mask is not None and tuple(mask.shape) != tuple(context.shape[:2]):
            raise ShapeError(
                f"{name}: attention_mask is {tuple(mask.shape)}, context {tuple(context.shape)}; the mask must be "
                "(b, n); take both from one call of the text encoder"
            )
        if pooled is not None and (pooled.ndim != 2 or pooled.shape[0] != context.shape[0]):
            raise ShapeError(
                f"{name}: pooled is {tuple(pooled.shape)}, context {tuple(context.shape)}; pooled must be (b, d) with "
                "the same b; take both from one call of the text encoder"
            )
        for part, axes in (("concat_latents", "(b, c, t, h, w)"), ("image_tokens", "(b, n, d)")):
            value = getattr(self, part)
            if value is not None and value.ndim != axes.count(",") + 1:
                raise ShapeError(f"{name}: {part} are {tuple(value.shape)}; {axes} is needed; encode the image again")
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Conditions":
        """The same on a device; dtype: of text and images. Masks, buckets and places keep their types."""
        moved = {item.name: getattr(self, item.name) for item in fields(self)}
        moved = {name: value.to(device) for name, value in moved.items() if value is not None}
        if dtype is not None:
            moved |= {name: moved[name].to(dtype) for name in ("context", "pooled", *_IMAGES) if name in moved}
        return replace(self, **moved)

    def with_text_of(self, other: "Conditions") -> "Conditions":
        """The same sample under another prompt."""
        return replace(self, **{name: getattr(other, name) for name in TEXT})

    def at_places(self, places: Tensor) -> "Conditions":
        """The same sample with its frames at the places (2, t) of `clip_places`."""
        return replace(self, frame_indices=places[0], detail_indices=places[1], curve=frame_curve(places[0]))

    def for_rows(self, b: int) -> "Conditions":
        """A row for each of b samples; of the start image only frame 0. Places (t,) stay as they are.

        Raises ShapeError for conditions of neither 1 nor b rows.
        """
        rows = {name: getattr(self, name) for name in _BATCHED}
        if rows["first_latent"] is not None:
            rows["first_latent"] = rows["first_latent"][:, :, :1]
        named = dict.fromkeys(TEXT, "prompt")
        return replace(self, **{name: _repeated(value, b, named.get(name, name)) for name, value in rows.items()})

    def fits_beside(self, other: "Conditions") -> bool:
        """Whether one call of a network can answer the rows of both: equal shapes, frames at the same places."""
        return all(_fit(getattr(self, name), getattr(other, name)) for name in _BATCHED) and all(
            getattr(self, name) is getattr(other, name) for name in _SHARED
        )

    def joined(self, other: "Conditions") -> "Conditions":
        """The rows of both, for conditions that fit beside one another."""
        rows = {name: (getattr(self, name), getattr(other, name)) for name in _BATCHED}
        both = {name: torch.cat(pair) for name, pair in rows.items() if pair[0] is not None}
        for name in ("frame_indices", "detail_indices"):
            places = getattr(self, name)
            if places is not None and places.ndim == 2:
                both[name] = torch.cat((places, places))
        return replace(self, **both)


_IMAGES = ("first_latent", "concat_latents", "image_tokens")
_BATCHED = (*TEXT, "motion_bucket_id", *_IMAGES)
_SHARED = ("frame_indices", "detail_indices", "curve", "masks")


def _repeated(value: Tensor | None, b: int, name: str) -> Tensor | None:
    """A batch of 1 as b rows."""
    if value is None or value.shape[0] == b:
        return value
    if value.shape[0] != 1:
        raise ShapeError(
            f"{name} has {value.shape[0]} rows, the latents {b}; 1 or {b} are needed; make the batches equal"
        )
    return value.expand(b, *value.shape[1:])


def _fit(one: Tensor | None, other: Tensor | None) -> bool:
    return (one is None) == (other is None) and (one is None or one.shape == other.shape)
