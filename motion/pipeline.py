"""Photo in, frames out: the one path that the shell and the tests use, without any host."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from .builtin_model import BuiltinModel, load_builtin
from .choices import EDGES, GO_ON
from .conditioning.motion_bucket import motion_bucket
from .devices import pick_device
from .errors import ConfigError, ShapeError
from .limits import MAX_SEED
from .metrics.what_moves import nothing_to_act_on
from .models.heads.flow_codec import FlowCodec, check_photo_size
from .models.playback.photo_player import PhotoPlayer
from .models.text_cache import TextCache
from .sampling.clip_places import clip_places
from .sampling.draw import draw, make_noise
from .text.safe_words import safe_bucket, safety_notes

MAX_FRAMES = 256
MAX_VIDEO_BYTES = 8 * 2**30
COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, eq=False)
class AnimatedFrames:
    """A sampled video, each of whose frames is made when it is asked for: (h, w, 3) float32 in [0, 1] on the CPU.

    Iterating again gives the same frames again. A video of any length takes the memory of one frame.
    """

    photo: Tensor  # (3, h, w) in [0, 1], on the device that decodes
    latents: Tensor  # (1, 200, num_frames, cells, cells), unscaled
    codec: FlowCodec
    player: PhotoPlayer | None = None  # None: the first edition's frames, by the codec
    notes: tuple[str, ...] = ()  # what was made weaker, is shown otherwise or found nothing to act on, a line each

    def __len__(self) -> int:
        return self.latents.shape[2]

    def __iter__(self) -> Iterator[Tensor]:
        return map(_to_image, self.player or self.codec.frames_onto(self.latents, self.photo))

    def as_bytes(self) -> Iterator[Tensor]:
        """The same frames rounded to bytes, (h, w, 3) uint8, as `write_video` takes them too; sooner made.

        Raises ShapeError where the sampled video is not finite.
        """
        if not torch.isfinite(self.latents).all():
            raise ShapeError("the sampled video holds NaN or Inf; nothing was written; try float32 for the model")
        if self.player is None:
            return ((frame * 255).round_().to(torch.uint8) for frame in self)
        return (_to_image(self.player.byte_frame(n)) for n in range(len(self)))


def animate(
    photo: Tensor,
    *,
    motion: str,
    dynamics: int = 12,
    num_frames: int = 16,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    model: BuiltinModel | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    on_step: Callable[[int, int, Tensor], None] | None = None,
    longer: str = GO_ON,
    edges: str | None = None,
    region: Tensor | None = None,
) -> Tensor:
    """As `animate_frames`, with all frames in one tensor.

    Returns frames (num_frames, h', w', 3) float32 on the CPU. Raises ShapeError also where they need more than
    MAX_VIDEO_BYTES.
    """
    photo = check_photo(photo)
    check_request(num_frames=num_frames, seed=seed)
    check_fits(photo, num_frames)
    frames = animate_frames(
        photo, motion=motion, dynamics=dynamics, num_frames=num_frames, num_steps=num_steps,
        guidance_scale=guidance_scale, seed=seed, model=model, device=device, dtype=dtype, on_step=on_step,
        longer=longer, edges=edges, region=region,
    )  # fmt: skip
    h, w = (side + side % 2 for side in photo.shape[-2:])
    video = torch.empty(num_frames, h, w, 3)
    for n, frame in enumerate(frames):
        video[n] = frame
    return video


def animate_frames(
    photo: Tensor,
    *,
    motion: str,
    dynamics: int = 12,
    num_frames: int = 16,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    model: BuiltinModel | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    on_step: Callable[[int, int, Tensor], None] | None = None,
    longer: str = GO_ON,
    edges: str | None = None,
    region: Tensor | None = None,
) -> AnimatedFrames:
    """Make a video of a photo that moves as `motion` says: sampled now, its frames made one by one as they are used.

    photo: (3, h, w) in [0, 1]; one channel is grey, a fourth is opacity over white. motion: words of the vocabulary,
    "" leaves the choice to the model. dynamics: motion bucket, 0 = least. num_steps, guidance_scale: None takes the
    model's own. model: None loads the built-in one in `dtype` (float32) on `device` (CUDA where torch sees it).
    on_step(step, num_steps, clean latents) is called after every step; what it raises passes through. longer: what a
    clip of more frames than the model was trained on does, see `clip_places`. edges: "crop" or "mirror", see
    `PhotoPlayer`; with either, words that would bend faces are weakened (`safe_bucket`). None draws the frames of the
    first edition: mirrored, a little softer, frame 0 always the photo.
    region: (h, w) of the photo, in [0, 1], what may move.
    Returns num_frames frames (h', w', 3) float32 on the CPU, h' and w' padded to even; frame 0 is the photo, or the
    part of it that is shown. Equal arguments give equal frames on one machine. Raises ShapeError and ConfigError with
    value, need and way out.
    """
    photo = check_photo(photo)
    check_request(num_frames=num_frames, seed=seed)
    if region is not None and edges is None:
        raise ConfigError(f"a region needs edges, one of: {', '.join(EDGES)}")
    model = _model(model, device, dtype)
    places = clip_places(num_frames, model.spec.sampling.num_frames, longer)
    photo = photo.to(next(model.dit.parameters()).device)
    words = model.vocabulary.motions(motion) if edges is not None else ()
    bucket = motion_bucket(safe_bucket(words, dynamics), model.spec.dynamics.num_buckets)
    with torch.no_grad():
        first = model.spec.space.scaled(model.codec.encode(rearrange(photo, "c h w -> 1 c 1 h w")))
        positive = replace(model.encode([motion]), motion_bucket_id=bucket, first_latent=first).at_places(places)
        latents = draw(
            model.dit, make_noise((1, first.shape[1], num_frames, *first.shape[3:]), seed), positive,
            model.spec.sampling, negative=positive.with_text_of(model.encode([""])), num_steps=num_steps,
            guidance_scale=guidance_scale, text_cache=TextCache(), on_step=on_step,
        )  # fmt: skip
    latents = model.spec.space.unscaled(latents)
    if edges is None:
        return AnimatedFrames(photo, latents, model.codec)
    player = PhotoPlayer(model.codec, latents, photo, edges=edges, region=region)
    notes = (*safety_notes(words, dynamics), *player_notes(player, words))
    return AnimatedFrames(photo, latents, model.codec, player, notes)


def player_notes(player: PhotoPlayer, words: Sequence[str]) -> list[str]:
    """What a video shows otherwise than the whole photo, and whether a word found what it is about; a line each."""
    found = nothing_to_act_on(words, player.photo, player.flow) if player.share is None else None
    return [note for note in (player.note, found) if note]


def check_photo(photo: Tensor) -> Tensor:
    """Return the photo as (3, h, w) float32. The input is left as it is. Raises ShapeError.

    One channel is repeated; a fourth channel is opacity over white.
    """
    if photo.ndim != 3 or photo.shape[0] not in (1, 3, 4) or not photo.is_floating_point():
        raise ShapeError(
            f"photo is {tuple(photo.shape)} {photo.dtype}; floats (3, h, w) in [0, 1] are needed; from (h, w, 3) use "
            "permute(2, 0, 1), from bytes divide by 255"
        )
    check_photo_size(*photo.shape[-2:])
    values = photo.detach().float()
    low, high = (value.item() for value in torch.aminmax(values))  # NaN where any value is NaN
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ShapeError("photo holds NaN or Inf pixels; finite values in [0, 1] are needed; load it again")
    if low < 0 or high > 1:
        raise ShapeError(f"photo holds values from {low:.4g} to {high:.4g}; [0, 1] is needed; use clamp(0, 1)")
    if values.shape[0] == 4:
        return values[:3] * values[3:] + (1 - values[3:])
    return values.expand(3, -1, -1)


def check_request(*, num_frames: int, seed: int) -> None:
    """Refuse frame counts and seeds that cannot be, before a model is loaded. Raises ConfigError."""
    if not _is_whole(num_frames) or not 2 <= num_frames <= MAX_FRAMES:
        raise ConfigError(f"num_frames is {num_frames!r}; a video has 2 to {MAX_FRAMES}; 16 is what the model knows")
    if not _is_whole(seed) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")


def check_fits(photo: Tensor, num_frames: int) -> None:
    """Refuse a video that is too large for one tensor. Raises ShapeError."""
    h, w = photo.shape[-2:]
    size = num_frames * 3 * h * w * 4
    if size > MAX_VIDEO_BYTES:
        fits = MAX_VIDEO_BYTES // (3 * h * w * 4)
        raise ShapeError(
            f"{num_frames} frames of {w}x{h} px need {size / 2**30:.1f} GiB; up to {MAX_VIDEO_BYTES / 2**30:.0f} GiB "
            f"go; use {fits} frames or a smaller photo, or take them one by one (animate_frames)"
        )


def _model(model: BuiltinModel | None, device, dtype: torch.dtype | None) -> BuiltinModel:
    if model is not None:
        if device is not None or dtype is not None:
            raise ConfigError("device and dtype belong to loading; a loaded model has its own; leave them out")
        return model
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        names = ", ".join(str(kind).removeprefix("torch.") for kind in COMPUTE_DTYPES)
        raise ConfigError(f"dtype is {dtype}; use one of {names}")
    return load_builtin(device=pick_device(device), dtype=dtype or torch.float32)


def _to_image(frame: Tensor) -> Tensor:
    return rearrange(frame, "c h w -> h w c").cpu()


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
