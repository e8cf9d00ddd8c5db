"""SANA-Video: names and counts of the published layout, equality with diffusers for text and image to video."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.conditions import Conditions
from pack.motion.models.module_weights import plain_weights
from pack.motion.models.sana_video.network import SanaVideoConfig, SanaVideoDiT
from pack.motion.models.text_cache import TextCache
from torch import nn

TINY = SanaVideoConfig(
    in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=14, num_cross_attention_heads=4,
    caption_channels=10,
)  # fmt: skip
MASK = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])


def build(config=TINY, *, dtype=torch.float32, **more):
    torch.manual_seed(0)
    return SanaVideoDiT(config, dtype=dtype, **more).eval()


def oracle(config=TINY):
    """diffusers' model of the same sizes, and ours with its weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    width, p = config.width, config.patch_size
    theirs = diffusers.SanaVideoTransformer3DModel(
        in_channels=config.in_channels, out_channels=config.in_channels,
        num_attention_heads=config.num_attention_heads, attention_head_dim=config.attention_head_dim,
        num_layers=config.num_layers, num_cross_attention_heads=config.num_cross_attention_heads,
        cross_attention_head_dim=width // config.num_cross_attention_heads, cross_attention_dim=width,
        caption_channels=config.caption_channels, mlp_ratio=config.mlp_ratio, patch_size=(1, p, p),
        qk_norm="rms_norm_across_heads" if config.qk_norm else None,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "norm" in name:  # norms that do nothing would hide a missing one
                value.uniform_(0.5, 1.5)
    ours = build(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def draw(config=TINY, *, b=2, t=3, h=4, w=6, m=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(b, config.in_channels, t, h, w, generator=generator).to(dtype)
    timestep = torch.tensor([700.0, 250.5])[:b]
    return latents, timestep, torch.randn(b, m, config.caption_channels, generator=generator).to(dtype)


def given(mask=None, **sizes):
    latents, timestep, context = draw(**sizes)
    return latents, timestep, Conditions(context, mask)


def a_token(per_frame, config, latents):
    """Timesteps (b, t) as the image-to-video pipeline of diffusers gives them, one a token."""
    h, w = (side // config.patch_size for side in latents.shape[3:])
    return per_frame[:, None, :, None, None].expand(-1, 1, -1, h, w)


def test_the_published_2b_model_has_its_496_names_and_parameter_count():
    state = SanaVideoDiT(SanaVideoConfig(), device="meta").state_dict()
    assert len(state) == 496 and all(value.is_meta for value in state.values())
    assert sum(value.numel() for value in state.values()) == 2_056_862_144
    shapes = {
        "patch_embedding.weight": (2240, 16, 1, 2, 2),
        "time_embed.emb.timestep_embedder.linear_1.weight": (2240, 256),
        "time_embed.linear.weight": (6 * 2240, 2240),
        "caption_projection.linear_1.weight": (2240, 2304),
        "transformer_blocks.19.scale_shift_table": (6, 2240),
        "transformer_blocks.0.attn1.norm_q.weight": (2240,),
        "transformer_blocks.0.attn2.norm_k.weight": (2240,),
        "transformer_blocks.0.ff.conv_inverted.weight": (13440, 2240, 1, 1),
        "transformer_blocks.0.ff.conv_depth.weight": (13440, 1, 3, 3),
        "transformer_blocks.0.ff.conv_point.weight": (2240, 6720, 1, 1),
        "transformer_blocks.0.ff.conv_temp.weight": (2240, 2240, 3, 1),
        "proj_out.weight": (64, 2240),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "transformer_blocks.0.attn1.to_q.bias" not in state


def test_the_720p_model_takes_single_cells_of_128_channels():
    state = SanaVideoDiT(SanaVideoConfig.for_720p(), device="meta").state_dict()
    assert tuple(state["patch_embedding.weight"].shape) == (2240, 128, 1, 1, 1)
    assert tuple(state["proj_out.weight"].shape) == (128, 2240) and len(state) == 496


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("config", [SanaVideoConfig(), SanaVideoConfig.for_720p()], ids=["480p", "720p"])
def test_full_size_names_and_shapes_are_those_of_diffusers(config):
    diffusers = pytest.importorskip("diffusers")
    p = config.patch_size
    with torch.device("meta"):
        theirs = diffusers.SanaVideoTransformer3DModel(
            in_channels=config.in_channels, out_channels=config.in_channels, mlp_ratio=3.0, patch_size=(1, p, p)
        )
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    ours = SanaVideoDiT(config, device="meta").state_dict()
    assert {name: value.shape for name, value in ours.items()} == expected


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("change", [{}, {"patch_size": 1}, {"qk_norm": False}], ids=["2b", "cells", "plain"])
@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_text_to_video_equals_diffusers(change, frames):
    config = dataclasses.replace(TINY, **change)
    theirs, ours = oracle(config)
    latents, timestep, context = draw(config, t=frames)
    expected = theirs(latents, context, timestep, encoder_attention_mask=MASK).sample
    assert (ours(latents, timestep, Conditions(context, MASK)) - expected).abs().max() <= 1e-5


@pytest.mark.slow  # importing diffusers
@torch.no_grad()
def test_timesteps_a_frame_equal_diffusers_timesteps_a_token():
    theirs, ours = oracle()
    latents, _, context = draw()
    each = torch.tensor([[0.0, 700.0, 400.0], [0.0, 250.5, 990.0]])
    expected = theirs(latents, context, a_token(each, TINY, latents), encoder_attention_mask=MASK).sample
    out = ours(latents, each, Conditions(context, MASK))
    assert (out - expected).abs().max() <= 1e-5
    assert not torch.allclose(out, ours(latents, each[:, 1], Conditions(context, MASK)), atol=1e-3)


@torch.no_grad()
def test_one_timestep_for_a_sample_is_that_of_all_its_frames():
    model, (latents, timestep, context) = build(), draw()
    whole = model(latents, timestep, Conditions(context))
    for each in (timestep[:, None], timestep[:, None].expand(-1, 3)):
        assert torch.allclose(model(latents, each, Conditions(context)), whole, atol=1e-6)


@pytest.mark.slow  # importing diffusers
@torch.no_grad()
def test_ten_guided_image_to_video_steps_equal_the_diffusers_pipeline():
    """Theirs is the whole pipeline; ours is Euler on the frames after the first, which stays clean at t = 0."""
    diffusers = pytest.importorskip("diffusers")
    config = dataclasses.replace(TINY, in_channels=16)
    theirs, ours = oracle(config)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=8.0)
    pipe = diffusers.SanaImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=theirs, scheduler=scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    noise, _, context = draw(config, h=4, w=4)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = pipe(
        image=image, prompt_embeds=context[1:], prompt_attention_mask=MASK[1:], negative_prompt=None,
        negative_prompt_embeds=context[:1], negative_prompt_attention_mask=MASK[:1], guidance_scale=6.0, height=32,
        width=32, frames=9, num_inference_steps=10, latents=noise[:1].clone(), output_type="latent",
        use_resolution_binning=False, return_dict=False,
    )[0]  # fmt: skip
    latents = torch.cat((expected[:, :, :1], noise[:1, :, 1:]), dim=2)
    levels = scheduler.sigmas
    assert len(levels) == 11 and levels[-1] == 0
    for level, following in zip(levels[:-1], levels[1:]):
        each = 1000 * level * torch.tensor([[0.0, 1.0, 1.0]]).expand(2, -1)
        negative, positive = ours(latents.expand(2, -1, -1, -1, -1), each, Conditions(context, MASK)).split(1)
        velocity = negative + 6.0 * (positive - negative)
        latents[:, :, 1:] += (following - level) * velocity[:, :, 1:]
    assert not torch.allclose(expected[:, :, 1:], noise[:1, :, 1:], atol=0.1)
    assert (latents - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.slow  # importing diffusers
def test_gradients_of_all_weights_equal_those_of_diffusers():
    theirs, ours = oracle()
    latents, _, context = draw()
    each = torch.tensor([[0.0, 700.0, 700.0], [0.0, 250.5, 250.5]])
    out = theirs(latents, context, a_token(each, TINY, latents), encoder_attention_mask=MASK).sample
    out.square().mean().backward()
    ours(latents, each, Conditions(context, MASK)).square().mean().backward()
    expected = {name: value.grad for name, value in theirs.named_parameters()}
    for name, value in ours.named_parameters():
        assert value.grad.abs().max() > 0, name
        assert (value.grad - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


@torch.no_grad()
def test_bfloat16_stays_near_float32():
    exact = build()(*given())
    out = build().to(torch.bfloat16)(*given(dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).norm() <= 0.05 * exact.norm()


@torch.no_grad()
def test_kept_texts_equal_masked_ones_in_any_order():
    model, (latents, timestep, context) = build(), draw()
    masked = model(latents, timestep, Conditions(context, MASK))
    poisoned, cache = context.clone(), TextCache()
    poisoned[0, 2:] = torch.nan
    for order in ([0, 1], [1, 0], [1]):
        kept = model(
            latents[order], timestep[order], Conditions(poisoned[order], MASK[order]), text_cache=cache,
            text_keys=tuple(order),
        )  # fmt: skip
        assert (kept - masked[order]).abs().max() <= 1e-5


def everything(module, like):
    """A resolver that gives the weights of the norms too, as the host's does."""
    if isinstance(module, nn.RMSNorm):
        return nullcontext((module.weight, None))
    return plain_weights(module, like)


@pytest.mark.slow  # importing diffusers
def test_norms_of_q_and_k_are_called_or_applied_by_the_operator_with_equal_results():
    _, called = oracle()
    _, applied = oracle()
    applied.weights_of = everything
    inside = []
    for model in (called, applied):
        for block in model.transformer_blocks:
            block.attn1.norm_q.register_forward_hook(lambda module, args, out, model=model: inside.append(model))
    results = [model(*given(MASK)) for model in (called, applied)]
    assert inside == [called] * 2
    assert (results[0] - results[1]).abs().max() <= 1e-5
    for result in results:
        result.square().mean().backward()
    for (name, one), two in zip(called.named_parameters(), applied.parameters()):
        assert (one.grad - two.grad).norm() <= 1e-4 * one.grad.norm(), name


@pytest.mark.parametrize(
    "name",
    ["patch_embedding"] + [f"transformer_blocks.{layer}" for layer in ("0.attn1.norm_k", "1.ff.conv_depth",
                                                                       "1.ff.conv_temp")],
)  # fmt: skip
@torch.no_grad()
def test_a_hook_on_a_layer_acts_like_the_weight_it_stands_for(name):
    """The hook adds to every channel a share of its own: a common factor of all keys would cancel."""
    hooked, changed, told = build(dtype=torch.float64), build(dtype=torch.float64), given(dtype=torch.float64)
    before = hooked(*told)
    layer = changed.get_submodule(name)
    share = torch.linspace(0.5, 1.5, layer.weight.shape[0], dtype=torch.float64)
    for value in layer.parameters():
        value *= share.view(-1, *(1,) * (value.ndim - 1))
    axis = -1 if "norm" in name else 1
    hooked.get_submodule(name).register_forward_hook(
        lambda module, args, out: (out.movedim(axis, -1) * share).movedim(-1, axis)
    )
    out = hooked(*told)
    assert (out - changed(*told)).abs().max() <= 1e-10
    assert (out - before).abs().max() >= 1e-6


@torch.no_grad()
def test_block_patches_see_complete_tokens_and_change_nothing():
    model, told, seen = build(), given(), []

    def watch(index, call, hidden_states):
        seen.append((index, tuple(hidden_states.shape)))
        return call(hidden_states)

    inputs = (*told[:2], told[2].context)
    copies = [value.clone() for value in inputs]
    assert torch.allclose(model(*told, run_block=watch), model(*told), atol=1e-6)
    assert seen == [(0, (2, 3, 6, 28)), (1, (2, 3, 6, 28))]
    assert all(torch.equal(value, copy) for value, copy in zip(inputs, copies))


def test_all_layers_come_from_operations():
    class Operations:
        """A marked class for each layer with weights."""

    for base in (nn.Linear, nn.Conv2d, nn.Conv3d, nn.RMSNorm):
        setattr(Operations, base.__name__, type("Marked", (base,), {}))
    model = SanaVideoDiT(TINY, operations=Operations, device="meta")
    layers = [module for module in model.modules() if hasattr(module, "weight")]
    assert len(layers) == 8 + 2 * 16 and {type(layer).__name__ for layer in layers} == {"Marked"}


@torch.no_grad()
def test_a_later_frame_moves_an_earlier_one_and_rows_of_a_batch_do_not_mix():
    model, (latents, timestep, context) = build(), draw()
    before = model(latents, timestep, Conditions(context))
    latents[1, :, -1] += 1
    after = model(latents, timestep, Conditions(context))
    assert torch.equal(after[0], before[0]) and (after[1, :, 0] - before[1, :, 0]).abs().max() > 1e-5


@pytest.mark.parametrize(
    "change, words",
    [
        ({"latents": (2, 3, 3, 4, 6)}, r"needs \(b, 4, t, h, w\): use the VAE"),
        ({"latents": (2, 4, 4, 6)}, r"needs \(b, 4, t, h, w\)"),
        ({"latents": (2, 4, 3, 5, 6)}, "3 frames of 5x6; .* divide by 2"),
        ({"latents": (2, 4, 0, 4, 6)}, "0 frames"),
        ({"timestep": (3,)}, r"timestep is \(3,\); \(2,\) or \(2, 3\) is needed"),
        ({"timestep": (2, 2)}, "one a latent frame"),
        ({"context": (2, 5, 9)}, r"needs \(b, n, 10\): use the text encoder"),
        ({"context": (1, 5, 10)}, "1 texts came with 2 videos"),
        ({"attention_mask": (2, 4)}, r"text mask is \(2, 4\); \(2, 5\) is needed"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_named_with_what_is_needed(change, words):
    shapes = {"latents": (2, 4, 3, 4, 6), "timestep": (2,), "context": (2, 5, 10), "attention_mask": (2, 5)} | change
    with pytest.raises(ShapeError, match=words):
        latents, timestep, *text = (torch.zeros(shape) for shape in shapes.values())
        build(device="meta")(latents, timestep, Conditions(*text))


@pytest.mark.parametrize(
    "values, word",
    [
        ({"num_layers": 0}, "num_layers is 0; it must be 1 to 200"), ({"attention_head_dim": 7}, "even"),
        ({"num_cross_attention_heads": 3}, "divide"), ({"mlp_ratio": 99.0}, "mlp_ratio"), ({"layers": 3}, "layers"),
        ({"patch_size": [1, 2, 2]}, "patch_size"), ({"num_layers": True}, "num_layers"), ([], "object"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be_are_refused_by_name(values, word):
    with pytest.raises(ConfigError, match=word):
        SanaVideoConfig.from_dict(values)


@pytest.mark.parametrize("config", [SanaVideoConfig(), SanaVideoConfig.for_720p(), TINY])
def test_a_config_survives_its_record(config):
    assert SanaVideoConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("name, way_out", [("attn1", "to_out.0"), ("attn2", "to_out.0"), ("ff", None)])
@torch.no_grad()
def test_a_hook_on_a_whole_module_fires_once_a_block_and_acts(name, way_out):
    model, told, seen = build(dtype=torch.float64), given(dtype=torch.float64), []
    before = model(*told)

    def watch(module, args, out):
        seen.append((args[0].shape, out.shape))
        return out * 1.1

    handle = model.transformer_blocks[1].get_submodule(name).register_forward_hook(watch)
    out = model(*told)
    handle.remove()
    width = TINY.width
    assert seen == [((2, 3, 24 // TINY.patch_size**2, width),) * 2]
    assert (out - before).abs().max() >= 1e-6 and torch.equal(model(*told), before)
    if way_out is not None:
        for value in model.transformer_blocks[1].get_submodule(f"{name}.{way_out}").parameters():
            value *= 1.1
        assert (model(*told) - out).abs().max() <= 1e-10
