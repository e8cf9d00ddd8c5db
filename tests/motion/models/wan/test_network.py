"""Our Wan against diffusers' class, its parts, its places, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from diffusers_wan import velocities
from pack.motion.adapters.lora import LoRA, target_names
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.block_run import block_rows, gated_sum, modulated
from pack.motion.models.wan.config import IMAGE_WIDTH, PUBLISHED
from pack.motion.models.wan.network import WanDiT
from tiny_wan import FRAMES, PER_FRAME, VARIANTS, apart, fill, given

COUNTS = {
    "T2V 1.3B": 1_418_996_800, "Fun-InP 1.3B": 1_564_428_608, "T2V 14B": 14_288_491_584, "I2V 14B": 16_394_878_784,
    "FLF2V 14B": 16_394_878_784 + 514 * IMAGE_WIDTH, "A14B T2V": 14_288_491_584, "A14B I2V": 14_288_901_184,
}  # fmt: skip
@pytest.fixture(scope="module")
def networks():
    """networks(name): ours with every weight drawn, in float64; made once a variant."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = fill(WanDiT(VARIANTS[name], dtype=torch.float64))
        return made[name]

    return of


@pytest.mark.parametrize("title", PUBLISHED)
def test_a_published_size_has_the_parameters_of_the_published_weights(title):
    assert sum(value.numel() for value in WanDiT(PUBLISHED[title], device="meta").parameters()) == COUNTS[title]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_every_variant_gives_the_velocity_of_diffusers(name):
    for found, expected in velocities(name):
        assert expected.std() > 0.5 and apart(found, expected) <= 1e-4


@torch.no_grad()
def test_a_timestep_a_frame_equals_one_where_all_frames_have_it_and_else_differs(networks):
    model, (latents, timestep, told) = networks("image"), given(VARIANTS["image"], torch.float64)
    one = model(latents, timestep, told)
    assert apart(model(latents, timestep[:, None].expand(2, FRAMES), told), one) <= 1e-12
    assert apart(model(latents, timestep[:, None], told), one) <= 1e-12
    other = PER_FRAME.clone()
    other[:, 1] += 200
    assert apart(model(latents, other, told), model(latents, PER_FRAME, told)) > 0.01


@torch.no_grad()
def test_frames_are_where_they_are_said_to_be(networks):
    model, (latents, timestep, told) = networks("text"), given(VARIANTS["text"], torch.float64)

    def at(*places):
        return model(latents, timestep, replace(told, frame_indices=torch.tensor(places)))

    plain = model(latents, timestep, told)
    assert apart(at(0, 1, 2), plain) <= 1e-12
    assert apart(at(30.5, 31.5, 32.5), plain) <= 1e-9  # how far apart they are is all that counts
    assert apart(at(0.0, 0.5, 1.0), plain) > 1e-3 < apart(at(0.0, 0.5, 1.0), at(0.0, 0.0, 1.0))
    rows = at([0.0, 1.0, 2.0], [0.0, 0.5, 1.0])
    assert apart(rows[:1], plain[:1]) <= 1e-12 and apart(rows[1:], at(0.0, 0.5, 1.0)[1:]) <= 1e-12


@torch.no_grad()
def test_rows_of_a_batch_do_not_mix(networks):
    model, (latents, timestep, told) = networks("first and last"), given(VARIANTS["first and last"], torch.float64)
    whole = model(latents, timestep, told)
    alone = Conditions(told.context[1:], concat_latents=told.concat_latents[1:], image_tokens=told.image_tokens[1:])
    assert apart(model(latents[1:], timestep[1:], alone), whole[1:]) <= 1e-12


@pytest.mark.parametrize("part", ["context", "concat_latents", "image_tokens"])
@torch.no_grad()
def test_all_that_a_variant_is_told_counts(networks, part):
    model, (latents, timestep, told) = networks("image"), given(VARIANTS["image"], torch.float64)
    other = replace(told, **{part: getattr(told, part).flip(-1)})
    assert apart(model(latents, timestep, other), model(latents, timestep, told)) > 1e-3


@torch.no_grad()
def test_a_block_run_from_its_parts_is_the_block(networks):
    model, inputs = networks("image"), given(VARIANTS["image"], torch.float64)
    parts, seen = model.blocks[1], []

    def between(index, call, x):
        if index == 0:
            return call(x)
        around = seen[0]
        rows = block_rows(parts, around.modulation)
        h = modulated(parts.norm1(x), rows.attention_shift, rows.attention_scale)
        q, k, v = parts.self_attn.project(h, around.rotary)
        assert q.shape == k.shape == v.shape == x.shape == (2, FRAMES * 15, model.config.width)
        x = gated_sum(x, parts.self_attn.o(parts.self_attn.attend(q, k, v)), rows.attention_gate)
        text = parts.cross_attn
        query = text.query(parts.norm3(x))
        x = x + text.o(text.read_text(query, around.text) + text.read_image(query, around.image))
        return gated_sum(x, parts.ffn(modulated(parts.norm2(x), rows.ffn_shift, rows.ffn_scale)), rows.ffn_gate)

    handle = model.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    whole = model(*inputs)
    assert apart(model(*inputs, run_block=between), whole) <= 1e-12
    assert apart(model(*inputs, run_block=lambda index, call, x: call(x) if index else x), whole) > 0.01
    handle.remove()
    assert seen[0].grid == (FRAMES, 3, 5)


@torch.no_grad()
def test_attention_is_the_one_that_is_passed_in(networks):
    asked = []

    def flat(q, k, v, num_heads, mask):
        asked.append((q.shape[1], k.shape[1], num_heads, mask))
        return v.mean(1, keepdim=True).expand_as(q)

    config = VARIANTS["image"]
    model = WanDiT(config, attention=flat, dtype=torch.float64)
    model.load_state_dict(networks("image").state_dict())
    inputs = given(config, torch.float64)
    assert apart(model(*inputs), networks("image")(*inputs)) > 1e-3
    assert asked == [(45, 45, 2, None), (45, 7, 2, None), (45, 3, 2, None)] * 2


def test_a_lora_trains_beside_the_attentions_and_nothing_else_does(networks):
    model = networks("image").requires_grad_(False)
    lora = LoRA(model, targets=("self_attn", "cross_attn"), rank=2, alpha=2.0)
    names = target_names(model, ("self_attn", "cross_attn"))
    assert len(names) == 2 * (4 + 6) and lora.layers.keys() == set(names)
    latents, timestep, told = given(VARIANTS["image"], torch.float64)
    before = model(latents, timestep, told)
    with lora.attached():
        out = model(latents, timestep, told)
        assert torch.equal(out, before)
        out.square().mean().backward()
    assert all(layer.up.grad.abs().max() > 0 for layer in lora.layers.values())
    assert all(value.grad is None for value in model.parameters())


def test_the_patch_embedding_stays_in_float32():
    model = WanDiT(VARIANTS["image"], dtype=torch.bfloat16, device="meta")
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {
        "patch_embedding.weight", "patch_embedding.bias"
    }  # fmt: skip
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}


WRONG = {
    "latent channels": ({"latents": (2, 3, 3, 6, 10)}, ShapeError, r"needs \(b, 4, t, h, w\): use the Wan 2.1 VAE"),
    "latent axes": ({"latents": (2, 4, 6, 10)}, ShapeError, r"needs \(b, 4, t, h, w\)"),
    "sides": ({"latents": (2, 4, 3, 6, 9)}, ShapeError, "3 frames of 6x9 cells, 72x48 px; .* 2 cells, 16 px, .* crop"),
    "height": ({"latents": (2, 4, 3, 5, 10)}, ShapeError, "3 frames of 5x10 cells, 80x40 px"),
    "no frames": ({"latents": (2, 4, 0, 6, 10)}, ShapeError, "0 frames"),
    "timesteps": ({"timestep": (3,)}, ShapeError, r"timestep is \(3,\); \(2,\) or \(2, 3\) is needed"),
    "timesteps of frames": ({"timestep": (2, 2)}, ShapeError, "one a latent frame"),
    "text width": ({"context": (2, 7, 11)}, ShapeError, r"needs \(b, n, 12\): use the text encoder"),
    "texts": ({"context": (1, 7, 12)}, ShapeError, "1 texts came with 2 videos; repeat"),
    "no concat latents": ({"concat_latents": None}, ConfigError, r"concat_latents are missing; .*\(2, 8, 3, 6, 10\)"),
    "concat latents": ({"concat_latents": (2, 8, 1, 6, 10)}, ShapeError, r"\(2, 8, 3, 6, 10\) is needed, 4 .* of mask"),
    "no image tokens": ({"image_tokens": None}, ConfigError, r"image_tokens are missing; .*\(2, 6, 1280\)"),
    "image width": ({"image_tokens": (2, 3, 1024)}, ShapeError, r"image_tokens are \(2, 3, 1024\); .*CLIP ViT-H"),
    "image rows": ({"image_tokens": (1, 3, 1280)}, ShapeError, r"\(2, 6, 1280\) is needed.* a row a video"),
    "images": ({"image_tokens": (2, 9, 1280)}, ShapeError, "has places for 6 of them"),
    "places": ({"frame_indices": (4,)}, ShapeError, r"frame_indices are \(4,\); \(3,\) or \(2, 3\) is needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_do_not_fit_are_named_with_what_is_needed(name):
    change, kind, words = WRONG[name]
    shapes = {
        "latents": (2, 4, 3, 6, 10), "timestep": (2,), "context": (2, 7, 12), "concat_latents": (2, 8, 3, 6, 10),
        "image_tokens": (2, 3, 1280), "frame_indices": (3,),
    } | change  # fmt: skip
    values = {part: None if shape is None else torch.zeros(shape, device="meta") for part, shape in shapes.items()}
    latents, timestep = values.pop("latents"), values.pop("timestep")
    model = WanDiT(VARIANTS["first and last"], device="meta")
    with pytest.raises(kind, match=words):
        model(latents, timestep, Conditions(**values))
