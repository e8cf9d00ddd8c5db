"""What `motionblocks-small` is trained on, as a task of the trainer: scenes drawn by key, flow and velocity losses."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..motion.data.procedural.fields import AXES, PICTURE_WORDS
from ..motion.data.procedural.scenes import SceneSource
from ..motion.layers.block_dct import APPEARANCE_CHANNELS
from ..motion.models.conditions import Conditions
from ..motion.models.heads.flow_codec import FlowCodec
from ..motion.models.heads.flow_head import compose_clean
from ..motion.models.linear_video.network import LinearVideoDiT
from ..motion.models.model_spec import LinearVideoSpec
from ..motion.text.encoder import MotionTextEncoder
from ..motion.text.vocabulary import MAX_MOTIONS, MotionVocabulary
from ..motion.training.optimizers import block_matrices
from ..motion.training.task import SampleKey
from .small import SmallRecipe


@dataclass(frozen=True)
class SceneSamples:
    """One batch. Latents are scaled (this latent space has scale 1)."""

    clean: Tensor  # (b, 200, t, h, w), frame 0 first
    frame_indices: Tensor  # (b, t)
    ids: Tensor  # (b, 8) prompt tokens
    bucket: Tensor  # (b,)
    sigma: Tensor  # (b,)
    noise: Tensor  # like clean
    flow_weight: Tensor  # (b, 8, t - 1, h, w)
    captions: list[str]


class SceneTask:
    """Task of the trainer: network and text encoder on scenes of every word. See `Task` for the methods."""

    def __init__(self, spec: LinearVideoSpec, dit: LinearVideoDiT, encoder: MotionTextEncoder, recipe: SmallRecipe):
        self.spec, self.dit, self.encoder, self.recipe = spec, dit, encoder, recipe
        self.codec = FlowCodec(spec.latent.working_size)
        self.source = SceneSource(spec.latent.working_size, num_textures=recipe.num_textures, words=recipe.taught)
        self.vocabulary = MotionVocabulary(recipe.words)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Weights of both parts by name."""
        return {**{f"dit.{name}": value for name, value in self.dit.named_parameters()},
                **{f"text_encoder.{name}": value for name, value in self.encoder.named_parameters()}}

    def matrices(self) -> set[str]:
        """What Muon takes."""
        return block_matrices(self.parameters())

    def fingerprint(self) -> dict:
        """The recipe and the network's spec."""
        return {"recipe": self.recipe.to_dict(), "spec": self.spec.to_metadata()["spec"]}

    def describe(self, batch: SceneSamples) -> str:
        """Captions of a batch."""
        return f"scenes of {self.spec.latent.working_size} px: {', '.join(map(repr, batch.captions))}"

    def draw(self, keys: list[SampleKey]) -> SceneSamples:
        """Draw, render and encode a scene a key."""
        recipe, generators = self.recipe, [key.generator() for key in keys]
        chance = torch.stack([torch.rand(6 + recipe.long_frames, generator=g) for g in generators])
        scenes = self.source.draw(generators)
        scenes = scenes.at_speed(scenes.speed * (chance[:, 0] >= recipe.stopped_share))
        frames = self._frame_indices(chance, scenes.captions)
        pictures, flow = scenes.render(frames)
        clean = self.codec.encode(pictures, flow)
        dropped = (chance[:, 3] < recipe.caption_dropout).tolist()
        ids = [self.vocabulary.tokenize("" if drop else text) for drop, text in zip(dropped, scenes.captions)]
        return SceneSamples(
            clean, frames, torch.tensor(ids), self._buckets(scenes, chance), self._sigma(chance),
            torch.cat([torch.randn(clean[:1].shape, generator=g) for g in generators]),
            self._flow_weight(clean[:, APPEARANCE_CHANNELS:, 1:]), scenes.captions,
        )  # fmt: skip

    def loss(self, batch: SceneSamples) -> Tensor:
        """Velocity loss on appearance plus weighted L1 on flow, residual frames only (miramo §4): (b,).

        The warp is detached in the velocity loss, so flow learns from its own truth only.
        """
        device = next(self.dit.parameters()).device
        batch = SceneSamples(*(v.to(device) if isinstance(v, Tensor) else v for v in batch.__dict__.values()))
        sigma = batch.sigma.view(-1, 1, 1, 1, 1)
        first = batch.clean[:, :, :1]
        noisy = first + (1 - sigma) * (batch.clean - first) + sigma * batch.noise
        noisy = torch.cat((first, noisy[:, :, 1:]), dim=2)
        context, pooled, mask = self.encoder(batch.ids[:, :MAX_MOTIONS])
        told = Conditions(context, mask, pooled, batch.bucket, first, batch.frame_indices)
        raw = self.dit.predict_raw(noisy, batch.sigma * 1000, told)
        clean, _ = compose_clean(raw, first, batch.frame_indices, detach_warp=True)
        error = (clean - batch.clean)[:, :, 1:]
        appearance = (error[:, :APPEARANCE_CHANNELS] / sigma.clamp_min(0.1)).square().mean((1, 2, 3, 4))
        index = batch.frame_indices[:, 1:].view(len(sigma), 1, -1, 1, 1).float()
        flow = (batch.flow_weight * error[:, APPEARANCE_CHANNELS:].abs() / (index / 4).sqrt()).mean((1, 2, 3, 4))
        return appearance + self.recipe.flow_weight * flow

    def _frame_indices(self, chance: Tensor, captions: list[str]) -> Tensor:
        """Frame 0 and random distinct later frames, ascending: (b, 1 + num_targets)."""
        recipe, rows = self.recipe, []
        for row, caption in zip(chance, captions):
            long = all(word in AXES or word in PICTURE_WORDS for word in caption.split(", "))
            far = recipe.long_frames if long and float(row[1]) < recipe.long_share else recipe.num_frames
            rows.append(row[6 : 5 + far].argsort()[: recipe.num_targets].sort().values + 1)
        later = torch.stack(rows)
        return torch.cat((torch.zeros(len(later), 1, dtype=torch.long), later), 1)

    def _buckets(self, scenes, chance: Tensor) -> Tensor:
        """Share of the words' full speed in steps of 1/19; 0 = nothing moves; half of "still" gets any bucket."""
        count = self.spec.dynamics.num_buckets - 1
        bucket = (scenes.speed * count).ceil().long().clamp(0, count)
        still = torch.tensor([caption == "still" for caption in scenes.captions]) & (chance[:, 2] < 0.5)
        return torch.where(still, (chance[:, 2] * 2 * (count + 1)).long(), bucket)

    def _sigma(self, chance: Tensor) -> Tensor:
        """Noise levels: uniform, then shifted; a share sits at 0.999. (b,)"""
        base, shift = chance[:, 4], self.recipe.flow_shift
        sigma = shift * base / (1 + (shift - 1) * base)
        top = chance[:, 5] < self.recipe.top_noise_share
        return torch.where(top, torch.tensor(0.999), sigma).clamp(0.02, 0.999)

    def _flow_weight(self, truth: Tensor) -> Tensor:
        """Weight of each flow value: more where a part of the picture moves, or where all stands still."""
        recipe = self.recipe
        length = truth.abs()
        top = length.amax((1, 2, 3, 4), keepdim=True)
        moving = length.unflatten(1, (2, 4)).amax((1, 2)).unsqueeze(1) > 0.3 * length.amax((1, 3, 4), keepdim=True)
        moving = moving & (top > 0)
        share = moving.float().mean((1, 2, 3, 4), keepdim=True)
        local = torch.where(moving & (share < 0.6), recipe.moving_weight, 1.0)
        return torch.where(top < 1e-3, recipe.still_weight, local).expand_as(truth)
