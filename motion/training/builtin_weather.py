"""Opens the grown network's eyes for rain and snow: lets it see how the noisy picture differs from the first frame.

The smaller network learned to look past the noise, and the finest detail of the larger picture has no weights at all
yet, neither going in nor coming out: a saddle that training leaves slowly. So the strongest patterns of drawn rain and
snow are fed in, as differences from the first frame; what to make of them is left to training.
"""

import torch
from einops import rearrange
from torch import Tensor

from ..data.procedural_scenes import SceneSource
from ..data.procedural_weather import KINDS
from ..models.flow_codec import FlowCodec
from ..models.linear_video_dit import LinearVideoDiT

APPEARANCE, PATCH = 192, 2
SCENES = 12  # drawn a kind


def weather_patterns(source: SceneSource, num_patterns: int) -> Tensor:
    """Strongest patterns of rain and snow over the latents of a token: (num_patterns, 200, 2, 2), orthonormal."""
    codec = FlowCodec(source.size)
    parts = []
    for kind in KINDS:
        generators = [torch.Generator().manual_seed(7000 + index) for index in range(SCENES)]
        scenes = source.draw(generators, captions=[kind] * SCENES).at_speed(torch.ones(SCENES))
        pictures, _ = scenes.render(torch.tensor([0, 2, 5, 9]).expand(SCENES, -1))
        latents = codec.encode(pictures)
        residual = (latents[:, :APPEARANCE, 1:] - latents[:, :APPEARANCE, :1])
        tokens = rearrange(residual, "b c t (h p) (w q) -> (b t h w) (c p q)", p=PATCH, q=PATCH)
        parts.append(tokens / tokens.square().mean().sqrt())
    tokens = torch.cat(parts)
    _, vectors = torch.linalg.eigh(tokens.T @ tokens / len(tokens))
    patterns = vectors[:, -num_patterns:].T.reshape(num_patterns, APPEARANCE, PATCH, PATCH)
    return torch.cat((patterns, torch.zeros(num_patterns, 8, PATCH, PATCH)), 1)


@torch.no_grad()
def open_eyes(dit: LinearVideoDiT, patterns: Tensor, strength: float, seed: int) -> None:
    """Feed the patterns of (noisy - first frame) into the tokens, in random orthogonal directions; changes dit."""
    generator = torch.Generator().manual_seed(seed + 99)
    width = dit.config.width
    directions, _ = torch.linalg.qr(torch.randn(width, len(patterns), generator=generator))
    weight = torch.einsum("dk,kcpq->dcpq", directions * strength, patterns)
    dit.patch_embed.proj.weight += weight
    dit.first_frame_embed.proj.weight -= weight
