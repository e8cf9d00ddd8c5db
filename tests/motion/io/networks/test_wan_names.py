"""Names and shapes of Wan weights, against diffusers' network and its converter of Wan's own names."""

import pytest
import torch
from pack.motion.io.networks.wan_names import host_name, num_parameters, wan_shapes
from pack.motion.models.wan.config import PUBLISHED, WanConfig
from pack.motion.models.wan.network import WanDiT

SMALL = {"num_layers": 2, "num_attention_heads": 2, "hidden_width": 48, "caption_channels": 24}
TINY = {
    "T2V": WanConfig(**SMALL), "I2V": WanConfig(**SMALL, concat_channels=20, image_tokens=True),
    "FLF2V": WanConfig(**SMALL, concat_channels=20, image_tokens=True, position_tokens=514),
    "A14B I2V": WanConfig(**SMALL, concat_channels=20),
}  # fmt: skip


def diffusers_network(config):
    from diffusers import WanTransformer3DModel

    image = {"image_dim": 1280, "added_kv_proj_dim": config.width} if config.image_tokens else {}
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, in_channels=16 + config.concat_channels, out_channels=16,
        text_dim=24, ffn_dim=48, num_layers=2, pos_embed_seq_len=config.position_tokens or None, **image,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "count"), [
    ("T2V 1.3B", 1_418_996_800), ("Fun-InP 1.3B", 1_564_428_608), ("T2V 14B", 14_288_491_584),
    ("A14B T2V", 14_288_491_584), ("I2V 14B", 16_394_878_784), ("A14B I2V", 14_288_901_184),
])  # fmt: skip
def test_published_sizes_have_the_published_counts_of_parameters(name, count):
    assert num_parameters(PUBLISHED[name]) == count


@pytest.mark.parametrize("name", TINY)
def test_names_and_shapes_are_those_of_our_network(name):
    state = WanDiT(TINY[name], device="meta").state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == wan_shapes(TINY[name])


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("name", TINY)
def test_names_and_shapes_are_those_of_diffusers_in_its_own_naming(name):
    with torch.device("meta"):
        state = diffusers_network(TINY[name]).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == wan_shapes(TINY[name], "diffusers")


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("name", TINY)
def test_hosts_names_are_those_that_diffusers_makes_its_own_of(name):
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    host = wan_shapes(TINY[name])
    theirs = convert_wan_transformer_to_diffusers({key: key for key in host})
    assert {host_name(key): value for key, value in theirs.items()} == {key: key for key in host}


@pytest.mark.parametrize("name", TINY)
def test_names_go_over_one_to_one_and_keep_their_shapes(name):
    theirs, ours = wan_shapes(TINY[name], "diffusers"), wan_shapes(TINY[name])
    assert {host_name(key): shape for key, shape in theirs.items()} == ours and len(theirs) == len(ours)


@pytest.mark.parametrize(("theirs", "ours"), [
    ("blocks.3.norm2.weight", "blocks.3.norm3.weight"), ("scale_shift_table", "head.modulation"),
    ("blocks.12.scale_shift_table", "blocks.12.modulation"),
    ("blocks.0.attn2.to_out.0.scale_weight", "blocks.0.cross_attn.o.scale_weight"),
    ("blocks.0.ffn.net.2.comfy_quant", "blocks.0.ffn.2.comfy_quant"), ("blocks.0.ffn.2", "blocks.0.ffn.2"),
    ("proj_out", "head.head"), ("blocks.0.proj_out.weight", "blocks.0.proj_out.weight"), ("a", "a"), ("\n", "\n"),
    ("", ""), ("blocks.0.", "blocks.0."),
])  # fmt: skip
def test_layers_and_what_belongs_to_them_are_renamed_and_other_names_stay(theirs, ours):
    assert host_name(theirs) == ours
