"""Wan as a trainee."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from ...analysis.head_map import HeadWatch
from ...errors import ConfigError
from ...models.conditions import Conditions
from ...models.wan.architecture import WAN
from ...models.wan.blocks import Attention
from ...models.wan.network import WanDiT
from ...models.wan.spec import WanSpec
from ...sampling.schedules import sigma_to_timestep
from ..trainee import weights_fingerprint
from .base import OwnNetwork


class WanObjective:
    """What is the same whoever runs the network: it is trained by the flow of whole frames.

    Variants that see more than latents and text take it from the data set: "concat_latents" (20, t, h, w) where the
    network has 36 channels, "image_tokens" (257 or 514, 1280) where it reads CLIP vision. Latent frames that do not
    stand at 0, 1, 2 … have their places in "frame_places" (t,).
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
        if "frame_places" in batch:
            told["frame_indices"] = batch["frame_places"]
        return Conditions(padded_text(batch["context"], self.spec.text_tokens), **told)


class WanTrainee(WanObjective, OwnNetwork):
    """See `Trainee`, `WanObjective` and `OwnNetwork`."""

    module: WanDiT

    def predict(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """See `Trainee`. Latents reach the network in the type of its blocks."""
        timestep = sigma_to_timestep(sigma, integer=self.sampling.integer_timesteps)
        dtype = next(self.module.blocks.parameters()).dtype
        return self.module(latents.to(dtype), timestep, conditions, run_block=self._run_block)

    def predict_watched(self, latents: Tensor, sigma: Tensor, conditions: Conditions, watch: HeadWatch) -> Tensor:
        """See `WatchedTrainee`."""
        found = [block.self_attn.attention for block in self.module.blocks]
        try:
            for index, block in enumerate(self.module.blocks):
                block.self_attn.attention = _watched(index, found[index], watch)
            return self.predict(latents, sigma, conditions)
        finally:
            for block, attention in zip(self.module.blocks, found):
                block.self_attn.attention = attention

    def save_memory(self, shape: tuple[int, ...]) -> str:
        """See `Trainee`. Nothing is changed unasked: raises ConfigError with what a step takes and what takes less."""
        b, _, t, h, w = shape
        config, space = self.spec.config, self.space
        frames, cell = space.temporal_ratio * (t - 1) + 1, space.spatial_ratio
        need, ways = self._step_size(shape, self.checkpointing), []
        if not self.checkpointing:
            ways.append(f"set gradient_checkpointing to true ({self._step_size(shape, True)} instead)")
        else:
            away = self.blocks_on_cpu
            ways += [f"raise blocks_on_cpu ({away} of {config.num_layers} blocks now)"] * (away < config.num_layers)
        ways.append("use fewer frames, a lower resolution" + (" or a smaller batch_size" if b > 1 else ""))
        raise ConfigError(
            f"out of memory: a step on {b} video{'s' if b > 1 else ''} of {frames} frames, {w * cell}x{h * cell} px, "
            f"takes about {need} beside {_size(self._base_bytes())} of the model on {self.device}: "
            f"{'; or '.join(ways)}, then resume"
        )

    def _step_size(self, shape: tuple[int, ...], checkpointing: bool) -> str:
        itemsize = next(self.module.blocks.parameters()).itemsize
        return _size(WAN.memory.training_bytes(self.spec.config, shape, itemsize=itemsize, checkpointing=checkpointing))

    def _base_bytes(self) -> int:
        return sum(value.nbytes for value in self.module.parameters() if value.device == self.device)

    def fingerprint(self, *, with_weights: bool) -> dict:
        """See `Trainee`."""
        parts = {"model": {"config": asdict(self.spec.config), "sampling": self.sampling.to_dict()}}
        return {**parts, "base": weights_fingerprint(self.module)} if with_weights else parts


def _watched(index: int, attention: Attention, watch: HeadWatch) -> Attention:
    def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
        watch(index, query, key, value, num_heads)
        return attention(query, key, value, num_heads, mask)

    return attend


def padded_text(context: Tensor, num_tokens: int) -> Tensor:
    """Prompts (b, n, d) with zeros behind them, up to num_tokens; longer ones stay."""
    b, n, d = context.shape
    return torch.cat((context, context.new_zeros(b, num_tokens - n, d)), dim=1) if n < num_tokens else context


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
