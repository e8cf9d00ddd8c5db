"""A toy causal VAE of four frames a latent and eight px a cell, and clips at the times of their files."""

import torch
import torch.nn.functional as F
from pack.motion.data.clips import Clip
from pack.motion.data.encoders import Encoders, TextEntry
from training_toys import TEXT

COLOURS = torch.linspace(-1, 1, 48).view(16, 3)


def encode_causally(frames):
    """(1, 3, t, h, w) -> (1, 16, 1 + (t - 1) / 4, h / 8, w / 8): the first frame alone, then means of four."""
    small = F.avg_pool3d(frames, (1, 8, 8))
    later = F.avg_pool3d(small[:, :, 1:], (4, 1, 1)) if frames.shape[2] > 1 else small[:, :, 1:]
    return torch.einsum("dc,bcthw->bdthw", COLOURS, torch.cat((small[:, :, :1], later), 2))


def encoders(encode=encode_causally):
    text = torch.randn(2, TEXT, generator=torch.Generator().manual_seed(1))
    return Encoders(encode, lambda caption: TextEntry(text + len(caption)), "toy causal VAE", spatial_multiple=16)


def filmed(name, seed, *, num_frames=30):
    """A clip at its own times, 24 fps, whose picture brightens frame by frame."""
    picture = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(seed))
    return Clip(
        name, "brightens", num_frames, 24.0, 32, 48, f"{name} {seed}",
        lambda indices: torch.stack([picture * index / num_frames for index in indices]),
        times=tuple(n / 24 for n in range(num_frames)),
    )  # fmt: skip
