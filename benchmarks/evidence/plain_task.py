"""Pans and "still" as plain residuals, no flow anywhere: what e6_plain_residual.py trains, as a task of the trainer."""

from dataclasses import dataclass, replace

import torch
from pack.motion.data.procedural.scenes import SceneSource
from pack.motion.models.conditions import Conditions
from pack.motion.models.heads.flow_codec import FlowCodec
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import DynamicsSpec, LatentSpec, LinearVideoSpec, SamplingDefaults
from pack.motion.sampling.residual import residual_state_to_network
from pack.motion.text.encoder import MotionTextEncoder
from pack.motion.text.vocabulary import MAX_MOTIONS, MotionVocabulary
from torch import Tensor, nn

WORDS = ("pan left", "pan right", "pan up", "pan down", "still")
SIZE, TEXT_WIDTH, BUCKETS = 64, 64, 20
TOP_SHARE, SHIFT, MIN_SIGMA = 0.35, 9.0, 0.1
LAYERS, HEADS, CHANNELS = 2, 4, 48  # of the transformer (width 32 a head), and of the skip head


def plain_spec() -> LinearVideoSpec:
    """A network without a flow head; its answer is the residual."""
    return LinearVideoSpec(
        config=LinearVideoDiTConfig(
            in_channels=200, num_layers=LAYERS, num_attention_heads=HEADS, num_cross_attention_heads=HEADS,
            caption_channels=TEXT_WIDTH, default_motion_bucket=12, concat_first_frame=True, prediction="x0",
            frame_index_embedding=True, pooled_text_embedding=True, position_features=True, skip_channels=CHANNELS,
            skip_deviation=0.35,
        ),
        sampling=SamplingDefaults(
            shift=SHIFT, num_steps=8, guidance_scale=1.0, num_frames=16, fps=8.0, integer_timesteps=False
        ),
        latent=LatentSpec(kind="builtin", channels=200, spatial_ratio=8, scale_factor=1.0, working_size=SIZE),
        dynamics=DynamicsSpec(degree_max=0.06, measure_size=SIZE),
    )  # fmt: skip


def build(spec: LinearVideoSpec, seed: int) -> tuple[LinearVideoDiT, MotionTextEncoder]:
    """Fresh networks; the tokens say "no residual" at first, and the gate of the skip stays open."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit, encoder = LinearVideoDiT(spec.config), MotionTextEncoder(len(WORDS) + 1, TEXT_WIDTH)
    with torch.no_grad():
        for part in (dit.proj_out.weight, dit.proj_out.bias, dit.skip_head.linear_gate.weight):
            part.zero_()
        dit.skip_head.linear_gate.bias.fill_(6.0)
    return dit, encoder


@dataclass(frozen=True)
class PlainSamples:
    """One batch."""

    clean: Tensor  # (b, 200, t, 8, 8), frame 0 first; the flow channels are 0
    indices: Tensor  # (b, t)
    ids: Tensor  # (b, 2)
    bucket: Tensor  # (b,)
    sigma: Tensor  # (b,)
    noise: Tensor
    captions: list[str]


class PlainTask:
    """Task of the trainer: velocity loss of the residual frames; frame 0 and some frames in a row."""

    def __init__(self, seed: int, *, num_targets: int = 3, last_frame: int = 15):
        self.num_targets, self.last_frame, self.spec = num_targets, last_frame, plain_spec()
        self.dit, self.encoder = build(self.spec, seed)
        self.codec, self.vocabulary = FlowCodec(SIZE), MotionVocabulary(WORDS)
        self.source = SceneSource(SIZE, num_textures=256, words=WORDS)

    def parameters(self) -> dict[str, nn.Parameter]:
        named = {**{f"dit.{name}": value for name, value in self.dit.named_parameters()},
                 **{f"text.{name}": value for name, value in self.encoder.named_parameters()}}
        return {name: value for name, value in named.items() if "gate" not in name}

    def matrices(self) -> set[str]:
        return {name for name, value in self.parameters().items() if "transformer_blocks" in name
                and value.ndim in (2, 4) and "depth" not in name and "table" not in name}

    def fingerprint(self) -> dict:
        return {"spec": self.spec.to_metadata()["spec"]}

    def describe(self, batch: PlainSamples) -> str:
        return ", ".join(batch.captions)

    def draw(self, keys) -> PlainSamples:
        generators = [key.generator() for key in keys]
        chance = torch.stack([torch.rand(5, generator=g) for g in generators])
        captions = [WORDS[int(4 * u)] if stay > 0.1 else "still" for u, stay in chance[:, :2].tolist()]
        scenes = self.source.draw(generators, captions=captions)
        start = 1 + (chance[:, 2] * (self.last_frame - self.num_targets + 1)).long()
        frames = torch.cat((torch.zeros(len(keys), 1, dtype=torch.long),
                            start.unsqueeze(1) + torch.arange(self.num_targets)), 1)
        clean = self.codec.encode(scenes.render(frames)[0])
        sigma = SHIFT * chance[:, 3] / (1 + (SHIFT - 1) * chance[:, 3])
        sigma = torch.where(chance[:, 4] < TOP_SHARE, 0.999, sigma).clamp(0.02, 0.999)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        ids = torch.tensor([self.vocabulary.tokenize(text)[:MAX_MOTIONS] for text in captions])
        return PlainSamples(clean, frames, ids, (scenes.speed * 19).ceil().clamp(1, 19), sigma, noise, captions)

    def predict(self, batch: PlainSamples) -> Tensor:
        """The clean latents that the network reads from the noisy ones."""
        level, first = batch.sigma.view(-1, 1, 1, 1, 1), batch.clean[:, :, :1]
        seen = residual_state_to_network((1 - level) * batch.clean + level * batch.noise, batch.sigma, first)
        context, pooled, mask = self.encoder(batch.ids)
        told = Conditions(context, mask, pooled, batch.bucket, first, batch.indices)
        raw = self.dit.predict_raw(seen, batch.sigma * 1000, told)
        return self.dit.skip_head(raw, seen, batch.sigma, first, batch.indices, pooled, batch.bucket)

    def loss(self, batch: PlainSamples) -> Tensor:
        error = (self.predict(batch) - batch.clean)[:, :, 1:]
        return (error / batch.sigma.clamp_min(MIN_SIGMA).view(-1, 1, 1, 1, 1)).square().mean((1, 2, 3, 4))

    @torch.no_grad()
    def energy_left(self, keys) -> float:
        """Share of the residual's energy that the answer at sigma 0.999 leaves; 1 = the first frame repeated."""
        batch = self.draw(keys)
        batch = replace(batch, sigma=torch.full_like(batch.sigma, 0.999))
        error, whole = ((other - batch.clean)[:, :192, 1:].square().sum()
                        for other in (self.predict(batch), batch.clean[:, :, :1].expand_as(batch.clean)))
        return float(error / whole)
