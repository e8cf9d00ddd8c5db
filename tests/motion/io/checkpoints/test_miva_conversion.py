"""Published MIVA files, made up under the true names: converted they act by the published formulas, or are refused."""

import pytest
import torch
import torch.nn.functional as F
from pack.motion.errors import CheckpointError
from pack.motion.io.adapters.adapter_file import load_adapter, read_adapter
from pack.motion.io.checkpoints.conversion import convert_checkpoint
from pack.motion.io.checkpoints.miva_conversion import import_miva
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.block_adapters import BlockAdapters
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.shell import main
from tiny_wan import fill, given

CONFIG = WanConfig(in_channels=4, num_layers=2, num_attention_heads=1, attention_head_dim=128, hidden_width=56,
                   caption_channels=12)  # fmt: skip
UNET_WIDTHS = {  # of SD 1.5's blocks with attention in space
    **{f"down_blocks.{i}.attentions.{j}": width for i, width in enumerate((320, 640, 1280)) for j in range(2)},
    "mid_block.attentions.0": 1280,
    **{f"up_blocks.{i}.attentions.{j}": width for i, width in ((1, 1280), (2, 640), (3, 320)) for j in range(3)},
}
TIME_WIDTHS = {
    **{f"down_blocks.{i}.motion_modules.{j}": width for i, width in enumerate((320, 640, 1280, 1280)) for j in (0, 1)},
    **{f"up_blocks.{i}.motion_modules.{j}": width for i, width in enumerate((1280, 1280, 640, 320)) for j in range(3)},
}


def shaped(*shape):
    """A tensor that takes no memory."""
    return torch.zeros(()).expand(shape)


def wan_names(d, blocks, rank=128, *, make=shaped):
    """The official layout of Wan with LoRAs."""
    found = {}
    for i in range(blocks):
        place = f"blocks.{i}"
        for part in "qo":
            found[f"{place}.i2v_adapter.{part}.lora_A.default.weight"] = make(rank, d)
            found[f"{place}.i2v_adapter.{part}.lora_B.default.weight"] = make(d, rank)
        found[f"{place}.i2v_adapter.weight_module.linear.weight"] = make(2, d)
        found[f"{place}.i2v_adapter.weight_module.linear.bias"] = make(2)
        found[f"{place}.cross_attn.CA2.weight"] = make(rank, d)
        found[f"{place}.cross_attn.CA3.weight"] = make(d, rank)
        found[f"{place}.cross_attn.CA_norm.weight"] = make(rank)
        found[f"{place}.cross_attn.CA_norm.bias"] = make(rank)
    return found


def animatediff_names(*, make=shaped, width_of=lambda width: width, older=False):
    """The official layout of AnimateDiff, as its table of names and shapes."""
    found, sca = {}, "" if older else "sCA."
    for place, width in UNET_WIDTHS.items():
        d, block = width_of(width), f"{place}.transformer_blocks.0"
        found |= {
            f"{block}.i2v_adapter.to_q.weight": make(d, d), f"{block}.i2v_adapter.to_out.0.weight": make(d, d),
            f"{block}.i2v_adapter.to_out.0.bias": make(d),
            f"{block}.i2v_adapter.processor.weight_module.linear.weight": make(2, 1280),
            f"{block}.i2v_adapter.processor.weight_module.linear.bias": make(2),
            f"{block}.{sca}CA2.weight": make(64, d), f"{block}.{sca}CA3.weight": make(d, 64),
            f"{block}.{sca}CA_norm.weight": make(64), f"{block}.{sca}CA_norm.bias": make(64),
        }  # fmt: skip
    for place, width in TIME_WIDTHS.items():
        for a in (0, 1):
            block = f"{place}.temporal_transformer.transformer_blocks.0.attention_blocks.{a}.processor"
            for part in ("q", "k", "v", "out"):
                found[f"{block}.to_{part}_lora.down.weight"] = make(32, width_of(width))
                found[f"{block}.to_{part}_lora.up.weight"] = make(width_of(width), 32)
    return found


def drawn(*shape, generator=torch.Generator().manual_seed(7)):  # noqa: B008
    return torch.randn(shape, generator=generator) / 4


def converted(tmp_path, state, **options):
    torch.save(state, tmp_path / "sway.ckpt")
    output = tmp_path / "sway.safetensors"
    return output, convert_checkpoint(tmp_path / "sway.ckpt", output, **options)


def heard_sites(network):
    """What the second block's places are told in a call in float64."""
    sites = {}

    def keep(name):
        return lambda site: sites.__setitem__(name, site)

    latents, timestep, told = given(CONFIG, torch.float64)
    places = ("beside_self_attention", "instead_of_text")
    network(latents, timestep, told, adapters=BlockAdapters(**{name: keep(name) for name in places}))
    return [sites[name] for name in places]


def published(state, network, reads, text, *, query, output, query_bias):
    """What the published formulas add in block 1, from the file's own names; query and output: whole matrices."""
    attention, cross, place = network.blocks[1].self_attn, network.blocks[1].cross_attn, "blocks.1"
    b, t, n, d = reads.tokens.shape

    def norm(x, layer):
        return F.rms_norm(x, (d,), layer.weight, layer.eps)

    q = norm(F.linear(reads.tokens, query[0], query[1]), attention.norm_q)
    key, value = norm(attention.k(reads.tokens), attention.norm_k), attention.v(reads.tokens)
    linear = f"{place}.i2v_adapter.weight_module.linear"
    e = F.silu(reads.around.embedding) @ state[f"{linear}.weight"].double().T + state[f"{linear}.bias"].double()
    lam = (e / 0.2).softmax(-1).expand(b, t, 2)
    beside = torch.empty_like(q)
    for row in range(b):
        for i in range(t):
            j, (l1, l2) = max(i - 1, 0), lam[row, i]
            keys = torch.cat((key[row, 0], key[row, j]))
            values = torch.cat((l1 * value[row, 0], l2 * value[row, j]))
            beside[row, i] = (q[row, i] @ keys.T / 128**0.5).softmax(-1) @ values
    beside = F.linear(beside, output[0], output[1])
    asked = norm(F.linear(text.tokens, cross.q.weight, cross.q.bias if query_bias else None), cross.norm_q)
    found = {name: state.get(f"{place}.cross_attn.{name}") for name in (
        "CA2.weight", "CA2.bias", "CA3.weight", "CA3.bias", "CA_norm.weight", "CA_norm.bias")}  # fmt: skip
    w = {name: None if value is None else value.double() for name, value in found.items()}
    hidden = F.linear(asked, w["CA2.weight"], w["CA2.bias"])
    hidden = F.gelu(F.layer_norm(hidden, hidden.shape[-1:], w["CA_norm.weight"], w["CA_norm.bias"], 1e-5))
    return beside, F.linear(hidden, w["CA3.weight"], w["CA3.bias"])


def agree(tmp_path, state, *, query, output, query_bias):
    """The converted file's parts against the published formulas, in float64."""
    network = fill(WanDiT(CONFIG)).double()
    path, done = converted(tmp_path, state)
    block = load_adapter(path, network).blocks[1].double()
    reads, text = heard_sites(network)
    expected = published(state, network, reads, text, query=query(network.blocks[1].self_attn.q), output=output,
                         query_bias=query_bias)  # fmt: skip
    for answer, truth in zip((block.cfa(reads), block.ca(text)), expected):
        assert truth.abs().max() > 1e-2
        torch.testing.assert_close(answer, truth, rtol=1e-6, atol=1e-7)
    return path, done


def test_loras_of_wan_act_by_the_published_formulas(tmp_path):
    """CA's queries without the base's bias, as the release ran where the file has no biases of CA."""
    state = wan_names(128, 2, rank=3, make=drawn)
    at = {name.removeprefix("blocks.1.i2v_adapter."): value.double() for name, value in state.items()}
    low = {part: at[f"{part}.lora_B.default.weight"] @ at[f"{part}.lora_A.default.weight"] for part in "qo"}
    path, done = agree(
        tmp_path, state, query=lambda q: (q.weight + low["q"], q.bias),
        output=(low["o"], None), query_bias=False,
    )  # fmt: skip
    assert done.is_adapter and done.num_parameters == sum(value.numel() for value in state.values())
    found = read_adapter(path)
    assert (found.config.mode, found.config.rank, found.config.query_bias) == ("joint", 3, False)
    assert "un-normed tokens, outside the gate" in found.notes[0]


def test_whole_matrices_and_biases_of_wan_act_by_the_published_formulas(tmp_path):
    """q as the base of a PEFT layer with a LoRA beside it, o plain; the prompt of another rank, with biases."""
    state = {name: value for name, value in wan_names(128, 2, rank=5, make=drawn).items() if "lora" not in name}
    for i in range(2):
        place = f"blocks.{i}.i2v_adapter"
        state |= {
            f"{place}.q.base_layer.weight": drawn(128, 128), f"{place}.q.base_layer.bias": drawn(128),
            f"{place}.q.lora_A.default.weight": drawn(3, 128), f"{place}.q.lora_B.default.weight": drawn(128, 3),
            f"{place}.o.weight": drawn(128, 128), f"{place}.o.bias": drawn(128),
            f"blocks.{i}.cross_attn.CA2.bias": drawn(5), f"blocks.{i}.cross_attn.CA3.bias": drawn(128),
        }  # fmt: skip
    at = {name.removeprefix("blocks.1.i2v_adapter."): value.double() for name, value in state.items()}
    whole = at["q.base_layer.weight"] + at["q.lora_B.default.weight"] @ at["q.lora_A.default.weight"]
    agree(tmp_path, state, query=lambda q: (whole, at["q.base_layer.bias"]), output=(at["o.weight"], at["o.bias"]),
          query_bias=True)  # fmt: skip


def test_numbers_of_the_paper_come_out_at_the_true_sizes(tmp_path):
    """35.5M for Wan 1.3B and 35.4M for AnimateDiff v3, weight by weight."""
    for names, count in ((wan_names(1536, 30), 35_489_340), (animatediff_names(), 35_444_960)):
        made = import_miva(tmp_path / "motion.pt", names)
        assert sum(value.numel() for value in made.tensors.values()) == count and not made.left_out


@pytest.mark.parametrize("older", [False, True])
def test_animatediff_is_converted_and_said_to_be_of_no_use_here(tmp_path, capsys, older):
    state = animatediff_names(make=drawn, width_of=lambda width: width // 40, older=older)
    torch.save({"state_dict": state}, tmp_path / "horse.pt")
    output = tmp_path / "horse.safetensors"
    assert main.main(["convert", str(tmp_path / "horse.pt"), "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "AnimateDiff, which this pack does not run" in said and "adapter: " in said
    tensors, metadata = read_safetensors(output)
    block = "up_blocks.2.attentions.1.transformer_blocks.0"
    time = ("down_blocks.3.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor"
            ".to_out_lora.up.weight")  # fmt: skip
    for ours, theirs in (("out.7.cfa.q.full", f"{block}.i2v_adapter.to_q.weight"), ("mm.down.3.1.a1.o.up", time),
                         ("in.5.ca.up", f"down_blocks.1.attentions.1.transformer_blocks.0."
                                        f"{'' if older else 'sCA.'}CA3.weight"),
                         ("mid.0.cfa.lam.bias", "mid_block.attentions.0.transformer_blocks.0.i2v_adapter.processor."
                                                "weight_module.linear.bias")):  # fmt: skip
        assert torch.equal(tensors[ours], state[theirs]), ours
    assert len(tensors) == len(state) and metadata["motion"] == "horse"
    found = read_adapter(output)
    assert (found.config.alpha, found.config.rank, found.config.prompt_rank) == (1.0, 32, 64)
    with pytest.raises(CheckpointError, match="AnimateDiff, which this pack does not run; choose one that was made"):
        found.build(fill(WanDiT(CONFIG)))


def test_the_stream_of_masks_is_left_out_by_name(tmp_path, capsys):
    state = wan_names(128, 1, rank=2, make=drawn)
    state |= {"blocks.0.i2v_adapter.q_m.lora_A.default.weight": drawn(2, 128),
              "blocks.0.cross_attn_b.CA2.weight": drawn(2, 128)}  # fmt: skip
    _, done = converted(tmp_path, state)
    assert len(done.left_out) == 2 and "M-MIVA" in done.notes[0]


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def plus(**more):
    return lambda state: {**state, **{name.replace("__", "."): value for name, value in more.items()}}


@pytest.mark.parametrize("change, message", [
    (without("blocks.1.cross_attn.CA3.weight"), r"blocks.1.ca.up \(our name\) of a MIVA adapter is missing"),
    (without("blocks.0.i2v_adapter.q.lora_B.default.weight"), r"blocks.0.cfa.q.up \(our name\).* is missing"),
    (without("blocks.0.cross_attn.CA2.weight"), "a MIVA adapter without blocks.0.ca.down"),
    (plus(blocks__1__cross_attn__CA2__bias=torch.zeros(2)), "is in some blocks and not in all"),
    (plus(blocks__1__i2v_adapter__q__lora_B__default__weight=torch.zeros(128, 3)), r"is \(128, 3\), not \(128, 2\)"),
    (plus(blocks__0__i2v_adapter__o__base_layer__weight=torch.zeros(128, 64)), r"its LoRA \(2, 128\) and \(128, 2\)"),
    (plus(blocks__1__cross_attn__CA_norm__bias=torch.full((2,), torch.nan)), "holds NaN or Inf"),
    (plus(a__i2v_adapter__processor__to_out_lora__up__weight=torch.zeros(2)), "a LoRA behind the output layer"),
    (plus(a__attn2__processor__to_q_lora__up__weight=torch.zeros(2)), "a form from before MIVA's prompt network"),
])  # fmt: skip
def test_files_that_are_not_whole_are_refused_by_the_weight(tmp_path, change, message):
    state = change(wan_names(128, 2, rank=2, make=drawn))
    with pytest.raises(CheckpointError, match=message):
        converted(tmp_path, state)
    assert not (tmp_path / "sway.safetensors").exists()


def test_widths_that_no_wan_has_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="its blocks are 96 wide; Wan's are all one multiple of 128"):
        converted(tmp_path, wan_names(96, 1, rank=2, make=drawn))
