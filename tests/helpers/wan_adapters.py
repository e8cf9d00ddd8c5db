"""Small real adapters for the places of a Wan block, each with weights of its own: for the host's network and ours."""

import torch
import torch.nn.functional as F
from pack.motion.models.block_adapters import BlockAdapters, PairWeights
from torch import nn


class InsideWan:
    """What the adapters below share. rank: of the small matrices. fits: blocks of this width."""

    layers = {}

    def __init__(self, shapes, width, blocks, seed, dtype):
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode(False):
            self.weights = {
                f"{block}.{name}": nn.Parameter(
                    (torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5).to(dtype)
                )
                for block in blocks for name, shape in shapes.items()
            }  # fmt: skip
        self.width, self.blocks = width, blocks

    @property
    def fits(self):
        return {f"blocks.{block}.{self.beside}.q.weight": (self.width, self.width) for block in self.blocks}

    def parameters(self):
        return dict(self.weights)

    def tensors(self):
        return {name: value.detach() for name, value in self.weights.items()}

    def of(self, site, *names):
        block = site.around.block
        found = [self.weights[f"{block}.{name}"].to(site.tokens) for name in names if block in self.blocks]
        return found or None


class CrossFrame(InsideWan):
    """Each frame's tokens ask frame 1 and the frame before, by queries of their own, keys and values of the layer.

    fresh: `out` is zero, as at the start of a training.
    """

    kind, beside = "cross_frame", "self_attn"

    def __init__(self, width, *, blocks=(0, 1), rank=4, seed=1, fresh=False, dtype=torch.float32):
        shapes = {"down": (rank, width), "up": (width, rank), "out": (width, width)}
        super().__init__(shapes, width, blocks, seed, dtype)
        if fresh:
            for block in blocks:
                self.weights[f"{block}.out"].data.zero_()

    @property
    def slots(self):
        return BlockAdapters(beside_self_attention=self.answer)

    def answer(self, site):
        found = self.of(site, "down", "up", "out")
        if found is None:
            return None
        down, up, out = found
        b, t, n, d = site.tokens.shape
        query = site.unnormed_query + F.linear(F.linear(site.tokens.flatten(0, 1), down), up)
        query = site.attention.norm_q(query).view(b, t, n, -1, site.key.shape[-1])
        key, value = (part.unflatten(0, (b, t)) for part in (site.key, site.value))
        mixed = 0
        for pick in (torch.zeros(t, dtype=torch.long), torch.arange(t).sub(1).clamp_min(0)):
            parts = (part.transpose(2, 3) for part in (query, key[:, pick], value[:, pick]))
            mixed = mixed + 0.5 * F.scaled_dot_product_attention(*parts)
        return F.linear(mixed.transpose(2, 3).flatten(3), out)


class TextMLP(InsideWan):
    """Two layers in place of the text, on the queries that the layer makes."""

    kind, beside = "text_mlp", "cross_attn"

    def __init__(self, width, *, blocks=(0, 1), rank=4, seed=2, dtype=torch.float32):
        super().__init__({"down": (rank, width), "up": (width, rank)}, width, blocks, seed, dtype)

    @property
    def slots(self):
        return BlockAdapters(instead_of_text=self.answer)

    def answer(self, site):
        found = self.of(site, "down", "up")
        if found is None:
            return None
        query = site.attention.norm_q(site.attention.q(site.tokens))
        return F.linear(F.gelu(F.layer_norm(F.linear(query, found[0]), found[0].shape[:1])), found[1])


class PairBias(InsideWan):
    """Weighs the pairs of tokens by scores of the tokens: those alike meet, others hardly do."""

    kind, beside, floor = "pair_bias", "self_attn", 1e-4

    def __init__(self, width, *, blocks=(0, 1), seed=3, dtype=torch.float32):
        super().__init__({"score": (1, width)}, width, blocks, seed, dtype)

    @property
    def slots(self):
        return BlockAdapters(attention_bias=self.answer)

    def answer(self, site):
        found = self.of(site, "score")
        if found is None:
            return None
        score = torch.sigmoid(3 * F.linear(site.tokens, found[0]))
        asking = torch.cat((score + self.floor, 1 - score + self.floor), -1)
        return PairWeights(asking, torch.cat((score, 1 - score), -1))
