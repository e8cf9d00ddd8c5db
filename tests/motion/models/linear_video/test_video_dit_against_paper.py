"""The network against the naive float64 writing of it from the paper, in outputs and gradients."""

import dataclasses

import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from video_dit_reference import raw_output

TINY = LinearVideoDiTConfig(
    in_channels=4, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=8,
    num_cross_attention_heads=2, caption_channels=12,
)  # fmt: skip
MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])  # a hole inside; nothing real at all


def draw(config, b=2, t=3, h=4, w=6, n=5, seed=1):
    """Inputs of raw_output by its names: float64 holding values that float32 holds too."""
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(shape, generator=generator).double()  # noqa: E731
    given = {
        "latents": randn(b, config.in_channels, t, h, w), "timestep": torch.linspace(300.0, 800.0, b),
        "context": randn(b, n, config.caption_channels), "attention_mask": MASK if (b, n) == (2, 5) else None,
        "bucket": torch.arange(b) + 3,
    }  # fmt: skip
    if config.pooled_text_embedding:
        given["pooled"] = randn(b, config.caption_channels)
    if config.concat_first_frame:
        given["first"] = randn(b, config.in_channels, 1, h, w)
    return given


def call(model, given, dtype):
    named = {"bucket": "motion_bucket_id", "first": "first_latent", "positions": "frame_indices"}
    same = {"timestep", "bucket", "attention_mask", "positions"}
    arguments = {
        named.get(name, name): value if value is None or name in same else value.to(dtype)
        for name, value in given.items()
    }
    return model.predict_raw(arguments.pop("latents"), arguments.pop("timestep"), Conditions(**arguments))


def doubles(model):
    return {name: value.detach().double().requires_grad_() for name, value in model.state_dict().items()}


def distance(out, truth):
    return ((out.double() - truth).abs().max() / truth.abs().max()).item()


def check(out, truth, limit, what=""):
    """Fail with two numbers: pytest would print whole networks."""
    error = distance(out, truth)
    assert error <= limit, what


@pytest.mark.slow
@pytest.mark.parametrize("name, side", [("motionblocks-tiny", 8), ("motionblocks-small", 16)])
@torch.no_grad()
def test_shipped_weights_answer_as_the_paper_says(name, side):
    model = load_builtin(name).dit
    given = draw(model.config, b=1, t=3, h=side, w=side, n=8)
    given["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    truth = raw_output(doubles(model), model.config, **given)
    check(call(model, given, torch.float32), truth, 1e-5)


EXTENDED = {
    "concat_first_frame": True, "first_frame_texture": True, "frame_index_embedding": True,
    "pooled_text_embedding": True, "position_features": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "frames, limit, change",
    [(3, 1e-10, {}), (1, 1e-10, {}), (3, 1e-10, {"qk_norm": True, "patch_size": 1}),
     (3, 1e-10, {"motion_buckets": 0, "temporal_form": "linear"}),
     (2, 1e-6, EXTENDED)],  # features of places and textures are float32
    ids=["plain", "one frame", "normed", "linear form", "extended"],
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_the_paper(frames, limit, change):
    config = dataclasses.replace(TINY, **change)
    torch.manual_seed(0)
    model = LinearVideoDiT(config, dtype=torch.float64)
    state, given = doubles(model), draw(config, t=frames)
    latents, ours = (given["latents"].clone().requires_grad_() for _ in range(2))
    truth = raw_output(state, config, **given | {"latents": latents})
    out = call(model, given | {"latents": ours}, torch.float64)
    check(out, truth, limit)
    weights = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (out * weights).sum().backward()
    (truth * weights).sum().backward()
    check(ours.grad, latents.grad, 10 * limit)
    largest = max(value.grad.abs().max() for value in state.values() if value.grad is not None)
    for name, value in model.named_parameters():
        found, expected = (torch.zeros(1) if part.grad is None else part.grad for part in (value, state[name]))
        error = (found - expected).abs().max()  # to_k.bias has no gradient but rounding, nor has q of one frame
        assert error <= 10 * limit * expected.abs().max() + limit * largest, name


@pytest.mark.slow
def test_float32_gradients_of_shipped_weights_are_those_of_the_paper():
    """Gradients of tables that cancel over tokens carry more rounding than outputs do."""
    model = load_builtin("motionblocks-tiny").dit.requires_grad_()
    given = draw(model.config, b=1, t=2, h=8, w=8, n=8)
    state = doubles(model)
    raw_output(state, model.config, **given).square().mean().backward()
    call(model, given, torch.float32).square().mean().backward()
    largest = max(state[name].grad.norm() for name, _ in model.named_parameters())
    for name, value in model.named_parameters():
        error = (value.grad.double() - state[name].grad).norm()
        assert error <= 1e-4 * state[name].grad.norm() + 1e-6 * largest, name  # to_k.bias has none at all


@torch.no_grad()
def test_frame_positions_of_each_sample_are_its_own():
    torch.manual_seed(0)
    model = LinearVideoDiT(TINY, dtype=torch.float64)
    given = draw(TINY) | {"positions": torch.tensor([[0, 1, 2], [5, 3, 40]])}
    check(call(model, given, torch.float64), raw_output(doubles(model), TINY, **given), 1e-10)
