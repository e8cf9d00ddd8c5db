"""The task of training a motion model, whole or through a LoRA, on a data set of latents."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..adapters.lora import LoRA
from ..data.latent_dataset import LatentDataset, TextEntry
from ..errors import ConfigError
from ..models.conditions import Conditions
from ..models.linear_video.network import LinearVideoDiT
from ..models.model_spec import LinearVideoSpec
from ..sampling.schedules import sigma_to_timestep
from .config import TrainingConfig
from .objectives import draw_sigma, network_input, sample_losses
from .task import SampleKey

LOOKED_AT = 256  # values of each weight that go into the base model's fingerprint


@dataclass(frozen=True)
class LatentBatch:
    """Samples of one size, on the network's device; latents are scaled."""

    names: tuple[str, ...]
    clean: Tensor  # (b, c, t, h, w), frame 0 first
    noise: Tensor  # like clean
    sigma: Tensor  # (b,)
    context: Tensor  # (b, m, d)
    attention_mask: Tensor | None  # (b, m)
    pooled: Tensor | None  # (b, d)
    bucket: Tensor  # (b,) motion buckets


class LatentTask:
    """Flow matching on latents: i2v residuals or t2v, velocity or x0, with or without a flow head.

    dit: float32 for mode full; for mode lora any type, it stays frozen and its adapter is float32. It is only used,
    not changed, outside a run. adapter: continue with this LoRA; None builds one in mode lora.
    Raises ConfigError for settings, model and data that do not fit together.
    """

    def __init__(
        self, dit: LinearVideoDiT, spec: LinearVideoSpec, dataset: LatentDataset, config: TrainingConfig,
        adapter: LoRA | None = None,
    ):  # fmt: skip
        check_fit(spec, dataset, config, adapter)
        if any(value.is_inference() for value in dit.parameters()):
            raise ConfigError("the network holds inference tensors; build or clone it in inference_mode(False)")
        self.dit, self.spec, self.dataset, self.config = dit, spec, dataset, config
        if adapter is None and config.mode == "lora":
            adapter = LoRA(dit, targets=config.targets, rank=config.rank, alpha=config.alpha, seed=config.seed)
        self.adapter = adapter
        self._shapes = tuple(dataset.shapes.items())
        base = {"base": weights_fingerprint(dit)} if adapter is not None else {}
        parts = json.loads(spec.to_metadata()["spec"])
        self._fingerprint = {"model": parts, "data": dataset.record(), **base}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's weights, or all of the network's."""
        return dict(self.dit.named_parameters()) if self.adapter is None else self.adapter.parameters()

    def fingerprint(self) -> dict:
        """Model, data and, where it stays frozen, the base weights."""
        return self._fingerprint

    def differences(self, before: dict) -> list[str]:
        """What differs from an earlier fingerprint, in words."""
        lines = self.dataset.differences(before.get("data", {}))
        for name, what in (("model", "the model's sizes or settings differ"), ("base", "the base weights differ")):
            if before.get(name) != self._fingerprint.get(name):
                lines.append(what)
        return lines

    def remarks(self, before: dict) -> list[str]:
        """What changed since an earlier fingerprint without standing in the way of a resume."""
        return self.dataset.remarks(before.get("data", {}))

    def draw(self, keys: list[SampleKey]) -> LatentBatch:
        """One batch of one size; the step's key chooses the size, as often as it has samples."""
        indices = self._bucket_of(keys[0])
        rows = [self._draw_sample(indices, key) for key in keys]
        infos, clean, noise, sigma, texts = zip(*rows)
        context, mask, pooled = stack_texts(texts)
        where = next(self.dit.parameters()).device
        return LatentBatch(
            tuple(info.name for info in infos), torch.stack(clean).to(where), torch.stack(noise).to(where),
            torch.tensor(sigma, device=where), context.to(where), None if mask is None else mask.to(where),
            None if pooled is None else pooled.to(where),
            torch.tensor([info.motion_bucket_id for info in infos], device=where),
        )  # fmt: skip

    def loss(self, batch: LatentBatch) -> Tensor:
        """Loss of each sample (b,)."""
        dtype = next(self.dit.parameters()).dtype
        first = batch.clean[:, :, :1] if self.spec.objective == "i2v_residual" else None
        seen = network_input(batch.clean, batch.noise, batch.sigma, self.spec.objective)
        raw = self.dit.predict_raw(
            seen.to(dtype), sigma_to_timestep(batch.sigma, integer=self.spec.sampling.integer_timesteps),
            Conditions(
                batch.context, batch.attention_mask, batch.pooled,
                motion_bucket_id=batch.bucket if self.spec.config.motion_buckets else None,
                first_latent=None if first is None else first.to(dtype),
            ),
            run_block=_run_checkpointed if self.config.gradient_checkpointing else None,
        )  # fmt: skip
        add_detail = None
        if self.spec.config.skip_channels:
            add_detail = partial(
                self.dit.skip_head, seen=seen, sigma=batch.sigma, first_latent=first, pooled=batch.pooled,
                indices=torch.arange(seen.shape[2], device=seen.device), bucket=batch.bucket,
            )  # fmt: skip
        return sample_losses(raw, batch.clean, batch.noise, batch.sigma, self.spec,
                             flow_weight=self.config.flow_weight, add_detail=add_detail)

    def describe(self, batch: LatentBatch) -> str:
        """Names and size of a batch."""
        c, t, h, w = batch.clean.shape[1:]
        return f"{', '.join(batch.names)} (latents of {c} channels, {t} frames, {h}x{w})"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let gradients flow to what is trained alone, and hold the adapter on; undone after the block."""
        before = [(value, value.requires_grad) for value in self.dit.parameters()]
        try:
            for value, _ in before:
                value.requires_grad_(self.adapter is None)
            with self.adapter.attached() if self.adapter is not None else nullcontext():
                yield
        finally:
            for value, needed in before:
                value.requires_grad_(needed)

    def _bucket_of(self, key: SampleKey) -> tuple[int, ...]:
        """Samples of the size that this step trains."""
        if len(self._shapes) == 1:
            return self._shapes[0][1]
        pick = _whole(len(self.dataset.samples), key._replace(index=-1).generator())
        for _, indices in self._shapes:
            if pick < len(indices):
                return indices
            pick -= len(indices)
        raise AssertionError("sizes and samples of the data set disagree")

    def _draw_sample(self, indices: tuple[int, ...], key: SampleKey) -> tuple:
        generator = key.generator()
        index = indices[_whole(len(indices), generator)]
        info = self.dataset.samples[index]
        dropped = float(torch.rand((), generator=generator)) < self.config.caption_dropout
        sigma = draw_sigma(self.config, self.spec, generator)
        clean = self.dataset.sample(index)
        noise = torch.randn(clean.shape, generator=generator)
        return info, clean, noise, sigma, self.dataset.text("" if dropped else info.caption)


def check_fit(spec: LinearVideoSpec, dataset: LatentDataset, config: TrainingConfig, adapter: LoRA | None) -> None:
    """Refuse model, data and settings that do not belong together. Raises ConfigError."""
    problems = []
    if not dataset.samples:
        problems.append("the data set is empty; load at least one clip")
    if (config.mode == "lora") != (adapter is not None) and adapter is not None:
        problems.append("an adapter is given but mode is full; use mode lora")
    for channels, frames, height, width in dataset.shapes:
        size = f"latents of {channels} channels, {frames} frames, {height}x{width}"
        if channels != spec.config.in_channels:
            problems.append(f"{size}; this model needs {spec.config.in_channels} channels: encode with its own VAE")
        if height % spec.config.patch_size or width % spec.config.patch_size:
            problems.append(f"{size}; both sides must divide by {spec.config.patch_size}")
        if spec.objective == "i2v_residual" and frames < 2:
            problems.append(f"{size}; image to video needs at least 2 frames")
    needs_start = spec.config.flow_channels or spec.config.concat_first_frame or spec.config.first_frame_texture
    if spec.objective == "t2v" and needs_start:
        problems.append("the model takes a start image, which t2v does not have; its objective must be i2v_residual")
    if problems:
        raise ConfigError("; ".join(problems[:5]))


def stack_texts(texts: tuple[TextEntry, ...]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Texts of any length as one batch: (context (b, m, d), mask (b, m) or None, pooled (b, d) or None)."""
    longest = max(len(text.context) for text in texts)
    if all(text.attention_mask is None and len(text.context) == longest for text in texts):
        mask = None
    else:
        mask = torch.stack([_padded(_mask_of(text), longest) for text in texts])
    context = torch.stack([_padded(text.context, longest) for text in texts])
    return context, mask, None if texts[0].pooled is None else torch.stack([text.pooled for text in texts])


def weights_fingerprint(module: nn.Module) -> str:
    """A hash of names, shapes and values spread over every weight; quick, and other weights give another."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        flat = value.detach().reshape(-1)
        digest.update(flat[:: max(1, flat.numel() // LOOKED_AT)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _mask_of(text: TextEntry) -> Tensor:
    return torch.ones(len(text.context)) if text.attention_mask is None else text.attention_mask.float()


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat((values, values.new_zeros(length - len(values), *values.shape[1:])))


def _whole(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _run_checkpointed(index: int, call, hidden_states: Tensor) -> Tensor:
    return checkpoint(call, hidden_states, use_reentrant=False, preserve_rng_state=False)
