"""Clips cut into windows, encoded once and kept: what the trainer draws its samples from.

Each sample is one window of a clip; its motion bucket is measured on its own pixels (miramo §7). With a cache folder
every encoded window is a file of its own, and a build that was stopped goes on where it was.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...kernels.foreign_text import safe_text
from ..adapters.masks import token_mask
from ..errors import ConfigError, ShapeError
from ..io.training.latent_cache import LatentCache
from ..layers.block_dct import APPEARANCE_CHANNELS
from ..layers.letterbox import fit_square
from ..layers.warp import fold_grid
from ..metrics.dynamics import degree_to_bucket, dynamics_degree
from ..models.architecture import TrainingDefaults
from ..models.architectures import ARCHITECTURES
from ..models.heads.flow_codec import FLOW_UNIT
from ..models.latent_spaces import LatentSpace
from ..models.model_spec import ModelSpec
from .clips import SHOWN, Clip, ClipCollection, digest
from .dataset_record import dataset_record, record_differences, record_remarks
from .encoders import Encoders, TextEntry, builtin_encoders
from .grid_flow import FLOW_VERSION, estimate_grid_flow
from .sample_store import SampleStore
from .windows import Window, WindowConfig, cut_windows

__all__ = ["Encoders", "LatentDataset", "SampleInfo", "TextEntry", "WindowConfig", "build_latent_dataset",
           "builtin_encoders", "resize_short_side"]  # fmt: skip
ENTRY_VERSION = 1  # of what is stored for a window; part of every fingerprint
OnStep = Callable[[int, int], None]  # (done, total)
SCALED = ("latents", "mask_latents")  # of a stored sample


@dataclass(frozen=True)
class SampleInfo:
    """What is known of a sample without its latents."""

    name: str  # clip, first frame, stride
    caption: str
    motion_bucket_id: int
    shape: tuple[int, ...]  # (c, t, h, w) of its latents


class LatentDataset:
    """Encoded samples with their captions and buckets. Build with `build_latent_dataset`."""

    def __init__(
        self, samples, texts: dict[str, TextEntry], load: Callable[[int], dict[str, Tensor]], record: dict, report: str
    ):
        self.samples: tuple[SampleInfo, ...] = tuple(samples)
        self._texts, self._load, self._record, self._report = texts, load, record, report
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, sample in enumerate(self.samples):
            shapes.setdefault(sample.shape, []).append(index)
        self.shapes: dict[tuple[int, ...], tuple[int, ...]] = {shape: tuple(rows) for shape, rows in shapes.items()}

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> dict[str, Tensor]:
        """A sample as tensors by name, which the caller may write into.

        "latents" (c, t, h, w): scaled, float32, frame 0 first. "motion_bucket_id" (): long. Beside them what
        `Encoders.encode_beside` made, and where clips have masks "mask_latents", scaled too, and "mask_scores".
        """
        with torch.inference_mode(False):
            bucket = torch.tensor(self.samples[index].motion_bucket_id)
            return {**self._load(index), "motion_bucket_id": bucket}

    def text(self, caption: str) -> TextEntry:
        """An encoded caption; "" is always there. Raises ConfigError for a caption that no sample has."""
        if caption not in self._texts:
            raise ConfigError(f"caption {caption[:60]!r} was not encoded; the data set has {len(self._texts)} others")
        return self._texts[caption]

    @property
    def fingerprint(self) -> str:
        """Changes with every frame, caption, window and encoder that went in."""
        return self._record["fingerprint"]

    def record(self) -> dict:
        """Plain JSON values to keep beside a training state, for `differences`."""
        return self._record

    def differences(self, other: dict) -> list[str]:
        """What changed since another data set's `record()`, in words; empty when nothing did."""
        return list(record_differences(other, self._record))

    def remarks(self, other: dict) -> list[str]:
        """What changed since another `record()` without making a difference, in words."""
        return record_remarks(other, self._record)

    def summary(self) -> str:
        """Lines of text: samples, sizes, strides, buckets, and how much came from the cache."""
        return self._report


def build_latent_dataset(
    collection: ClipCollection, spec: ModelSpec, encoders: Encoders, windows: WindowConfig, *,
    cache_folder: Path | None, on_step: OnStep | None = None, own: TrainingDefaults | None = None,
) -> LatentDataset:  # fmt: skip
    """Cut, encode and measure every window; with a cache folder, only what is not there whole already.

    Clips with the times of their files are resampled once, to the rate that the model's architecture is trained at.
    cache_folder: is made when missing; None keeps the latents in memory. on_step(done, total) is called after every
    window; what it raises passes through, and what was finished by then is found again by the next build. own: numbers
    of the architecture for what `windows` leaves to it; None takes those of its row.
    Raises ConfigError for unusable clips, ShapeError for encoders that do not fit the model, CheckpointError
    when the disk refuses.
    """
    own, ratio = own or ARCHITECTURES.of(spec).training, spec.space.temporal_ratio
    windows, notes = windows.resolved(own, spec.space)
    if encoders.mask_cell:
        collection.check_masks()
    at_least = (spec.least_frames - 1) * ratio + 1
    if not collection.fps:
        collection, more = _resampled(collection, own.fps, at_least)
        notes += more
    cut = [window for clip in collection.clips
           for window in cut_windows(clip, windows, at_least=at_least, temporal_ratio=ratio)]  # fmt: skip
    captions = ["", *sorted({clip.caption for clip in collection.clips} - {""})]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        cache = stack.enter_context(LatentCache(cache_folder)) if cache_folder is not None else None
        texts = {caption: _text_entry(caption, encoders, cache) for caption in captions}
        store = _Store(cache, spec.space)
        samples = []
        for done, window in enumerate(cut, 1):
            samples.append(store.take(window, _window_key(window, spec, encoders, windows), spec, encoders, windows))
            if on_step is not None:
                on_step(done, len(cut))
    made_by = " ".join(filter(None, (encoders.fingerprint, encoders.text_fingerprint)))
    record = dataset_record(collection, spec, made_by, windows, store.keys)
    report = _report(collection, spec, cut, samples, windows, store, notes)
    return LatentDataset(samples, texts, store.load, record, report)


def _resampled(collection: ClipCollection, fps: float, min_frames: int) -> tuple[ClipCollection, tuple[str, ...]]:
    """Clips brought to a rate by the times of their files, and what that did to them, a line each."""
    made = collection.at_rate(fps, min_frames=min_frames)
    left_out = made.skipped[len(collection.skipped) :]
    lines = [f"clips resampled to {fps:g} fps: the model's own", *made.notes[len(collection.notes) :]]
    lines += [f"{name} is skipped: {why}" for name, why in left_out[:SHOWN]]
    lines += [f"and {len(left_out) - SHOWN} more are skipped"] if len(left_out) > SHOWN else []
    return made, tuple(map(safe_text, lines))


class _Store(SampleStore):
    """Windows as samples; latents are kept as the VAE gave them."""

    def __init__(self, cache: LatentCache | None, space: LatentSpace):
        super().__init__(cache)
        self.space = space

    def take(self, window: Window, key: str, spec, encoders, windows) -> SampleInfo:
        """Take the window from the cache, or encode it and put it there."""
        found = self.find(key)
        if found is not None and _is_sample(*found, spec):
            tensors, bucket = found[0], int(found[1]["bucket"])
            self.add(key, tensors)
        else:
            tensors, bucket = _encode(window, spec, encoders, windows)
            self.add(key, tensors, {"bucket": str(bucket), "name": window.name})
        return SampleInfo(window.name, window.clip.caption, bucket, tuple(tensors["latents"].shape))

    def load(self, index: int) -> dict[str, Tensor]:
        """A sample's tensors as `LatentDataset.sample` gives them, without the bucket."""
        return {name: self.space.scaled(value) if name in SCALED else value
                for name, value in super().load(index).items()}  # fmt: skip


def _is_sample(tensors: dict[str, Tensor], metadata: dict[str, str], spec: ModelSpec) -> bool:
    """Whether a cached entry can be what `_encode` made."""
    bucket, latents = metadata.get("bucket", ""), tensors.get("latents")
    fits = latents is not None and latents.ndim == 4 and latents.dtype == torch.float32 and latents.numel() > 0
    num_buckets = spec.dynamics.num_buckets if spec.dynamics is not None else 1
    known = bucket.isdecimal() and len(bucket) < 5 and int(bucket) < num_buckets
    return known and fits and latents.shape[0] == spec.space.channels


def _is_text(tensors: dict[str, Tensor]) -> bool:
    """Whether a cached entry can be an encoded caption."""
    context, mask, pooled = (tensors.get(name) for name in ("context", "attention_mask", "pooled"))
    fits = context is not None and context.ndim == 2 and (pooled is None or pooled.ndim == 1)
    return fits and (mask is None or mask.shape == context.shape[:1])


def _window_key(window: Window, spec: ModelSpec, encoders: Encoders, windows: WindowConfig) -> str:
    """Fingerprint of all that the stored latents and bucket depend on."""
    size = spec.working_size or windows.resolution
    flow = "" if spec.space.kind != "builtin" else "true" if window.clip.flow else f"estimated {FLOW_VERSION}"
    place = f"{window.start} {window.stride} {window.num_frames}"
    made = f"{spec.space.kind} {spec.space.channels} {size} {encoders.spatial_multiple} flow {flow}"
    scale = str(sorted(spec.dynamics.to_dict().items())) if spec.dynamics is not None else ""
    beside = ("beside",) if encoders.encode_beside is not None else ()
    beside += (f"masks {encoders.mask_cell}",) if encoders.mask_cell else ()
    parts = (window.clip.fingerprint, place, made, scale, encoders.fingerprint, *beside)
    return digest("window", str(ENTRY_VERSION), *parts)


def _encode(
    window: Window, spec: ModelSpec, encoders: Encoders, windows: WindowConfig
) -> tuple[dict[str, Tensor], int]:
    """A window's tensors by name, float32, and its motion bucket; "latents" (c, t, h, w) are unscaled."""
    frames = window.clip.frames(window.indices)
    bucket = 0
    if len(frames) > 1 and spec.dynamics is not None:
        degree = dynamics_degree(frames.unsqueeze(0), measure_size=spec.dynamics.measure_size)
        bucket = int(degree_to_bucket(degree, spec.dynamics))
    space, is_builtin = spec.space, spec.space.kind == "builtin"
    need = (1, space.channels, space.latent_frames(len(frames)))
    sized = frames if is_builtin else resize_short_side(frames, windows.resolution, encoders.spatial_multiple)
    video = rearrange(sized, "t c h w -> 1 c t h w")
    latents = encoders.encode_frames(video)
    if latents.ndim != 5 or tuple(latents.shape[:3]) != need:
        raise ShapeError(
            f"{window.name}: the VAE gave latents {tuple(latents.shape)}; this model needs ({need[0]}, {need[1]}, "
            f"{need[2]}, h, w) of {len(frames)} frames; use the VAE that belongs to the model"
        )
    beside = encoders.encode_beside(video) if encoders.encode_beside is not None else {}
    beside |= _encoded_masks(window, spec, encoders, windows) if encoders.mask_cell else {}
    tensors = {name: value.detach().to("cpu", torch.float32).clone()
               for name, value in {"latents": latents[0], **beside}.items()}  # fmt: skip
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ShapeError(f"{window.name}: the VAE gave NaN or infinity; use it in float32 or bfloat16")
    if is_builtin and space.channels > APPEARANCE_CHANNELS and len(frames) > 1:
        tensors["latents"][APPEARANCE_CHANNELS:] = flow_channels(window.clip, window.indices, frames, spec.working_size)
    return tensors, bucket


def _encoded_masks(window: Window, spec: ModelSpec, encoders: Encoders, windows: WindowConfig) -> dict[str, Tensor]:
    """See `Encoders.mask_cell`."""
    grey = window.clip.mask_frames(window.indices).unsqueeze(1).expand(-1, 3, -1, -1)
    sized, ratio = resize_short_side(grey, windows.resolution, encoders.spatial_multiple), spec.space.temporal_ratio
    t, _, h, w = sized.shape
    grid = (h // encoders.mask_cell, w // encoders.mask_cell)
    scores = token_mask(sized[:, 0], t, ratio, grid).unflatten(1, grid)
    latents = encoders.encode_frames(rearrange(sized, "t c h w -> 1 c t h w"))
    return {"mask_latents": latents[0], "mask_scores": scores}


def flow_channels(clip: Clip, indices: list[int], frames: Tensor, working_size: int) -> Tensor:
    """The backward flow of some frames of a clip as the last latent channels (8, t, cells, cells).

    frames: (t, 3, h, w), those at the indices, from which flow is estimated where the clip brings none.
    """
    if clip.flow is not None:
        grid = clip.flow(indices).float() * (working_size / max(clip.height, clip.width))
        if grid.shape[-1] != working_size // 4:
            grid = F.interpolate(grid, size=(working_size // 4,) * 2, mode="bilinear", antialias=True)
    else:
        grid = estimate_grid_flow(fit_square(frames, working_size))
    return rearrange(fold_grid(grid, FLOW_UNIT), "t c h w -> c t h w")


def resize_short_side(frames: Tensor, resolution: int, multiple: int = 1) -> Tensor:
    """Bring the short side to `resolution` px and cut both sides to a multiple, about the middle.

    frames: (t, c, h, w). Returns (t, c, h', w'). Raises ShapeError when nothing would be left.
    """
    h, w = frames.shape[-2:]
    scale = resolution / min(h, w)
    size = (round(h * scale), round(w * scale))
    if size != (h, w):
        frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    keep = tuple(side // multiple * multiple for side in size)
    if not all(keep):
        raise ShapeError(f"frames of {size[1]}x{size[0]} px are smaller than {multiple} px; raise the resolution")
    top, left = ((side - kept) // 2 for side, kept in zip(size, keep))
    return frames[..., top : top + keep[0], left : left + keep[1]]


def _text_entry(caption: str, encoders: Encoders, cache: LatentCache | None) -> TextEntry:
    """An encoded caption, from the cache where it is there."""
    by = (encoders.fingerprint, *filter(None, (encoders.text_fingerprint,)))
    key = digest("text", str(ENTRY_VERSION), caption, *by)
    found = cache.get(key) if cache is not None else None
    if found is not None and _is_text(found[0]):
        return TextEntry(*(found[0].get(name) for name in ("context", "attention_mask", "pooled")))
    parts = {name: value.detach().to("cpu", torch.float32).clone()
             for name, value in vars(encoders.encode_text(caption)).items() if value is not None}  # fmt: skip
    if cache is not None:
        cache.put(key, parts, {"caption": caption})
    return TextEntry(**parts)


def _report(
    collection, spec: ModelSpec, cut: list[Window], samples: list[SampleInfo], windows: WindowConfig, store: _Store,
    notes: tuple[str, ...],
) -> str:  # fmt: skip
    strides, buckets = [window.stride for window in cut], [sample.motion_bucket_id for sample in samples]
    lowered = {window.clip.name for window in cut if window.stride < windows.stride_min}
    short = {window.clip.name for window in cut if window.num_frames < windows.num_frames}
    sizes = Counter(f"{t} frames of {w}x{h}" for _, t, h, w in (sample.shape for sample in samples))
    measured = f", motion bucket {min(buckets)} to {max(buckets)}" if spec.dynamics is not None else ""
    lines = [
        f"{len(samples)} samples of {len(collection)} clips, stride {min(strides)} to {max(strides)}{measured}",
        "latents: " + ", ".join(f"{size} ({count})" for size, count in sizes.most_common(8)),
        *notes,
    ]
    if lowered:
        lines.append(f"{len(lowered)} clips are too short for a stride of {windows.stride_min}; theirs was lowered")
    if short:
        lines.append(f"{len(short)} clips are shorter than {windows.num_frames} frames; their windows are shorter")
    return "\n".join([*lines, *filter(None, [store.reused()])])
