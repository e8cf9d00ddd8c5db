"""Gemma-2 as a text encoder: recognised and measured by headers and config.json, read with not one name missing.

One .safetensors file, shards with their index, a transformers folder, or the text_encoder of a diffusers folder.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files.weight_folder import WeightSource, open_weights
from ..networks.families import detect_family
from ..networks.linear_video import LISTED
from .gemma_tokenizer import EMBEDDED, ROW, TokenizerFile, find_tokenizer, refused

FOLDER = "text_encoder"  # of a diffusers folder
HEAD_DIM = 256  # of Gemma-2 2B and 9B; the host's own classes know no other
LAYERS = {2304: 26, 3584: 42}  # hidden size -> layers of the public 2B and 9B
PREFIXES = ("text_encoders.", "gemma2_2b.", "transformer.", "language_model.", "model.")
IGNORED = ("lm_head.weight", "logit_scale", "rotary_emb.inv_freq")  # tied head, the host's and old buffers
MAX_LAYERS = 200
FIXED = {"model_type": "gemma2", "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM, 
         "attention_bias": False, "hidden_activation": "gelu_pytorch_tanh"}  # fmt: skip
_INSTRUCTED = re.compile(r"(^|[^a-z])it($|[^a-z])|sana|instruct")


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes of one Gemma-2, and the three numbers that shapes do not tell."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    attn_logit_softcapping: float | None = 50.0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight by name, as `Gemma2Model` of transformers calls it."""
        d, inner, kv = self.hidden_size, self.num_heads * HEAD_DIM, self.num_kv_heads * HEAD_DIM
        block = {
            "self_attn.q_proj": (inner, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, inner), "mlp.gate_proj": (self.intermediate_size, d),
            "mlp.up_proj": (self.intermediate_size, d), "mlp.down_proj": (d, self.intermediate_size),
            "input_layernorm": (d,), "post_attention_layernorm": (d,), "pre_feedforward_layernorm": (d,),
            "post_feedforward_layernorm": (d,),
        }  # fmt: skip
        found = {"embed_tokens.weight": (self.vocab_size, d), "norm.weight": (d,)}
        for i in range(self.num_layers):
            found |= {f"layers.{i}.{name}.weight": shape for name, shape in block.items()}
        return found

    @property
    def num_parameters(self) -> int:
        """Weights in all; 2,614,341,888 for Gemma-2-2B."""
        return sum(torch.Size(shape).numel() for shape in self.shapes().values())


@dataclass(frozen=True)
class GemmaFile:
    """Gemma-2 weights whose every name and shape has been checked. names: plain name -> name in the file."""

    source: WeightSource
    config: GemmaConfig
    tokenizer: TokenizerFile
    names: dict[str, str]
    is_instructed: bool  # by the names of file and folders: the weights themselves do not tell

    def read(self, dtype: torch.dtype, on_bytes: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """Weights by plain name: the norms in float32, the rest in dtype. Raises CheckpointError.

        Gemma's norms scale by 1 + weight; in bfloat16 that sum alone would lose up to 0.4 %.
        """
        state = self.source.read(on_bytes)
        return {plain: state.pop(name).to(kept_dtype(plain, dtype)) for plain, name in self.names.items()}


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Number type that a weight of this name is kept in."""
    return torch.float32 if name.endswith("norm.weight") else dtype


def open_gemma(path: str | os.PathLike, *, json_too: bool = True) -> GemmaFile:
    """Recognise Gemma-2 weights by headers and config.json alone and find their tokenizer.

    json_too: whether tokenizer.json can be used. Raises CheckpointError with file, value, need, way out and the row of
    docs/models.md.
    """
    source = open_weights(path, row=ROW, folder=FOLDER)
    names = plain_names(source.shapes)
    embedded = names.pop(EMBEDDED, None)
    shapes = {plain: source.shapes[name] for plain, name in names.items()}
    _check_family(source.path, source.shapes, shapes)
    config = _config(source, shapes)
    _check_shapes(source.path, shapes, config)
    _check_dtypes(source, names)
    tokenizer = find_tokenizer(source, embedded, json_too=json_too)
    return GemmaFile(source, config, tokenizer, names, _is_instructed(source))


def plain_names(names: Mapping[str, object]) -> dict[str, str]:
    """Map plain names to those in the file, without prefixes of the host, of transformers and what is not needed."""
    plain = {}
    for full in names:
        name = full
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if not name.endswith(IGNORED):
            plain[name] = full
    return plain


def _check_family(path: Path, full: Mapping, shapes: Mapping) -> None:
    """Refuse other text encoders and other models by name."""
    text = "\n".join(shapes)
    if "pre_feedforward_layernorm." in text and "embed_tokens.weight" in shapes and "q_norm." not in text:
        if not any(name.endswith((".weight_scale", ".comfy_quant", "scaled_fp8", ".scale_weight")) for name in shapes):
            return
        seems = "a quantised Gemma-2, whose weights need factors to be read; the bf16 or fp32 file is needed"
    elif "q_norm." in text and "pre_feedforward_layernorm." in text:
        seems = "Gemma-3, another model"
    elif "self_attn.sinks" in text or "self_attn.q_proj." in text:
        seems = "a language model, but not Gemma-2"
    else:
        seems = detect_family(full, full) or f"not a text encoder known here (first names: {_listed(list(full))})"
    raise refused(path, f"this is {seems}; SANA and SANA-Video need Gemma-2-2B-it, text of width 2304")


def _config(source: WeightSource, shapes: Mapping[str, tuple[int, ...]]) -> GemmaConfig:
    """Sizes from the shapes, the rest from config.json, which must agree where it says the same."""
    path, given = source.path, source.config or {}
    vocab, width = _shape(path, shapes, "embed_tokens.weight", 2)
    numbers = [int(name.split(".")[1]) for name in shapes if re.match(r"layers\.\d+\.", name)]
    layers = given.get("num_hidden_layers", LAYERS.get(width, max(numbers, default=0) + 1))
    if type(layers) is not int or not 0 < layers <= MAX_LAYERS:
        raise refused(path, f"config.json gives num_hidden_layers {str(layers)[:40]!r}; get the file again")
    first = "layers.0.{}_proj.weight"
    inner, query, key = (
        _shape(path, shapes, first.format(name), 2)[0] for name in ("mlp.gate", "self_attn.q", "self_attn.k")
    )
    rope = given.get("rope_parameters")  # where transformers 5 writes it
    theta = rope.get("rope_theta", 1e4) if isinstance(rope, dict) else given.get("rope_theta", 1e4)
    config = GemmaConfig(
        vocab, width, inner, layers, query // HEAD_DIM, key // HEAD_DIM, given.get("rms_norm_eps", 1e-6), theta,
        given.get("attn_logit_softcapping", 50.0),
    )  # fmt: skip
    _check_config(path, given, config)
    return config


def _check_config(path: Path, given: Mapping, config: GemmaConfig) -> None:
    """config.json must name Gemma-2, agree with the weights and hold usable numbers."""
    from_shapes = {
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
    }  # fmt: skip
    for name, need in {**FIXED, **from_shapes}.items():
        if given.get(name) not in (None, need):
            whose = "the weights have" if name in from_shapes else "Gemma-2 2B has"
            raise refused(
                path, f"config.json says {name} {str(given[name])[:40]!r}; {whose} {need!r}; get config.json and "
                "weights of one model again"
            )  # fmt: skip
    cap = config.attn_logit_softcapping
    told = {"rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta,
            "attn_logit_softcapping": 1 if cap is None else cap}  # fmt: skip
    for name, value in told.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise refused(path, f"config.json gives {name} {str(value)[:40]!r}; get the file again")


def _shape(path: Path, shapes: Mapping, name: str, rank: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != rank:
        have = "missing" if shape is None else f"{shape}"
        raise refused(path, f"weight {name} is {have}; {rank} axes are needed; get the file again")
    return shape


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], config: GemmaConfig) -> None:
    """Not one weight may be missing, extra or of another shape."""
    need = config.shapes()
    missing, extra = [n for n in need if n not in shapes], [n for n in shapes if n not in need]
    if missing or extra:
        both = (f"{len(missing)} weights are missing ({_listed(missing)})" if missing else "",
                f"{len(extra)} are unknown ({_listed(extra)})" if extra else "")  # fmt: skip
        raise refused(
            path, f"{' and '.join(filter(None, both))} for a Gemma-2 of {config.num_layers} layers; get the whole "
            "model again"
        )
    wrong = [name for name in need if shapes[name] != need[name]]
    if wrong:
        raise refused(
            path, f"weight {wrong[0]} is {shapes[wrong[0]]}; {need[wrong[0]]} is needed ({len(wrong)} such); get the "
            "whole model again"
        )


def _check_dtypes(source: WeightSource, names: Mapping[str, str]) -> None:
    for name in names.values():
        dtype = source.headers[source.places[name]].tensors[name].dtype
        if not dtype.is_floating_point:
            raise refused(
                source.path, f"weight {name} is {dtype}; bfloat16 or float32 is needed; get the unquantised model"
            )


def _is_instructed(source: WeightSource) -> bool:
    said = f"{(source.config or {}).get('_name_or_path', '')}/" + "/".join(source.path.parts[-2:])
    return bool(_INSTRUCTED.search(said.lower()))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED])[:400] + more
