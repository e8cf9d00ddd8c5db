"""The linear video DiT as a trainee."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ...models.conditions import Conditions
from ...models.heads.flow_head import compose_clean
from ...models.linear_video.architecture import LINEAR_VIDEO
from ...models.linear_video.network import LinearVideoDiT
from ...models.model_spec import LinearVideoSpec
from ...sampling.schedules import sigma_to_timestep
from ..trainee import weights_fingerprint


class LinearVideoTrainee:
    """See `Trainee`. dit: float32 to train its own weights; to train an adapter beside it, of any type.

    checkpointing: keep only the blocks' inputs and compute them twice. Raises ConfigError for weights that the host
    made in inference mode, and for a text-to-video model with parts that need a start image.
    """

    def __init__(self, dit: LinearVideoDiT, spec: LinearVideoSpec, *, checkpointing: bool = False):
        if any(value.is_inference() for value in dit.parameters()):
            raise ConfigError("the network holds inference tensors; build or clone it in inference_mode(False)")
        config = spec.config
        if spec.objective == "t2v" and (
            config.flow_channels or config.concat_first_frame or config.first_frame_texture
        ):
            raise ConfigError(
                "the model takes a start image, which t2v does not have; its objective must be i2v_residual"
            )
        self.module, self.spec, self.space, self.sampling = dit, spec, spec.space, spec.sampling
        self.is_residual, self.flow_channels = spec.objective == "i2v_residual", config.flow_channels
        self.own_targets, self.blocks = LINEAR_VIDEO.training.targets, LINEAR_VIDEO.adapters.blocks
        self._run_block = _run_checkpointed if checkpointing else None

    @property
    def own_objective(self) -> str:
        """See `Trainee`."""
        if self.spec.config.prediction == "x0":
            return "clean_estimate"
        return "residual" if self.is_residual else "flow"

    def conditions(self, batch: Mapping[str, Tensor], *, first_latent: Tensor | None = None) -> Conditions:
        """See `Trainee`."""
        bucket = batch["motion_bucket_id"] if self.spec.config.motion_buckets else None
        return Conditions(
            batch["context"], batch.get("attention_mask"), batch.get("pooled"), motion_bucket_id=bucket,
            first_latent=first_latent,
        )  # fmt: skip

    def predict(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """See `Trainee`."""
        return self.module(*self._asked(latents, sigma, conditions), run_block=self._run_block)

    def estimate_clean(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Clean latents (b, c, t, h, w) float32 of a network that answers with them, as its loss wants them.

        The warp of a flow head is held still, so that no error of appearance moves the flow.
        """
        config, indices = self.spec.config, torch.arange(latents.shape[2], device=latents.device)
        raw = self.module.predict_raw(*self._asked(latents, sigma, conditions), run_block=self._run_block).float()
        first, clean = conditions.first_latent, raw
        if config.flow_channels:
            clean = compose_clean(raw, first, indices, detach_warp=True)[0]
        if config.skip_channels:
            clean = self.module.skip_head(
                clean, seen=latents, sigma=sigma, first_latent=first, pooled=conditions.pooled, indices=indices,
                bucket=conditions.motion_bucket_id,
            )  # fmt: skip
        return clean

    @contextmanager
    def session(self, *, frozen: bool) -> Iterator[None]:
        """See `Trainee`."""
        before = [(value, value.requires_grad) for value in self.module.parameters()]
        try:
            for value, _ in before:
                value.requires_grad_(not frozen)
            yield
        finally:
            for value, needed in before:
                value.requires_grad_(needed)

    def fingerprint(self, *, with_weights: bool) -> dict:
        """See `Trainee`."""
        parts = {"model": json.loads(self.spec.to_metadata()["spec"])}
        return {**parts, "base": weights_fingerprint(self.module)} if with_weights else parts

    def misfits(self, shapes) -> list[str]:
        """See `Trainee`."""
        config, problems = self.spec.config, []
        for channels, frames, height, width in shapes:
            size = f"latents of {channels} channels, {frames} frames, {height}x{width}"
            if channels != config.in_channels:
                problems.append(f"{size}; this model needs {config.in_channels} channels: encode with its own VAE")
            if height % config.patch_size or width % config.patch_size:
                problems.append(f"{size}; both sides must divide by {config.patch_size}")
        return problems

    def _asked(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor, Conditions]:
        dtype, first = next(self.module.parameters()).dtype, conditions.first_latent
        told = conditions if first is None else replace(conditions, first_latent=first.to(dtype))
        return latents.to(dtype), sigma_to_timestep(sigma, integer=self.sampling.integer_timesteps), told


def _run_checkpointed(index: int, call, hidden_states: Tensor) -> Tensor:
    return checkpoint(call, hidden_states, use_reentrant=False, preserve_rng_state=False)
