"""Masks of the subject beside a video that the host's sampler makes with a masked motion adapter on its Wan.

At some steps the network is called once more, on a video of masks, before it is called on the video; what it makes of
them steers the calls that follow. All of it belongs to one run: nothing is left when that ends or fails.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...motion.adapters.masks import check_mask, token_mask
from ...motion.adapters.miva import MIVA
from ...motion.adapters.notes import acts_at_all
from ...motion.adapters.stack import AdapterStack
from ...motion.errors import ConfigError, ShapeError
from ...motion.models.subject_masks import SubjectMasks
from ...motion.sampling.mask_stream import MaskStream
from ..vaes_on_socket.recognise import space_of_vae
from .native_wan import SPACE
from .native_wan_blocks import KEY

MASKS = f"{KEY}_masks"  # in transformer_options of a call: `SubjectMasks`
CACHES = ("easycache", "lazycache")  # keys of wrappers of the host's nodes that leave calls out
SEED_MARK = 0x6D61736B  # apart from the seed of the video's own noise


@dataclass(frozen=True, eq=False)
class FirstMask:
    """Where the subject is in frame 1: mask (1, h, w) in [0, 1], and the VAE that encodes it.

    Raises ConfigError and ShapeError for a VAE of another model, several masks, and one that shows nothing.
    """

    vae: object
    mask: Tensor

    def __post_init__(self):
        if space_of_vae(self.vae) != SPACE:
            raise ConfigError("vae is not Wan's, which encodes first_frame_mask; connect the VAE that belongs to the "
                              "model (Wan 2.1 VAE)")  # fmt: skip
        mask = check_mask(self.mask)
        if len(mask) != 1:
            raise ShapeError(
                f"first_frame_mask has {len(mask)} masks; 1 is needed, that of the start image: the others are made "
                "with the video"
            )
        if not mask.any():
            raise ConfigError(
                "first_frame_mask is empty (Load Image gives an empty mask where none was drawn); draw the subject "
                "white in the mask editor"
            )
        object.__setattr__(self, "mask", mask)

    def encoded(self, shape) -> tuple[Tensor, Tensor]:
        """For latents (b, c, t, h, w): its latent (1, c, 1, h, w), unscaled, and the scores (1, n) of its tokens."""
        h, w = shape[-2:]
        size, grid = [side * SPACE.spatial_ratio for side in (h, w)], (-(-h // 2), -(-w // 2))
        shown = F.interpolate(self.mask.unsqueeze(1), size=size, mode="bilinear", antialias=True).clamp(0, 1)
        latent = self.vae.encode(shown.expand(-1, 3, -1, -1).movedim(1, -1).contiguous())
        return latent[:, :, :1].float(), token_mask(self.mask, 1, SPACE.temporal_ratio, grid)


def masked_adapter(stack: AdapterStack) -> MIVA | None:
    """The masked adapter of a stack that acts somewhere; None where there is none. Raises ConfigError for several."""
    found = [entry.adapter for entry in stack.entries
             if acts_at_all(entry) and getattr(entry.adapter.slots, "knows_masks", False)]  # fmt: skip
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} masked adapters are in the stack, and one at a time makes its masks; keep one, and give the "
            "others a region by the input mask with adapters trained without masks"
        )
    return found[0] if found else None


def refuse_run(options: Mapping, sampler, batch: int) -> None:
    """Refuse runs whose calls masks cannot keep in step with. options: transformer_options. Raises ConfigError."""
    function = getattr(sampler, "sampler_function", None)
    name, churn = getattr(function, "__name__", type(sampler).__name__), getattr(sampler, "extra_options", {})
    if name != "sample_euler" or churn.get("s_churn"):
        told = "euler with churn" if name == "sample_euler" else name.removeprefix("sample_")
        raise ConfigError(
            f"sampler is {told}; a masked adapter makes its masks in step with euler: set sampler_name to euler"
        )
    if batch != 1:
        raise ConfigError(
            f"{batch} videos are sampled at once; a masked adapter makes one at a time: set batch_size to 1"
        )
    wrappers = options.get("wrappers", {})
    if any(key in given for given in wrappers.values() for key in CACHES):
        raise ConfigError(
            "EasyCache or LazyCache leaves calls out, which a masked adapter's masks need; remove its node"
        )


def begun(adapter: MIVA, first: FirstMask, model, sigmas: Sequence[float], shape, seed: int | None) -> MaskStream:
    """The masks of a run. model: the host's, which scales latents. shape: of the noise. seed: of the run."""
    latent, known = first.encoded(shape)
    generator = torch.Generator().manual_seed(((seed or 0) ^ SEED_MARK) % 2**63)
    noise = torch.randn(tuple(shape), generator=generator)
    scaled = model.process_latent_in(latent).to(noise)
    return MaskStream(scaled, known, [float(sigma) for sigma in sigmas], noise, adapter.scores)


def around_a_step(stream: MaskStream) -> Callable:
    """APPLY_MODEL wrapper: make masks where they are due, and tell every call where the subject is."""

    def wrapper(
        executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more
    ):  # fmt: skip
        options = transformer_options or {}
        if stream.is_due(float(t.flatten()[0])):
            rows = options.get("cond_or_uncond", [0])
            row = rows.index(0) if 0 in rows and len(rows) == len(x) else 0

            def of_row(value):
                is_batched = isinstance(value, Tensor) and value.ndim and len(value) == len(x)
                return value[row : row + 1] if is_batched else value

            uuids = options.get("uuids", [])[row : row + 1]
            told = {**options, MASKS: SubjectMasks(), "cond_or_uncond": [0], "uuids": uuids}
            stream.take(executor(
                stream.latents.to(x), t[row : row + 1], of_row(c_concat), of_row(c_crossattn), None, told,
                **{name: of_row(value) for name, value in more.items()},
            ))  # fmt: skip
        return executor(x, t, c_concat, c_crossattn, control, {**options, MASKS: stream.masks}, **more)

    return wrapper
