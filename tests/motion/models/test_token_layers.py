"""Values of tokens meet the outputs of a layer in every layout, all at once or some frames at a time."""

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.models.token_layers import TokenValues, carries_tokens
from torch import nn

B, T, GRID, WIDTH = 2, 3, (2, 4), 5
N = GRID[0] * GRID[1]
LINEAR, CONV = nn.Linear(1, 1), nn.Conv2d(1, 1, 1)
LAYOUTS = {  # how a layout is made of (b, t, n, d), and the layer
    "b t n d": (lambda x: x, LINEAR), "bt n d": (lambda x: x.flatten(0, 1), LINEAR),
    "b tn d": (lambda x: x.flatten(1, 2), LINEAR),
    "bt d h w": (lambda x: x.flatten(0, 1).transpose(1, 2).unflatten(2, GRID), CONV),
    "b d t n": (lambda x: x.permute(0, 3, 1, 2), CONV),
}  # fmt: skip


def tokens(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_token_of_every_layout_meets_its_own_value(layout, rows):
    arrange, layer = LAYOUTS[layout]
    x, values = tokens(B, T, N, WIDTH), tokens(rows, T, N, seed=1)
    truth = torch.stack([torch.stack([torch.stack([values[b % rows, t, n] * x[b, t, n] for n in range(N)])
                                      for t in range(T)]) for b in range(B)])  # fmt: skip
    output = arrange(x)
    assert torch.equal(TokenValues(values, GRID).like(output, layer) * output, arrange(truth))


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("sizes", [[2, 2, 2], [4, 2], [1] * 6, [5, 1]])
@pytest.mark.parametrize("layout", ["bt n d", "bt d h w"])
def test_frames_that_come_in_parts_meet_the_values_of_their_turn(layout, sizes, rows):
    arrange, layer = LAYOUTS[layout]
    x, values = tokens(B, T, N, WIDTH), tokens(rows, T, N, seed=1)
    truth = arrange(x * values.unsqueeze(-1))
    spread = TokenValues(values, GRID)
    for _ in range(2):  # and again in the next pass
        parts = [spread.like(part, layer) * part for part in arrange(x).split(sizes)]
        assert torch.equal(torch.cat(parts), truth)


@pytest.mark.parametrize(("shape", "layer"), [
    ((B, T, N + 1, WIDTH), LINEAR), ((B, N + 1, WIDTH), LINEAR), ((B * T, WIDTH, 4, 2), CONV), ((B, WIDTH), LINEAR),
    ((B + 1, T, N, WIDTH), LINEAR), ((B * T + 1, N, WIDTH), LINEAR),
])  # fmt: skip
def test_outputs_of_another_video_are_refused(shape, layer):
    with pytest.raises(ShapeError, match="a layer answered"):
        TokenValues(tokens(B, T, N), GRID).like(torch.zeros(shape), layer)


@pytest.mark.parametrize(("name", "carries"), [
    ("patch_embed.proj", True), ("proj_out", True), ("transformer_blocks.0.attn1.to_q", True),
    ("transformer_blocks.11.attn2.to_out.0", True), ("transformer_blocks.1.ff.conv_point", True),
    ("blocks.0.self_attn.k", True), ("blocks.1.cross_attn.q", True), ("blocks.1.cross_attn.o", True),
    ("blocks.29.ffn.2", True), ("head.head", True), ("blocks.1.cross_attn.k", False), ("blocks.1.cross_attn.v", False),
    ("blocks.1.cross_attn.k_img", False), ("blocks.1.cross_attn.v_img", False), ("time_embedding.0", False),
    ("text_embedding.2", False), ("transformer_blocks.0.attn2.to_k", False), ("transformer_blocks.0.attn2.to_v", False),
    ("time_embed.linear", False), ("caption_projection.linear_1", False), ("first_frame_embed.proj", False),
    ("skip_head.conv_in", False),
])  # fmt: skip
def test_layers_of_text_time_and_photo_carry_no_tokens(name, carries):
    assert carries_tokens(name) == carries
