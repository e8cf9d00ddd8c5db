"""The seam for foreign layers: a network built with layers that keep packed weights computes as with plain ones.

ComfyUI-GGUF enters a model so: its layers hold quantised bytes and unpack them inside `forward`.
"""

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.sana_video.network import SanaVideoConfig, SanaVideoDiT
from pack.motion.models.wan.network import WanConfig, WanDiT
from torch import nn

SIZES = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "num_cross_attention_heads": 4,
         "caption_channels": 10}  # fmt: skip
NETWORKS = {
    "linear video": (LinearVideoDiT, LinearVideoDiTConfig(in_channels=4, patch_size=1, qk_norm=True, **SIZES)),
    "SANA-Video": (SanaVideoDiT, SanaVideoConfig(in_channels=4, patch_size=1, **SIZES)),
    "Wan": (WanDiT, WanConfig(in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12,
                              hidden_width=32, caption_channels=10)),
}


class Packed:
    """Mixin: the weight as 8-bit integers in one row, with a scale; nothing outside `forward` can multiply by it."""

    def pack(self):
        self.whole, self.scale = self.weight.shape, self.weight.abs().max() / 127
        integers = (self.weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(integers.flatten(), requires_grad=False)

    def unpacked(self):
        return (self.weight.float() * self.scale).reshape(self.whole)


class PackedOperations:
    """Layers as a quantising pack would inject them."""

    class Linear(Packed, nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.unpacked(), self.bias)

    class Conv2d(Packed, nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.unpacked(), self.bias)

    class Conv3d(Packed, nn.Conv3d):
        def forward(self, x):
            return self._conv_forward(x, self.unpacked(), self.bias)

    LayerNorm = nn.LayerNorm  # kept whole

    class RMSNorm(Packed, nn.RMSNorm):
        def forward(self, x):
            return nn.functional.rms_norm(x, self.normalized_shape, self.unpacked(), self.eps)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_network_of_packed_layers_equals_one_of_their_unpacked_weights(name):
    kind, config = NETWORKS[name]
    torch.manual_seed(0)
    packed, plain = kind(config, operations=PackedOperations).eval(), kind(config).eval()
    layers = [module for module in packed.modules() if isinstance(module, Packed)]
    for module in layers:
        module.pack()
    for theirs, ours in zip(packed.modules(), plain.modules(), strict=True):
        for key, value in theirs.named_parameters(recurse=False):
            given = theirs.unpacked() if key == "weight" and isinstance(theirs, Packed) else value
            getattr(ours, key).copy_(given)
    latents, context = torch.randn(2, 4, 3, 4, 6), torch.randn(2, 5, 10)
    timestep = torch.tensor([700.0, 250.5])
    expected = plain(latents, timestep, Conditions(context))
    assert len(layers) > 20 and expected.std() > 0.01
    assert torch.allclose(packed(latents, timestep, Conditions(context)), expected, atol=1e-5)
