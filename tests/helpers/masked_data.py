"""Random latents beside masks whose channels say their scores, to train masked adapters on in tests."""

import torch
from pack.motion.data.latent_dataset import LatentDataset, SampleInfo, TextEntry
from training_toys import TEXT

TOKENS = (3, 2, 2)


def masked_dataset(count=3, flat=None, *, channels=16, context=TEXT):
    """Latents (channels, 3, 4, 4). flat: a score for all tokens, where not drawn. context: width of the text."""
    draw = torch.Generator().manual_seed(0)
    shape, rows = (channels, 3, 4, 4), []
    for _ in range(count):
        scores = (torch.rand(TOKENS, generator=draw) < 0.4).float() if flat is None else torch.full(TOKENS, flat)
        cells = scores.repeat_interleave(2, 1).repeat_interleave(2, 2)
        rows.append({"latents": torch.randn(shape, generator=draw), "mask_scores": scores,
                     "mask_latents": torch.ones(channels, 1, 1, 1) * (2 * cells - 1)})  # fmt: skip
    samples = [SampleInfo(f"clip {n}", "", 0, shape) for n in range(count)]
    texts = {"": TextEntry(torch.randn(2, context, generator=draw))}
    record = {"fingerprint": "toy", "clips": [], "windows": {}, "encoders": "toy", "latent": {}}
    return LatentDataset(samples, texts, lambda n: {name: value.clone() for name, value in rows[n].items()}, record, "")
