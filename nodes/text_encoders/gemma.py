"""Gemma-2 on the host's CLIP socket, read as SANA's networks read it.

The prompt, in small letters, stands behind an instruction; the network sees the first token and the last 299 of what
the last layer says, after the final norm. So the instruction acts through attention alone. Source: SanaPipeline and
SanaVideoPipeline of diffusers 0.42.1; paper of SANA, arXiv 2410.10629.
"""

import math
from functools import partial

import comfy.model_management as memory
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.llama
import torch
from comfy import sd1_clip
from torch import Tensor

from ...motion.errors import ConfigError
from ...motion.io.text_encoders.gemma import GemmaConfig, GemmaFile, kept_dtype, open_gemma
from ..host import devices
from .gemma_tokenizer import BOS, LENGTH, PAD, TOKENS, GemmaTokenizer

MAX_INSTRUCTION = 1000  # tokens; with the prompt this stays below Gemma-2's sliding window of 4096
DTYPES = {"default": None, "bf16": torch.bfloat16, "fp32": torch.float32}


class SoftCappedGemma(comfy.text_encoders.llama.Gemma2_2B):
    """The host's Gemma-2 with the soft cap on attention logits that its weights were trained with."""

    def __init__(self, config_dict, dtype, device, operations):
        sizes = dict(config_dict)
        cap = sizes.pop("attn_logit_softcapping", None)
        super().__init__(sizes, dtype, device, operations)
        for name, weight in self.named_parameters():
            weight.data = weight.data.to(kept_dtype(name, weight.dtype))
        if cap is not None:
            for layer in self.model.layers:
                layer.self_attn.register_forward_pre_hook(partial(_give_cap, cap), with_kwargs=True)


def _give_cap(cap: float, _module, arguments: tuple, named: dict):
    return arguments, {**named, "optimized_attention": partial(soft_capped_attention, cap)}


def soft_capped_attention(
    cap: float, query: Tensor, key: Tensor, value: Tensor, heads: int, mask=None, **_unused
) -> Tensor:
    """softmax(cap·tanh(QKᵀ / (cap·√dh)) + mask) V in float32.

    query (b, nh, n, dh), key and value (b, nh or fewer, n, dh), mask added to the logits -> (b, n, nh·dh) like value.
    Source: Gemma 2 report, arXiv 2408.00118, section 2 (logit soft-capping); a few hundred tokens, so plain torch.
    """
    group = heads // key.shape[1]
    key, wide = (part.float().repeat_interleave(group, dim=1) for part in (key, value))
    logits = query.float() @ key.mT / math.sqrt(query.shape[-1])
    logits = cap * torch.tanh(logits / cap)
    if mask is not None:
        logits = logits + mask.float()
    return (torch.softmax(logits, dim=-1) @ wide).transpose(1, 2).flatten(2).to(value.dtype)


class LastLayer(sd1_clip.SDClipModel):
    """The last layer after its final norm, with the padding masked."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device, dtype=dtype, layer="last", textmodel_json_config={},
            special_tokens={"start": BOS, "pad": PAD}, layer_norm_hidden_state=False, model_class=SoftCappedGemma,
            enable_attention_masks=True, return_attention_masks=True, model_options=model_options or {},
        )  # fmt: skip

    def set_clip_options(self, options: dict) -> None:
        if options.get("layer") is not None:
            raise ConfigError(
                "this clip goes through CLIP Set Last Layer; SANA was trained on the last layer: take that node out"
            )
        super().set_clip_options(options)


class GemmaTextModel(sd1_clip.SD1ClipModel):
    """LastLayer, of whose tokens the networks see the first and the last 299."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device, dtype=dtype, name=TOKENS, clip_model=LastLayer, model_options=model_options or {}
        )

    def encode_token_weights(self, token_weight_pairs: dict) -> tuple[Tensor, None, dict]:
        """Host tokens -> context (1, 300, d), no pooled text, {"attention_mask": (1, 300)}."""
        context, pooled, extra = super().encode_token_weights(token_weight_pairs)
        mask = extra["attention_mask"]
        return _selected(context), pooled, {**extra, "attention_mask": _selected(mask)}

    def load_sd(self, weights: dict):
        """Every weight, as it is, no copy made. Raises RuntimeError when one does not fit."""
        return self.gemma2_2b.transformer.model.load_state_dict(weights, strict=True, assign=True)


def _selected(tokens: Tensor) -> Tensor:
    """Of (1, n, …): the first token and the last 299."""
    return torch.cat([tokens[:, :1], tokens[:, 1 - LENGTH :]], dim=1)


def text_dtype(name: str) -> torch.dtype:
    """Number type of the weights: bfloat16, and float32 where the device has none or the user started with it.

    Never float16, the host's own choice: Gemma's activations and norms outgrow it.
    """
    device, wanted = memory.text_encoder_device(), DTYPES[name]
    if wanted is None:
        wanted = torch.float32 if memory.text_encoder_dtype(device) == torch.float32 else torch.bfloat16
    return wanted if memory.supports_cast(device, wanted) else torch.float32


def load_gemma(file: GemmaFile, dtype: torch.dtype, instruction: str, *, on_bytes=None, disable_dynamic=False):
    """CLIP of the host around Gemma-2 weights. Call it outside inference mode. Raises CheckpointError."""
    config = file.config
    target = comfy.supported_models_base.ClipTarget(GemmaTokenizer, GemmaTextModel)
    told = {"file": file.tokenizer, "instruction": instruction, "vocab_size": config.vocab_size}
    options = {
        "dtype": dtype, "initial_device": torch.device("meta"), "load_device": memory.text_encoder_device(),
        "offload_device": memory.text_encoder_offload_device(), f"{TOKENS}_model_config": _host_config(config),
    }  # fmt: skip
    more = {"disable_dynamic": True} if disable_dynamic else {}
    clip = comfy.sd.CLIP(target, tokenizer_data=told, parameters=config.num_parameters, model_options=options, **more)
    clip.load_sd(file.read(dtype, on_bytes))
    if not devices.is_dynamic(clip.patcher):
        clip.cond_stage_model.to(clip.patcher.offload_device)
    clip.patcher.cached_patcher_init = (_patcher_again, (str(file.source.path), dtype, instruction))
    return clip


def _patcher_again(path: str, dtype: torch.dtype, instruction: str, disable_dynamic: bool = False):
    """A fresh, unpatched patcher, as newer hosts ask for."""
    with torch.inference_mode(False):
        return load_gemma(open_gemma(path), dtype, instruction, disable_dynamic=disable_dynamic).patcher


def _host_config(config: GemmaConfig) -> dict:
    """Sizes by the names of the host's own Gemma-2."""
    return {
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps, "rope_theta": float(config.rope_theta),
        "attn_logit_softcapping": config.attn_logit_softcapping,
    }  # fmt: skip


def is_gemma(clip) -> bool:
    """Whether this CLIP, or the one it was cloned from, came from `load_gemma`."""
    return isinstance(getattr(clip, "tokenizer", None), GemmaTokenizer)


def instruction_of(clip) -> str:
    """The instruction that this Gemma puts before prompts."""
    return clip.tokenizer_options.get("instruction", clip.tokenizer.instruction)


def with_instruction(clip, instruction: str):
    """A clone of this CLIP that puts another instruction before prompts. Raises ConfigError."""
    if not is_gemma(clip):
        raise ConfigError(
            "this clip has no instruction; connect the clip of Load Text Encoder (Gemma-2), or leave this node out"
        )
    count = len(clip.tokenizer.ids(instruction))
    if count > MAX_INSTRUCTION:
        raise ConfigError(f"the instruction is {count} tokens long; up to {MAX_INSTRUCTION} are read: shorten it")
    other = clip.clone()
    other.set_tokenizer_option("instruction", instruction)
    return other
