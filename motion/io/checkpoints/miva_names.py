"""The names in MIVA's published files, of Wan and of AnimateDiff, and ours.

    Wan:          blocks.{i}.i2v_adapter.{q,o}…  .cross_attn.{CA2,CA3,CA_norm}…               -> blocks.{i}.…
    AnimateDiff:  {down,mid,up} … transformer_blocks.0.i2v_adapter …  .sCA.{CA2,CA3,CA_norm}  -> in.{k}. mid.0. out.{k}.
                  {down,up}_blocks.{i}.motion_modules.{j} … attention_blocks.{a} …_lora    -> mm.{down,up}.{i}.{j}.a{a}.
No such file was ever published: the names are those that the published code of MIVA, arXiv 2512.20000, saves under.
"""

import re
from collections.abc import Iterable

LAMBDA = {f"weight_module.linear.{part}": f"cfa.lam.{part}" for part in ("weight", "bias")}
PROMPT = {
    "CA2.weight": "ca.down", "CA2.bias": "ca.down_bias", "CA3.weight": "ca.up", "CA3.bias": "ca.up_bias",
    "CA_norm.weight": "ca.norm.weight", "CA_norm.bias": "ca.norm.bias",
}  # fmt: skip
MATRIX = {"weight": "full", "bias": "bias", "base_layer.weight": "base", "base_layer.bias": "bias",
          "lora_A.default.weight": "down", "lora_B.default.weight": "up"}  # fmt: skip
WAN = {
    **{f"i2v_adapter.{part}.{theirs}": f"cfa.{part}.{ours}" for part in "qo" for theirs, ours in MATRIX.items()},
    **{f"i2v_adapter.{theirs}": ours for theirs, ours in LAMBDA.items()},
    **{f"cross_attn.{theirs}": ours for theirs, ours in PROMPT.items()},
}
UNET = {
    "i2v_adapter.to_q.weight": "cfa.q.full", "i2v_adapter.to_out.0.weight": "cfa.o.full",
    "i2v_adapter.to_out.0.bias": "cfa.o.bias",
    **{f"i2v_adapter.processor.to_q_lora.{part}.weight": f"cfa.q.{part}" for part in ("down", "up")},
    **{f"i2v_adapter.processor.{theirs}": ours for theirs, ours in LAMBDA.items()},
    **{f"{root}{theirs}": ours for root in ("sCA.", "") for theirs, ours in PROMPT.items()},
}  # fmt: skip
TIME = {f"to_{theirs}_lora.{part}.weight": f"{ours}.{part}"
        for theirs, ours in zip(("q", "k", "v", "out"), "qkvo") for part in ("down", "up")}  # fmt: skip
WAN_BLOCK = re.compile(r"blocks\.(\d{1,3})\.(.+)")
UNET_BLOCK = re.compile(
    r"(?:(down|up)_blocks\.(\d)\.attentions\.(\d)|mid_block\.attentions\.0)\.transformer_blocks\.0\.(.+)"
)
TIME_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d)\.motion_modules\.(\d)\.temporal_transformer\.transformer_blocks\.0\.attention_blocks\."
    r"([01])\.processor\.(.+)"
)
MASKED = re.compile(r"i2v_adapter\.[qo]_m\.|cross_attn_b\.|processor\.to_(q|out)_mask\.")
REFUSED = {
    r"i2v_adapter\.processor\.to_out_lora\.": "a LoRA behind the output layer, another thing than MIVA's output matrix",
    r"attn2\.processor\..*_lora\.": "LoRAs in text attention, a form from before MIVA's prompt network",
}  # of names, and what they are


def is_published_miva(names: Iterable[str]) -> bool:
    """Whether these are the names of a published MIVA adapter."""
    return any(".i2v_adapter." in name for name in names)


def our_name(name: str) -> str | None:
    """Ours for one of theirs; None for a name that is not known."""
    if match := WAN_BLOCK.fullmatch(name):
        tail = WAN.get(match[2])
        return tail and f"blocks.{int(match[1])}.{tail}"
    if match := UNET_BLOCK.fullmatch(name):
        tail = UNET.get(match[4])
        return tail and f"{_unet_place(match[1], match[2], match[3])}.{tail}"
    if match := TIME_BLOCK.fullmatch(name):
        tail = TIME.get(match[5])
        return tail and f"mm.{match[1]}.{match[2]}.{match[3]}.a{match[4]}.{tail}"
    return None


def unet_places() -> list[str]:
    """The sixteen blocks of SD 1.5 with attention in space, as ComfyUI counts them."""
    downs = [_unet_place("down", i, j) for i in range(3) for j in range(2)]
    return [*downs, "mid.0", *(_unet_place("up", i, j) for i in range(1, 4) for j in range(3))]


def time_places() -> list[str]:
    """The forty attentions along the frames of AnimateDiff v3."""
    modules = [("down", i, j) for i in range(4) for j in range(2)] + [("up", i, j) for i in range(4) for j in range(3)]
    return [f"mm.{half}.{i}.{j}.a{a}" for half, i, j in modules for a in range(2)]


def _unet_place(half: str | None, i: int | str, j: int | str) -> str:
    if half is None:
        return "mid.0"
    return f"in.{3 * int(i) + int(j) + 1}" if half == "down" else f"out.{3 * int(i) + int(j)}"
