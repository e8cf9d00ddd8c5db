"""The linear video DiT as a trainee."""

import json
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import ConfigError
from ...models.conditions import Conditions
from ...models.heads.flow_head import compose_clean
from ...models.linear_video.network import LinearVideoDiT
from ...models.model_spec import LinearVideoSpec
from ...sampling.schedules import sigma_to_timestep
from ..trainee import weights_fingerprint
from .base import OwnNetwork


class LinearVideoTrainee(OwnNetwork):
    """See `Trainee` and `OwnNetwork`.

    Raises ConfigError also for a text-to-video model with parts that need a start image.
    """

    def __init__(
        self, dit: LinearVideoDiT, spec: LinearVideoSpec, *, checkpointing: bool = False, blocks_on_cpu: int = 0
    ):  # fmt: skip
        super().__init__(dit, spec, checkpointing=checkpointing, blocks_on_cpu=blocks_on_cpu)
        config = spec.config
        needs_start = config.flow_channels or config.concat_first_frame or config.first_frame_texture
        if spec.objective == "t2v" and needs_start:
            raise ConfigError(
                "the model takes a start image, which t2v does not have; its objective must be i2v_residual"
            )
        self.is_residual, self.flow_channels = spec.objective == "i2v_residual", config.flow_channels

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
            first_latent=first_latent, frame_indices=batch.get("frame_places"),
        )  # fmt: skip

    def predict(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """See `Trainee`."""
        return self.module(*self._asked(latents, sigma, conditions), run_block=self._run_block)

    def estimate_clean(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Clean latents (b, c, t, h, w) float32 of a network that answers with them, as its loss wants them.

        The warp of a flow head is held still, so that no error of appearance moves the flow.
        """
        config, indices = self.spec.config, conditions.frame_indices
        indices = torch.arange(latents.shape[2], device=latents.device) if indices is None else indices
        raw = self.module(*self._asked(latents, sigma, conditions), run_block=self._run_block, raw=True).float()
        first, clean = conditions.first_latent, raw
        if config.flow_channels:
            clean = compose_clean(raw, first, indices, detach_warp=True)[0]
        if config.skip_channels:
            clean = self.module.skip_head(
                clean, seen=latents, sigma=sigma, first_latent=first, pooled=conditions.pooled, indices=indices,
                bucket=conditions.motion_bucket_id,
            )  # fmt: skip
        return clean

    def fingerprint(self, *, with_weights: bool) -> dict:
        """See `Trainee`."""
        parts = {"model": json.loads(self.spec.to_metadata()["spec"])}
        return {**parts, "base": weights_fingerprint(self.module)} if with_weights else parts

    def _asked(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor, Conditions]:
        dtype, first = next(self.module.parameters()).dtype, conditions.first_latent
        told = conditions if first is None else replace(conditions, first_latent=first.to(dtype))
        return latents.to(dtype), sigma_to_timestep(sigma, integer=self.sampling.integer_timesteps), told
