"""Samples of reference, skeletons and target, encoded once and kept: what a network learns to follow poses from.

Every sample is a file of its own in a cache folder, and a build that was stopped goes on where it was.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..io.training.latent_cache import LatentCache
from ..models.model_spec import ModelSpec
from ..pose.renderer import RENDERER_ID
from ..sequence.conditions import encode_sequence
from ..sequence.known_start import shown_behind
from ..sequence.layout import SPACE
from .clips import SHOWN, digest
from .encoders import Encoders, TextEntry
from .latent_dataset import LatentDataset, OnStep, SampleInfo
from .pose_clips import MOST_KNOWN, PosedClips, PoseSample, PoseSettings, draw_samples, pose_sheet_of, slow_note
from .sample_store import SampleStore

ENTRY_VERSION = 1  # of what is stored for a sample; part of every fingerprint
LATENTS, IMAGE_TOKENS = "latents", "image_tokens"
SAME = ("num_frames", "width", "height", "mode", "known_start")  # settings of data sets that can be joined


def shown_name(known: int) -> str:
    """What the tensor is called that a model is shown beside a target of which so many latent frames are known."""
    return f"shown_{known}"


@dataclass(frozen=True, eq=False)
class PoseItem:
    """One encoded sample. clip: name of its clip. load(): its tensors by name, scaled, float32, its reader's own:
    "latents" (16, latent_frames, h, w) of the whole sequence, "shown_0" of the same shape with grey in place of the
    target and, for known starts, "shown_1" and "shown_2"; "image_tokens" (n, 1280) of the reference where it was seen.
    """

    name: str
    clip: str
    caption: str
    fingerprint: str
    names: frozenset[str]  # of its tensors
    load: Callable[[], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class PoseDataset:
    """Encoded samples. encoders: fingerprint of what made them."""

    settings: PoseSettings
    items: tuple[PoseItem, ...]
    encoders: str
    reference: Tensor  # (1, h, w, 3) in [0, 1] of the first sample
    report: str
    decoder: str = ""

    @property
    def captions(self) -> tuple[str, ...]:
        """All there are, sorted."""
        return tuple(sorted({item.caption for item in self.items}))

    @property
    def has_image_tokens(self) -> bool:
        """Whether the references were seen by CLIP vision."""
        return all(IMAGE_TOKENS in item.names for item in self.items)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """(c, t, h, w) of the latents of every sample: one."""
        settings, cell = self.settings, SPACE.spatial_ratio
        return ((SPACE.channels, settings.layout.latent_frames, settings.height // cell, settings.width // cell),)

    @property
    def size(self) -> str:
        """For people: "832x480 px, 40 frames"."""
        return f"{self.settings.width}x{self.settings.height} px, {self.settings.num_frames} frames"

    @property
    def fingerprint(self) -> str:
        """Changes with every frame, pose, caption, choice and encoder that went in."""
        return digest(*(f"{item.fingerprint} {item.caption}" for item in self.items), self.encoders)

    def behind(self, before: "PoseDataset | None") -> "PoseDataset":
        """Both as one, `before` first. Raises ConfigError where they were drawn or encoded in other ways."""
        if before is None:
            return self
        mine, theirs = self.settings.to_dict(), before.settings.to_dict()
        wrong = [f"{name} is {theirs[name]} there and {mine[name]} here" for name in SAME if mine[name] != theirs[name]]
        wrong += ["another VAE or CLIP vision made it"] if before.encoders != self.encoders else []
        if wrong:
            raise ConfigError(f"the data set before cannot be joined: {'; '.join(wrong)}")
        return replace(self, items=before.items + self.items, reference=before.reference, decoder=self.decoder
                       or before.decoder, report=f"{before.report}\n{self.report}")  # fmt: skip

    def check_model(self, spec: ModelSpec) -> None:
        """Raises ConfigError for a model of another latent space, and for one that is told what is missing here."""
        if spec.space.kind != SPACE.kind:
            raise ConfigError(f"the data set was encoded for {SPACE.title}, this model works in {spec.space.title}; "
                              "poses are learned beside Wan")  # fmt: skip
        if getattr(spec.config, IMAGE_TOKENS, False) and not self.has_image_tokens:
            raise ConfigError(
                "this Wan also reads the reference through CLIP vision; connect clip_vision (Load CLIP Vision, "
                "clip_vision_h) to Build Pose Dataset, or take a Wan that does without, such as Wan 2.2 A14B"
            )

    def dataset(self, spec: ModelSpec, texts: Mapping[str, TextEntry]) -> LatentDataset:
        """As data to train on. texts: of every caption and of the empty one. Raises ConfigError as `check_model`."""
        self.check_model(spec)
        (shape,) = self.shapes
        samples = [SampleInfo(item.name, item.caption, 0, shape) for item in self.items]
        told = digest(*(f"{caption} {texts[caption].fingerprint}" for caption in ("", *self.captions)))
        clips: dict[str, list[str]] = {}
        for item in self.items:
            clips.setdefault(item.clip, []).append(item.fingerprint)
        captions = {item.clip: item.caption for item in self.items}
        record = {
            "fingerprint": digest(self.fingerprint, told),
            "clips": [{"name": name, "caption": captions[name], "fingerprint": digest(*marks)}
                      for name, marks in clips.items()],
            "windows": {**self.settings.to_dict(), "renderer": RENDERER_ID}, "encoders": f"{self.encoders} {told}",
            "latent": spec.latent_facts(), **({"decoder": self.decoder} if self.decoder else {}),
        }  # fmt: skip
        return LatentDataset(samples, dict(texts), lambda index: self.items[index].load(), record, self.report)


def build_pose_dataset(
    clips: PosedClips, settings: PoseSettings, encoders: Encoders, *, cache_folder: Path | None,
    see: Callable[[Tensor], Tensor] | None = None, seen_by: str = "", on_step: OnStep | None = None,
    on_sheet: Callable[[Tensor], None] | None = None,
) -> PoseDataset:  # fmt: skip
    """Draw and encode samples; with a cache folder, only what is not there whole already.

    encoders: their pictures alone are asked for. see: what CLIP vision says, (n, 1280), of a reference (1, 3, 1, h, w);
    seen_by: its fingerprint. on_sheet: is given a picture to check the poses by, before anything is encoded.
    on_step(done, total) is called after every sample; what both raise passes, and what was finished is found again.
    Raises ConfigError where no clip serves, ShapeError for a VAE that does not fit, CheckpointError where the disk
    refuses.
    """
    made_by = " ".join(filter(None, (encoders.fingerprint, seen_by)))
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        samples, skipped = draw_samples(clips, settings)
        if on_sheet is not None:
            on_sheet(pose_sheet_of(samples, settings))
        cache = stack.enter_context(LatentCache(cache_folder)) if cache_folder is not None else None
        store, items, first = SampleStore(cache), [], samples[0].parts(settings, [0])[0]
        for done, sample in enumerate(samples, 1):
            key = _key(sample, settings, made_by)
            found = store.find(key)
            tensors = found[0] if found is not None else _encoded(sample, settings, encoders, see)
            store.add(key, tensors, None if found is not None else {"name": sample.name})
            clip, index = sample.source.clip, len(items)
            items.append(PoseItem(sample.name, clip.name, clip.caption, key, frozenset(tensors),
                                  lambda index=index: store.load(index)))  # fmt: skip
            if on_step is not None:
                on_step(done, len(samples))
        reference = first[0].movedim(0, -1).clone()
    report = _report(clips, samples, skipped, settings, store)
    return PoseDataset(settings, tuple(items), made_by, reference, report, clips.decoder)


def _key(sample: PoseSample, settings: PoseSettings, made_by: str) -> str:
    """Fingerprint of all that a stored sample depends on."""
    how = f"{settings.width}x{settings.height} {settings.mode} {settings.known_start}"
    return digest("pose sample", str(ENTRY_VERSION), sample.fingerprint, how, made_by)


def _encoded(sample: PoseSample, settings: PoseSettings, encoders: Encoders, see) -> dict[str, Tensor]:
    """A sample's tensors by name: see `PoseItem`. Raises ShapeError."""
    layout, (reference, skeletons, target) = settings.layout, sample.parts(settings)

    def encode(video: Tensor) -> Tensor:
        latents = encoders.encode_frames(video)
        need = (1, SPACE.channels, (video.shape[2] - 1) // SPACE.temporal_ratio + 1)
        if latents.ndim != 5 or tuple(latents.shape[:3]) != need:
            raise ShapeError(f"the VAE gave latents {tuple(latents.shape)} of {video.shape[2]} frames; {need} and two "
                             f"sides are needed: connect the {SPACE.title}")  # fmt: skip
        return latents.detach().to("cpu", torch.float32)

    parts = encode_sequence(encode, layout, reference, skeletons, target)
    made = {LATENTS: torch.cat((parts.given, parts.target), dim=2), shown_name(0): parts.shown}
    for known in range(1, MOST_KNOWN + 1) if settings.known_start else ():
        made[shown_name(known)] = shown_behind(encode, layout, reference, skeletons, target, known)
    made = {name: SPACE.scaled(value)[0].clone() for name, value in made.items()}
    if see is not None:
        made[IMAGE_TOKENS] = see(reference).detach().to("cpu", torch.float32).clone()
    if not all(value.isfinite().all() for value in made.values()):
        raise ShapeError(f"{sample.name}: the VAE or CLIP vision gave NaN or infinity; use it in float32 or bfloat16")
    return made


def _report(clips: PosedClips, samples: list[PoseSample], skipped, settings: PoseSettings, store: SampleStore) -> str:
    layout = settings.layout
    used = {sample.source.clip.name for sample in samples}
    changed = sum(sample.scale != 1.0 for sample in samples)
    lines = [
        f"{len(samples)} samples of {len(used)} clips: {settings.width}x{settings.height} px, {settings.num_frames} "
        f"skeletons and frames, mode {settings.mode}, {layout.latent_frames} latent frames, renderer {RENDERER_ID}",
        *([f"{changed} of them with bodies of another size and place"] if changed else []),
        *(["longer than Wan was trained on (21 latent frames)"] if layout.is_longer_than_trained else []),
        *slow_note(samples), *clips.notes, *filter(None, [store.reused()]),
    ]  # fmt: skip
    if skipped:
        lines.append(f"skipped {len(skipped)}:")
        lines += [f"  {name}: {why}" for name, why in skipped[:SHOWN]]
        lines += [f"  and {len(skipped) - SHOWN} more"] if len(skipped) > SHOWN else []
    return "\n".join(lines)
