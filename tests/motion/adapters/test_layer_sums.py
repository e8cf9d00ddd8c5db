"""The sum at one layer: layers that do not answer token by token take the mean over the video, row by row."""

import pytest
import torch
from pack.motion.adapters.layer_sums import layer_hook
from pack.motion.adapters.lora import LoRALayer
from pack.motion.errors import ShapeError
from torch import nn


def test_a_layer_of_time_takes_each_rows_mean_and_one_without_a_row_for_each_video_is_refused():
    layer, x = nn.Linear(4, 4), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    difference = LoRALayer(layer, 2, 4.0)
    nn.init.normal_(difference.down), nn.init.normal_(difference.up)
    weights = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    hook = layer_hook("time_embed.linear", [(weights, difference)], (2, 2))
    truth = torch.stack([2 * weights[row].mean() * (difference.up @ (difference.down @ x[row])) for row in (0, 1)])
    torch.testing.assert_close(hook(layer, (x,), torch.zeros(2, 4)), truth)
    with pytest.raises(ShapeError, match="layer time_embed.linear answered .* one row for each of 2 videos"):
        hook(layer, (x[:1],), torch.zeros(1, 4))
