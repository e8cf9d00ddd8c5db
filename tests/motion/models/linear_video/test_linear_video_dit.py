"""The linear video DiT: names and counts of the reference, equality with SANA, batch rows, extensions."""

import dataclasses
import json

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LinearVideoSpec

TINY = LinearVideoDiTConfig(
    in_channels=4, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=8,
    num_cross_attention_heads=2, caption_channels=12,
)  # fmt: skip
BUILTIN = LinearVideoDiTConfig(
    in_channels=200, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
    caption_channels=12, flow_channels=8, concat_first_frame=True, frame_index_embedding=True,
    pooled_text_embedding=True, position_features=True, prediction="x0",
)  # fmt: skip


def build(config, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return LinearVideoDiT(config, dtype=dtype).eval()


def inputs(config, b=1, t=3, h=4, w=6, n=5, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(b, config.in_channels, t, h, w, generator=generator).to(dtype)
    context = torch.randn(b, n, config.caption_channels, generator=generator).to(dtype)
    return latents, torch.full((b,), 700.0), context


def given(config, **sizes):
    latents, timestep, context = inputs(config, **sizes)
    return latents, timestep, Conditions(context)


def meta_model(config):
    with torch.device("meta"):
        return LinearVideoDiT(config)


def test_reference_layout_has_its_720_names_and_parameter_counts():
    model = meta_model(LinearVideoDiTConfig())
    state = model.state_dict()
    assert len(state) == 720
    assert sum(p.numel() for p in model.parameters()) == 746_121_632
    without = meta_model(LinearVideoDiTConfig(motion_buckets=0))
    assert sum(p.numel() for p in without.parameters()) == 744_497_312
    shapes = {
        "patch_embed.proj.weight": (1152, 32, 1, 1),
        "time_embed.emb.timestep_embedder.linear_1.weight": (1152, 256),
        "time_embed.motion_guidance_emb.timestep_embedder.linear_2.bias": (1152,),
        "time_embed.linear.weight": (9 * 1152, 1152),
        "caption_projection.linear_1.weight": (1152, 2304),
        "caption_norm.weight": (1152,),
        "transformer_blocks.27.scale_shift_table": (6, 1152),
        "transformer_blocks.27.scale_shift_table_attn3d": (3, 1152),
        "transformer_blocks.0.attn1.to_q.weight": (1152, 1152),
        "transformer_blocks.0.attn_temporal.to_out.0.bias": (1152,),
        "transformer_blocks.0.attn2.to_k.bias": (1152,),
        "transformer_blocks.0.ff.conv_inverted.weight": (5760, 1152, 1, 1),
        "transformer_blocks.0.ff.conv_depth.weight": (5760, 1, 3, 3),
        "transformer_blocks.0.ff.conv_point.weight": (1152, 2880, 1, 1),
        "scale_shift_table": (2, 1152),
        "proj_out.weight": (32, 1152),
    }
    for name, shape in shapes.items():
        assert tuple(state[name].shape) == shape, name
    assert "transformer_blocks.0.attn1.to_q.bias" not in state
    assert "transformer_blocks.0.ff.conv_point.bias" not in state


def test_all_extensions_off_adds_no_weight():
    plain = set(meta_model(TINY).state_dict())
    extended = set(meta_model(BUILTIN).state_dict())
    added = {name.split(".")[0] for name in extended - plain}
    assert added == {"first_frame_embed", "frame_index_embed", "pooled_projection", "position_embed"}
    assert plain <= extended


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("patch", [1, 2])
@torch.no_grad()
def test_inflated_model_equals_diffusers_sana_frame_by_frame(qk_norm, patch):
    diffusers = pytest.importorskip("diffusers")
    config = dataclasses.replace(TINY, qk_norm=qk_norm, patch_size=patch)
    torch.manual_seed(0)
    sana = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=12,
        patch_size=patch, sample_size=8, qk_norm="rms_norm_across_heads" if qk_norm else None,
    ).eval()  # fmt: skip
    ours = build(config)
    state, ours_state = sana.state_dict(), ours.state_dict()
    width = config.width
    for name, value in ours_state.items():
        if name == "time_embed.linear.weight" or name == "time_embed.linear.bias":
            value[: 6 * width] = state[name]
            value[6 * width :] = state[name][: 3 * width]
        elif name in state:
            value.copy_(state[name])
        elif "attn_temporal.to_out" in name or "motion_guidance_emb.timestep_embedder.linear_2" in name:
            value.zero_()
    latents, timestep, context = inputs(config, b=2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    bucket = torch.tensor([0, 19])
    result = ours(latents, timestep, Conditions(context, mask, motion_bucket_id=bucket))
    for frame in range(latents.shape[2]):
        expected = sana(latents[:, :, frame], context, timestep, encoder_attention_mask=mask).sample
        assert (result[:, :, frame] - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_rows_with_different_text_lengths_do_not_mix():
    model = build(TINY)
    latents, timestep, context = inputs(TINY, b=2)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    both = model(latents, timestep, Conditions(context, mask))
    short = model(latents[:1], timestep[:1], Conditions(context[:1, :2]))
    long = model(latents[1:], timestep[1:], Conditions(context[1:]))
    assert torch.allclose(both, torch.cat((short, long)), atol=2e-6)


@torch.no_grad()
def test_padding_tokens_are_ignored():
    model = build(TINY)
    latents, timestep, context = inputs(TINY)
    mask = torch.tensor([[1, 1, 0, 0, 0]])
    poisoned = context.clone()
    poisoned[:, 2:] = 1e3
    first = model(latents, timestep, Conditions(context, mask))
    assert torch.allclose(first, model(latents, timestep, Conditions(poisoned, mask)), atol=1e-6)


@torch.no_grad()
def test_bucket_default_is_the_configured_one_and_buckets_matter():
    model = build(TINY)
    arguments = inputs(TINY)
    default, *told = (
        model(*arguments[:2], Conditions(arguments[2], motion_bucket_id=bucket and torch.tensor([bucket])))
        for bucket in (None, 15, 3)
    )  # fmt: skip
    assert torch.equal(default, told[0])
    assert not torch.allclose(default, told[1], atol=1e-4)


@torch.no_grad()
def test_linear_and_direct_temporal_forms_give_one_model():
    arguments = given(TINY, t=16)
    results = []
    for form in ("linear", "direct"):
        results.append(build(dataclasses.replace(TINY, temporal_form=form))(*arguments))
    assert torch.allclose(*results, atol=1e-5)


@torch.no_grad()
def test_more_than_64_frames_run():
    assert build(TINY)(*given(TINY, t=70)).shape[2] == 70


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_float32(dtype):
    exact = build(TINY)(*given(TINY))
    latents, timestep, context = inputs(TINY, dtype=dtype)
    half = build(TINY).to(dtype)(latents, timestep, Conditions(context))
    assert half.dtype == dtype
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


@torch.no_grad()
def test_identity_block_seam_changes_no_bit():
    model = build(TINY)
    arguments = given(TINY)
    seen = []

    def run_block(index, call, hidden_states):
        seen.append(index)
        return call(hidden_states)

    assert torch.equal(model(*arguments), model(*arguments, run_block=run_block))
    assert seen == [0, 1]


@torch.no_grad()
def test_inputs_are_not_written_into():
    model = build(TINY)
    arguments = inputs(TINY)
    copies = [x.clone() for x in arguments]
    model(*arguments[:2], Conditions(arguments[2]))
    assert all(torch.equal(x, y) for x, y in zip(arguments, copies))


@torch.no_grad()
def test_x0_prediction_is_the_velocity_of_its_clean_estimate():
    config = dataclasses.replace(TINY, prediction="x0")
    model, velocity_model = build(config), build(TINY)
    latents, timestep, context = inputs(config)
    clean = velocity_model(latents, timestep, Conditions(context))  # same weights: raw output
    expected = (latents - clean) / 0.7
    assert torch.allclose(model(latents, timestep, Conditions(context)), expected, atol=1e-5)


@torch.no_grad()
def test_silent_flow_head_repeats_the_first_frame():
    model = build(BUILTIN)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    latents, timestep, context = inputs(BUILTIN, h=8, w=8)
    first = torch.randn(1, 200, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    first[:, 192:] = 0
    velocity = model(latents, timestep, Conditions(context, first_latent=first, pooled=torch.zeros(1, 12)))
    clean = latents - 0.7 * velocity
    assert torch.allclose(clean, first.expand_as(clean), atol=1e-3)


def test_flow_head_without_start_image_says_what_to_do():
    latents, timestep, context = inputs(BUILTIN, h=8, w=8)
    with pytest.raises(ConfigError, match="Photo to Video"):
        build(BUILTIN)(latents, timestep, Conditions(context, pooled=torch.zeros(1, 12)))


def test_wrong_latents_and_text_are_named():
    model = build(TINY)
    latents, timestep, context = inputs(TINY)
    with pytest.raises(ShapeError, match=r"needs \(b, 4, t, h, w\)"):
        model(latents[:, :3], timestep, Conditions(context))
    with pytest.raises(ShapeError, match="divide by 2"):
        model(latents[..., :3], timestep, Conditions(context))
    with pytest.raises(ShapeError, match=r"needs \(b, n, 12\)"):
        model(latents, timestep, Conditions(context[..., :5]))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"num_layers": 0}, "num_layers"), ({"temporal_form": "fast"}, "temporal_form"),
        ({"attention_head_dim": 7}, "even"), ({"num_cross_attention_heads": 3}, "divide"),
        ({"flow_channels": 8}, "flow head"), ({"prediction": "noise"}, "prediction"),
        ({"mlp_ratio": 99.0}, "mlp_ratio"),
    ],
)  # fmt: skip
def test_bad_config_values_are_refused_by_name(change, word):
    with pytest.raises(ConfigError, match=word):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize("values, words", [
    ({"layers": 3}, "does not know layers"), ({"num_layers": "3"}, "num_layers is '3'; it needs int"),
    ({"num_layers": True}, "needs int"), ({"mlp_ratio": None}, "needs float"), ([], "JSON object, got list"),
])  # fmt: skip
def test_config_from_hostile_json_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        LinearVideoDiTConfig.from_dict(values)


@pytest.mark.parametrize("spec", [LinearVideoSpec.paper_dcae(), LinearVideoSpec.ref_sdvae_p2()])
def test_spec_survives_its_metadata(spec):
    assert LinearVideoSpec.from_metadata(spec.to_metadata()) == spec


@pytest.mark.parametrize(
    "change, word",
    [
        ({"format_version": "2"}, "reads up to 1"), ({"format_version": "x"}, "whole number"),
        ({"family": "wan"}, "wan"),
        ({"spec": "{"}, "JSON"), ({"spec": "[1]"}, "object"), ({"spec": json.dumps({"extra": 1})}, "unknown"),
        ({"spec": json.dumps({"sampling": {"shift": float("nan")}})}, "shift"),
        ({"spec": json.dumps({"config": {"num_layers": 10**400}})}, "num_layers"),
        ({"spec": "[" * 100000}, "JSON"), ({"spec": json.dumps({"objective": 3})}, "objective"),
    ],
)  # fmt: skip
def test_hostile_metadata_is_refused(change, word):
    metadata = LinearVideoSpec.paper_dcae().to_metadata() | change
    with pytest.raises(CheckpointError, match=word):
        LinearVideoSpec.from_metadata(metadata)
