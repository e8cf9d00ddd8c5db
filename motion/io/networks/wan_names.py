"""Names and shapes of the weights of a Wan network: the host's, which are Wan's own, and diffusers'.

Ours are the host's. Diffusers calls norm2 what the host calls norm3. Sizes: D width, I channels in, O numbers per token
at the end, p patch side, T text width, H hidden width, F features of a timestep, C width of CLIP tokens, P how many of
them have an offset of their own.
"""

import math
import re
from collections.abc import Collection, Iterator

from ...models.wan.config import FREQUENCIES, IMAGE_WIDTH, WanConfig

NAMINGS = ("host", "diffusers")
HOST_MARKS = (".self_attn.", ".cross_attn.", "head.head.", "text_embedding.", "time_embedding.", "img_emb.")
DIFFUSERS_MARKS = (".attn1.", ".attn2.", "proj_out.", "condition_embedder.", "scale_shift_table")

_LINEAR = {"weight": ("D", "D"), "bias": ("D",)}
_SCALE, _NORM = {"weight": ("D",)}, {"weight": ("D",), "bias": ("D",)}
_TEXT, _TIME = "condition_embedder.text_embedder.", "condition_embedder.time_embedder."
_TOP = (  # layer of the host, of diffusers, shapes of its weights; a weight of no layer has no leaf
    ("patch_embedding", "patch_embedding", {"weight": ("D", "I", 1, "p", "p"), "bias": ("D",)}),
    ("text_embedding.0", _TEXT + "linear_1", {"weight": ("D", "T"), "bias": ("D",)}),
    ("text_embedding.2", _TEXT + "linear_2", _LINEAR),
    ("time_embedding.0", _TIME + "linear_1", {"weight": ("D", "F"), "bias": ("D",)}),
    ("time_embedding.2", _TIME + "linear_2", _LINEAR),
    ("time_projection.1", "condition_embedder.time_proj", {"weight": ("6D", "D"), "bias": ("6D",)}),
    ("head.head", "proj_out", {"weight": ("O", "D"), "bias": ("O",)}),
    ("head.modulation", "scale_shift_table", {"": (1, 2, "D")}),
)
_BLOCK = (
    *((f"self_attn.{ours}", f"attn1.{theirs}", _LINEAR)
      for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))),
    *((f"cross_attn.{ours}", f"attn2.{theirs}", _LINEAR)
      for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))),
    *((f"{ours}.{norm}", f"{theirs}.{norm}", _SCALE)
      for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")) for norm in ("norm_q", "norm_k")),
    ("norm3", "norm2", _NORM),
    ("ffn.0", "ffn.net.0.proj", {"weight": ("H", "D"), "bias": ("H",)}),
    ("ffn.2", "ffn.net.2", {"weight": ("D", "H"), "bias": ("D",)}),
    ("modulation", "scale_shift_table", {"": (1, 6, "D")}),
)  # fmt: skip
_IMAGE = "condition_embedder.image_embedder."
_TOP_IMAGE = (
    ("img_emb.proj.0", _IMAGE + "norm1", {"weight": ("C",), "bias": ("C",)}),
    ("img_emb.proj.1", _IMAGE + "ff.net.0.proj", {"weight": ("C", "C"), "bias": ("C",)}),
    ("img_emb.proj.3", _IMAGE + "ff.net.2", {"weight": ("D", "C"), "bias": ("D",)}),
    ("img_emb.proj.4", _IMAGE + "norm2", _NORM),
)
_TOP_POSITIONS = (("img_emb.emb_pos", _IMAGE + "pos_embed", {"": (1, "P", "C")}),)
_BLOCK_IMAGE = (
    ("cross_attn.k_img", "attn2.add_k_proj", _LINEAR),
    ("cross_attn.v_img", "attn2.add_v_proj", _LINEAR),
    ("cross_attn.norm_k_img", "attn2.norm_added_k", _SCALE),
)
_LAYERS = {  # (in a block, layer of diffusers) -> layer of the host
    **{(False, theirs): ours for ours, theirs, _ in _TOP + _TOP_IMAGE + _TOP_POSITIONS},
    **{(True, theirs): ours for ours, theirs, _ in _BLOCK + _BLOCK_IMAGE},
}
_PLACE = re.compile(r"(blocks\.[0-9]{1,4}\.)?(.*)", re.DOTALL)


def naming_of(names: Collection[str]) -> str:
    """Which of NAMINGS these plain names are; "" for neither, "mixed" for pieces of both."""
    found = [naming for naming, marks in zip(NAMINGS, (HOST_MARKS, DIFFUSERS_MARKS))
             if any(mark in name for name in names for mark in marks)]  # fmt: skip
    return found[0] if len(found) == 1 else "mixed" if found else ""


def host_name(name: str) -> str:
    """A plain name of diffusers, of a layer or of what belongs to it, as the host's; other names as they are."""
    block, rest = _PLACE.fullmatch(name).groups()
    layer, leaf = (rest, "") if (bool(block), rest) in _LAYERS else rest.rpartition(".")[::2]
    ours = _LAYERS.get((bool(block), layer))
    return name if ours is None else (block or "") + ours + (f".{leaf}" if leaf else "")


def wan_shapes(config: WanConfig, naming: str = "host") -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a network of these sizes, in one naming."""
    p, width = config.patch_size, config.num_attention_heads * config.attention_head_dim
    sizes = {
        "D": width, "6D": 6 * width, "I": config.in_channels + config.concat_channels, "p": p,
        "O": p * p * config.in_channels, "T": config.caption_channels, "H": config.hidden_width, "F": FREQUENCIES,
        "C": IMAGE_WIDTH, "P": config.position_tokens,
    }  # fmt: skip
    which, shapes = NAMINGS.index(naming), {}
    for prefix, rows in _sections(config):
        for row in rows:
            for leaf, letters in row[2].items():
                name = prefix + row[which] + (f".{leaf}" if leaf else "")
                shapes[name] = tuple(sizes[side] if isinstance(side, str) else side for side in letters)
    return shapes


def num_parameters(config: WanConfig) -> int:
    """Weights of a network of these sizes."""
    return sum(map(math.prod, wan_shapes(config).values()))


def _sections(config: WanConfig) -> Iterator[tuple[str, tuple]]:
    """Rows of the table with the prefix of their names."""
    image = config.image_tokens
    yield "", _TOP + (_TOP_IMAGE if image else ()) + (_TOP_POSITIONS if config.position_tokens else ())
    for index in range(config.num_layers):
        yield f"blocks.{index}.", _BLOCK + (_BLOCK_IMAGE if image else ())
