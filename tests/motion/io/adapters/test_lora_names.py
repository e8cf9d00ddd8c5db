"""Names of LoRA tensors: four tools' names give the same layers; other adapters are told by name."""

import pytest
from pack.motion.io.adapters.lora_names import modules_of, other_kind, parts_by_layer

LAYER = "blocks.0.attn1.to_out.0"


@pytest.mark.parametrize(("down", "up"), [
    (f"diffusion_model.{LAYER}.lora_down.weight", f"diffusion_model.{LAYER}.lora_up.weight"),
    (f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight"),
    (f"base_model.model.{LAYER}.lora_A.default.weight", f"base_model.model.{LAYER}.lora_B.default.weight"),
    (f"base_model.model.transformer.{LAYER}.lora_A.weight", f"base_model.model.transformer.{LAYER}.lora_B.weight"),
    (f"transformer.{LAYER}.lora_A.weight", f"transformer.{LAYER}.lora_B.weight"),
    (f"{LAYER}.lora.down.weight", f"{LAYER}.lora.up.weight"),
    (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"),
])  # fmt: skip
def test_each_tools_names_give_the_layer_and_its_matrices(down, up):
    assert parts_by_layer([up, down]) == ({LAYER: {"down": down, "up": up}}, [])


def test_kohyas_names_keep_their_root_since_their_dots_are_lost_and_alpha_belongs_to_them():
    names = {part: f"lora_unet_blocks_0_ff.{end}" for part, end in
             (("down", "lora_down.weight"), ("up", "lora_up.weight"), ("alpha", "alpha"))}  # fmt: skip
    assert parts_by_layer(names.values()) == ({"lora_unet_blocks_0_ff": names}, [])


def test_halves_unknown_names_and_second_tensors_of_one_part_are_odd():
    bad = {"a.lora_down.weight", "transformer.b.lora_A.weight", "c.alpha", "d.bias"}
    layers, odd = parts_by_layer(["b.lora_A.weight", "b.lora_B.weight", *sorted(bad)])
    assert set(layers) == {"b"} and set(odd) == bad and len(odd) == 4


def test_a_layer_without_dots_means_every_module_that_would_be_written_so():
    modules = ["a.b_c", "a_b.c", "a.d", "e"]
    found = modules_of(["lora_unet_a_b_c", "lora_unet_a_d", "lora_unet_f", "e", "a_d"], modules)
    assert found == {"lora_unet_a_b_c": ["a.b_c", "a_b.c"], "lora_unet_a_d": ["a.d"], "lora_unet_f": [], "e": ["e"],
                     "a_d": []}  # fmt: skip


@pytest.mark.parametrize(("ends", "kind"), [
    (["dora_scale", "lora_down.weight", "lora_up.weight"], "DoRA"), (["lora_magnitude_vector"], "DoRA"),
    (["lora_magnitude_vector.default.weight"], "DoRA"), (["hada_w1_a", "hada_w1_b"], "LoHa"), (["lokr_w1"], "LoKr"),
    (["lokr_w1_a", "lokr_w2"], "LoKr"), (["oft_blocks"], "OFT"), (["oft_R.weight"], "OFT"),
    (["a1.weight", "a2.weight", "b1.weight", "b2.weight"], "GLoRA"), (["lora_mid.weight"], "lora_mid"),
    (["diff"], "diff"), (["diff_b"], "diff_b"), (["lora_B.bias"], "lora_bias"),
])  # fmt: skip
def test_adapters_that_are_no_plain_lora_have_a_name(ends, kind):
    assert kind in other_kind([f"x.{end}" for end in ends])
    assert not other_kind(["x.a1.weight", "x.lora_down.weight", "x.different"])
