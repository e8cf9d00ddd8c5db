"""A LoRA of some heads: a network split into two branches answers alike, zeros stay zeros, odd parts are refused."""

import pytest
import torch
from pack.motion.adapters.head_lora import head_lora, head_parts
from pack.motion.adapters.lora import LoRA, LoRAPart
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.rotary import turned, wan_rotary
from tiny_wan import apart, fill, given

CONFIG = WanConfig(in_channels=4, num_layers=3, num_attention_heads=4, attention_head_dim=12, hidden_width=32,
                   caption_channels=12)  # fmt: skip
CHOSEN = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
WIDTH = 12


def network():
    return fill(WanDiT(CONFIG)).requires_grad_(False)


def drawn(lora, seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in lora.parameters().values():
            value.copy_(torch.randn(value.shape, generator=draw) / 6)
    return lora


def own(dit, **more):
    return drawn(head_lora(dit, CHOSEN, rank=2, alpha=3.0, **more))


def split_attention(attention, x, row, lora, index, rotary):
    """Algorithm 2: a temporal and a spatial Linear for each projection, their halves side by side, two answers summed.

    Only the temporal branch carries the LoRA, of its own size.
    """
    heads = [torch.nonzero(part).flatten().tolist() for part in (row, ~row)]
    places = [torch.cat([torch.arange(WIDTH) + WIDTH * head for head in part]) for part in heads if part]
    layers, scale = lora.layers, lora.layers[f"blocks.{index}.self_attn.q"].scale

    def project(name):
        layer, parts = getattr(attention, name), []
        for branch, rows in enumerate(places):
            out = x @ layer.weight[rows].T + layer.bias[rows]
            if branch == 0:
                small = layers[f"blocks.{index}.self_attn.{name}"]
                out = out + scale * (x @ small.down.T) @ small.up.T
            parts.append(out)
        return torch.cat(parts, dim=-1)

    order = torch.cat(places)
    query, key = (torch.nn.functional.rms_norm(project(name), (len(order),), norm.weight[order], 1e-6)
                  for name, norm in (("q", attention.norm_q), ("k", attention.norm_k)))  # fmt: skip
    query, key = (turned(part, rotary, 4) for part in (query, key))
    query, key, value = (part.unflatten(-1, (4, WIDTH)).transpose(1, 2) for part in (query, key, project("v")))
    mixed = ((query @ key.mT / WIDTH**0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)
    answer, start = attention.o.bias, 0
    for branch, columns in enumerate(places):
        part = mixed[..., start : start + len(columns)]
        answer, start = answer + part @ attention.o.weight[:, columns].T, start + len(columns)
        if branch == 0 and f"blocks.{index}.self_attn.o" in layers:
            small = layers[f"blocks.{index}.self_attn.o"]
            answer = answer + scale * (part @ small.down.T) @ small.up.T
    return answer


@pytest.mark.parametrize("include_o", [True, False])
def test_two_branches_of_heads_answer_like_the_file_on_the_whole_network(tmp_path, include_o):
    dit = network()
    lora = own(dit, include_o=include_o)
    save_adapter(tmp_path / "lora.safetensors", lora)
    whole = load_adapter(tmp_path / "lora.safetensors", dit)
    rotary = wan_rotary(*(torch.arange(n) for n in (3, 2, 4)), CONFIG.axes)
    x = torch.randn(2, 24, CONFIG.width, generator=torch.Generator().manual_seed(3))
    for index in (0, 2):
        attention = dit.blocks[index].self_attn
        truth = split_attention(attention, x, CHOSEN[index], lora, index, rotary)
        for form in (lora, whole):
            with form.attached():
                assert apart(attention(x, rotary), truth) < 1e-5
        assert apart(attention(x, rotary), truth) > 1e-3


def test_a_layer_without_chosen_heads_gets_none_and_one_with_all_is_not_held_to_a_part():
    lora = own(network())
    assert not any(name.startswith("blocks.1.") for name in lora.layers) and len(lora.layers) == 8
    assert lora.layers["blocks.2.self_attn.q"].rows is None and len(lora.layers["blocks.0.self_attn.q"].rows) == 24
    assert not any(name.endswith(".o") for name in own(network(), include_o=False).layers)


def test_only_the_rows_and_columns_of_chosen_heads_are_kept_and_the_file_has_zeros_for_the_others():
    lora = own(network())
    parameters, tensors = lora.parameters(), lora.tensors()
    assert parameters["blocks.0.self_attn.q.lora_up.weight"].shape == (24, 2)
    assert parameters["blocks.0.self_attn.o.lora_down.weight"].shape == (2, 24)
    up = tensors["diffusion_model.blocks.0.self_attn.q.lora_up.weight"]
    down = tensors["diffusion_model.blocks.0.self_attn.o.lora_down.weight"]
    others = torch.tensor([head * WIDTH + n for head in (1, 3) for n in range(WIDTH)])
    assert up.shape == (48, 2) and not up[others].any() and up[:WIDTH].all() and up.is_contiguous()
    assert down.shape == (2, 48) and not down[:, others].any() and down.is_contiguous()


def test_training_moves_the_parts_and_leaves_zeros_and_the_base_alone():
    dit = network()
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    lora = head_lora(dit, CHOSEN, rank=2, alpha=2.0)
    latents, timestep, told = given(CONFIG)
    plain = dit(latents, timestep, told)
    optimizer = torch.optim.AdamW(lora.parameters().values(), lr=1e-2, weight_decay=0.5)
    with lora.attached():
        assert torch.equal(dit(latents, timestep, told), plain)
        for _ in range(3):
            optimizer.zero_grad()
            dit(latents, timestep, told).square().mean().backward()
            optimizer.step()
        assert not torch.equal(dit(latents, timestep, told), plain)
    up = lora.tensors()["diffusion_model.blocks.0.self_attn.k.lora_up.weight"]
    assert up[:WIDTH].any() and not up[WIDTH : 2 * WIDTH].any()
    assert all(torch.equal(value, before[name]) for name, value in dit.state_dict().items())


def test_merged_weights_answer_like_the_attached_lora():
    dit, other = network(), network()
    lora = own(dit)
    other.load_state_dict(lora.merged(0.5))
    with lora.attached(0.5):
        seen = dit(*given(CONFIG))
    assert apart(other(*given(CONFIG)), seen) < 1e-5
    assert lora.fits["blocks.0.self_attn.o.weight"] == (48, 48)


def test_heads_of_another_network_and_none_at_all_are_refused():
    with pytest.raises(ConfigError, match=r"of \(2, 4\) layers and heads; this network has \(3, 4\)"):
        head_parts(network(), CHOSEN[:2], include_o=True)
    with pytest.raises(ConfigError, match="no head is chosen"):
        head_lora(network(), torch.zeros(3, 4), rank=2, alpha=2.0)


@pytest.mark.parametrize("indices", [[], [3, 3], [5, 2], [-1, 0], [47, 48]])
def test_rows_that_a_layer_does_not_have_are_refused(indices):
    with pytest.raises(ConfigError, match="rows of a layer with 48"):
        LoRA(network(), rank=2, alpha=2.0, parts={"blocks.0.self_attn.q": LoRAPart(rows=torch.tensor(indices).long())})
