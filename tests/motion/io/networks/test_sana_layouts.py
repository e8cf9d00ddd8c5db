"""Names of the public SANA weights: both namings, fused tensors, what is dropped, what is refused by name."""

import dataclasses
import math

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.networks.sana_layouts import detect_sana, sana_shapes, sana_weights, to_nvlabs_names, to_our_names
from pack.motion.models.sana_video.dims import SanaDims

SANA_600M = SanaDims()
SANA_1600M = SanaDims(num_layers=20, num_attention_heads=70, num_cross_attention_heads=20, hidden_width=5600)
SANA_1_5 = dataclasses.replace(SANA_1600M, qk_norm=True)
SANA_VIDEO = SanaDims("sana_video", 16, (1, 2, 2), 20, 20, 112, 20, 2304, 6720, True)
SANA_VIDEO_720P = dataclasses.replace(SANA_VIDEO, in_channels=128, patch_size=(1, 1, 1))
PUBLIC = {"0.6B": SANA_600M, "1.6B": SANA_1600M, "1.5": SANA_1_5, "4.8B": dataclasses.replace(SANA_1_5, num_layers=60),
          "video": SANA_VIDEO, "video 720p": SANA_VIDEO_720P}  # fmt: skip
TINY = {
    "image": SanaDims("sana", 4, (1, 1, 1), 2, 2, 8, 2, 6, 20, False),
    "image with norms": SanaDims("sana", 4, (1, 2, 2), 2, 2, 8, 2, 6, 20, True),
    "video": SanaDims("sana_video", 4, (1, 2, 2), 2, 2, 8, 4, 6, 24, True),
}


def config_of(dims, **changes):
    video = dims.family == "sana_video"
    return {
        "_class_name": "SanaVideoTransformer3DModel" if video else "SanaTransformer2DModel",
        "num_attention_heads": dims.num_attention_heads, "attention_head_dim": dims.attention_head_dim,
        "num_cross_attention_heads": dims.num_cross_attention_heads, "in_channels": dims.in_channels,
        "patch_size": list(dims.patch_size) if video else dims.patch_size[1], "interpolation_scale": None, **changes,
    }  # fmt: skip


def random_nvlabs(dims):
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in sana_shapes(dims, "nvlabs").items()}


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def refusal(shapes, config=None):
    with pytest.raises(CheckpointError) as caught:
        detect_sana("weights.safetensors", shapes, config)
    assert "weights.safetensors" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "count", "numbers"), [
    ("0.6B", 548, 591_747_872), ("1.6B", 396, 1_604_462_752), ("1.5", 476, None), ("video", 496, 2_056_862_144),
])  # fmt: skip
def test_public_sizes_have_the_published_counts_of_weights_and_parameters(name, count, numbers):
    shapes = sana_shapes(PUBLIC[name])
    assert len(shapes) == count
    assert numbers is None or sum(math.prod(shape) for shape in shapes.values()) == numbers
    fused = sana_shapes(PUBLIC[name], "nvlabs")
    assert sum(map(math.prod, fused.values())) == sum(map(math.prod, shapes.values()))


@pytest.mark.slow  # importing diffusers
def test_our_names_and_shapes_of_the_video_network_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    dims = TINY["video"]
    options = {n: v for n, v in config_of(dims).items() if n[0] != "_"} | {"patch_size": dims.patch_size}
    with torch.device("meta"):
        network = diffusers.SanaVideoTransformer3DModel(
            **options, out_channels=4, num_layers=2, cross_attention_head_dim=4, cross_attention_dim=16,
            caption_channels=6, mlp_ratio=1.5,
        )  # fmt: skip
    assert shapes_of(network.state_dict()) == sana_shapes(dims)


@pytest.mark.parametrize("naming", ["diffusers", "nvlabs"])
@pytest.mark.parametrize("name", PUBLIC)
def test_public_sizes_are_told_from_shapes_alone_in_both_namings(name, naming):
    layout = detect_sana("w", sana_shapes(PUBLIC[name], naming))
    assert (layout.dims, layout.naming, layout.dropped) == (PUBLIC[name], naming, ())


def test_sana_video_has_20_heads_of_112_and_not_the_70_of_32_that_fit_its_shapes():
    dims = detect_sana("w", sana_shapes(SANA_VIDEO)).dims
    assert (dims.num_attention_heads, dims.attention_head_dim) == (20, 112)
    assert detect_sana("w", sana_shapes(SANA_1600M)).dims.num_attention_heads == 70


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "state_dict.", "module."])
@pytest.mark.parametrize("name", TINY)
def test_nvlabs_to_ours_to_nvlabs_is_the_same_to_the_bit(name, prefix):
    dims, tensors = TINY[name], random_nvlabs(TINY[name])
    stored = {prefix + key: tensor for key, tensor in tensors.items()}
    layout = detect_sana("w", shapes_of(stored), config_of(dims))
    assert layout.dims == dims
    ours = to_our_names(layout, stored)
    assert shapes_of(ours) == sana_shapes(dims)
    back = to_nvlabs_names(dims, ours)
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_fused_tensors_hold_query_key_and_value_in_this_order():
    dims = TINY["image"]
    tensors = random_nvlabs(dims)
    ours = to_our_names(detect_sana("w", shapes_of(tensors), config_of(dims)), tensors)
    for index, name in enumerate(("to_q", "to_k", "to_v")):
        part = tensors["blocks.1.attn.qkv.weight"][16 * index : 16 * (index + 1)]
        assert torch.equal(ours[f"transformer_blocks.1.attn1.{name}.weight"], part)
    assert torch.equal(ours["transformer_blocks.0.attn2.to_v.bias"], tensors["blocks.0.cross_attn.kv_linear.bias"][16:])


def test_no_name_stands_twice_in_either_naming():
    for dims in TINY.values():
        weights = list(sana_weights(dims))
        assert len({w.nvlabs for w in weights}) == len(weights)
        assert len({name for w in weights for name in w.ours}) == sum(len(w.ours) for w in weights)


def test_our_own_naming_passes_through_untouched():
    dims = TINY["video"]
    state = {name: torch.randn(shape) for name, shape in sana_shapes(dims).items()}
    found = to_our_names(detect_sana("w", shapes_of(state), config_of(dims)), state)
    assert found.keys() == state.keys() and all(found[name] is state[name] for name in state)


def test_weights_the_network_does_not_use_are_dropped_and_named():
    extra = {"pos_embed": (1, 1024, 16), "y_embedder.y_embedding": (300, 6), "logvar_linear.weight": (1, 16),
             "logvar_linear.bias": (1,)}  # fmt: skip
    dims = TINY["image"]
    shapes = {"model." + name: shape for name, shape in (sana_shapes(dims, "nvlabs") | extra).items()}
    layout = detect_sana("w", shapes, config_of(dims))
    assert set(layout.dropped) == {"model." + name for name in extra}
    assert not set(layout.names) & set(extra)


def test_missing_extra_and_misshapen_weights_are_named():
    shapes = sana_shapes(TINY["image"])
    name = "transformer_blocks.1.attn2.to_k.bias"
    config = config_of(TINY["image"])
    assert name in refusal({key: shape for key, shape in shapes.items() if key != name}, config)
    assert "surprise" in refusal(shapes | {"surprise": (1,)}, config)
    assert f"{name}: (3,) here, (16,) needed" in refusal(shapes | {name: (3,)}, config)
    telling = "transformer_blocks.0.ff.conv_point.weight"
    assert "incomplete" in refusal({key: shape for key, shape in shapes.items() if key != telling}, config)


@pytest.mark.parametrize("mark", [
    "time_embed.guidance_embedder.linear_1.weight", "time_embed.timestep_embedder.linear_1.weight",
    "cfg_embedder.mlp.0.weight",
])  # fmt: skip
def test_sprint_is_refused_by_name(mark):
    naming = "nvlabs" if mark.startswith("cfg") else "diffusers"
    assert "SANA-Sprint" in refusal(sana_shapes(SANA_1_5, naming) | {mark: (8, 8)})


@pytest.mark.parametrize("entry", [{"guidance_embeds": True}, {"timestep_scale": 1000.0}], ids=str)
def test_trigflow_is_refused_by_its_config(entry):
    assert "TrigFlow" in refusal(sana_shapes(SANA_1_5), config_of(SANA_1_5, **entry))


@pytest.mark.parametrize("naming", ["diffusers", "nvlabs"])
def test_video_model_for_the_video_dcae_is_refused_by_name(naming):
    dims = dataclasses.replace(SANA_VIDEO_720P, in_channels=32)
    assert "DC-AE-V" in refusal(sana_shapes(dims, naming))


def test_models_with_a_table_of_positions_are_refused_by_name():
    assert "2K or 4K" in refusal(sana_shapes(SANA_1600M), config_of(SANA_1600M, interpolation_scale=1.0))
    assert "2K or 4K" in refusal(sana_shapes(SANA_1600M, "nvlabs") | {"pos_embed": (1, 4096, 2240)})


def test_other_families_are_named_and_the_way_out_is_the_table_of_models():
    text = refusal({"patch_embedding.weight": (8, 16, 1, 2, 2), "blocks.0.self_attn.q.weight": (8, 8)})
    assert "a Wan 2.1 or 2.2 video model" in text and "docs/models.md" in text
    ours = {"patch_embed.proj.weight": (8, 4, 1, 1), "transformer_blocks.0.attn_temporal.to_q.weight": (8, 8)}
    assert "linear video model already" in refusal(ours)


@pytest.mark.parametrize("name", TINY)
def test_unknown_width_without_config_asks_for_it(name):
    assert "config.json beside" in refusal(sana_shapes(TINY[name]))


@pytest.mark.parametrize("change", [
    {"in_channels": 8}, {"out_channels": 8}, {"attention_bias": True}, {"qk_norm": "layer_norm"}, {"norm_eps": 1e-5},
    {"_class_name": "SanaVideoTransformer3DModel"}, {"num_layers": 3}, {"patch_size": 2}, {"attention_head_dim": 16},
    {"norm_elementwise_affine": True},
], ids=str)  # fmt: skip
def test_config_that_does_not_belong_to_the_weights_is_refused(change):
    text = refusal(sana_shapes(TINY["image"]), config_of(TINY["image"], **change))
    assert "config.json" in text and "belong" in text


@pytest.mark.parametrize("heads", [True, "2", 0, None, -2, 2.0])
def test_absurd_heads_in_a_config_do_not_count(heads):
    dims = TINY["image"]
    assert "config.json beside" in refusal(sana_shapes(dims), config_of(dims, num_attention_heads=heads))


def test_putting_weights_of_other_sizes_under_nvlabs_names_is_refused():
    state = {name: torch.zeros(shape) for name, shape in sana_shapes(TINY["image"]).items()}
    with pytest.raises(CheckpointError, match="weights missing"):
        to_nvlabs_names(TINY["image with norms"], state)
