"""Wan as a trainee."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from ...errors import ConfigError
from ...models.conditions import Conditions
from ...models.wan.architecture import TEXT_TOKENS
from ...models.wan.network import WanDiT
from ...models.wan.spec import WanSpec
from ...sampling.schedules import sigma_to_timestep
from ..trainee import weights_fingerprint
from .base import OwnNetwork


class WanObjective:
    """What is the same whoever runs the network: it is trained by the flow of whole frames.

    Variants that see more than latents and text take it from the data set: "concat_latents" (20, t, h, w) where the
    network has 36 channels, "image_tokens" (257 or 514, 1280) where it reads CLIP vision.
    """

    own_objective = "flow"
    spec: WanSpec

    def conditions(self, batch: Mapping[str, Tensor], *, first_latent: Tensor | None = None) -> Conditions:
        """See `Trainee`. The prompt's mask is left out: Wan reads the padding too, so prompts are filled up with it.

        Raises ConfigError for a batch without what this variant sees, and for a start image of another kind.
        """
        if first_latent is not None:
            raise ConfigError("Wan takes no residual against a first frame; train it with the objective flow")
        told, config = {}, self.spec.config
        for name, is_read in (("concat_latents", config.concat_channels), ("image_tokens", config.image_tokens)):
            if is_read and name not in batch:
                raise ConfigError(f"this variant of Wan sees {name}, which the data set does not hold; train a "
                                  "text-to-video model, or encode the clips with it")  # fmt: skip
            told |= {name: batch[name]} if is_read else {}
        return Conditions(padded_text(batch["context"]), **told)


class WanTrainee(WanObjective, OwnNetwork):
    """See `Trainee`, `WanObjective` and `OwnNetwork`."""

    module: WanDiT

    def predict(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """See `Trainee`. Latents reach the network in the type of its blocks."""
        timestep = sigma_to_timestep(sigma, integer=self.sampling.integer_timesteps)
        dtype = next(self.module.blocks.parameters()).dtype
        return self.module(latents.to(dtype), timestep, conditions, run_block=self._run_block)

    def fingerprint(self, *, with_weights: bool) -> dict:
        """See `Trainee`."""
        parts = {"model": {"config": asdict(self.spec.config), "sampling": self.sampling.to_dict()}}
        return {**parts, "base": weights_fingerprint(self.module)} if with_weights else parts


def padded_text(context: Tensor) -> Tensor:
    """Prompts (b, n, d) with the zeros behind them that Wan was trained with, up to 512 tokens; longer ones stay."""
    b, n, d = context.shape
    return torch.cat((context, context.new_zeros(b, TEXT_TOKENS - n, d)), dim=1) if n < TEXT_TOKENS else context
