"""Prompts on their way from a CLIP of the host into a file that training without the host reads."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from ...motion.errors import ConfigError
from ...motion.io.text_encoders.prompts_file import SavedPrompt, write_prompts
from .prompts import refuse_unread


def encoder_name(clip) -> str:
    """What the host calls the text encoder of a CLIP: umt5xxl is Wan's, t5xxl the one of Flux and LTX-Video."""
    model = getattr(clip, "cond_stage_model", None)
    return str(getattr(model, "clip_name", "") or type(model).__name__)


def encode_prompts(clip, texts: Iterable[str], on_step: Callable[[int, int], None]) -> dict[str, SavedPrompt]:
    """Each text as CLIP Text Encode gives it. on_step(done, total) is called around each; what it raises passes.

    Raises ConfigError for a prompt that the CLIP cannot read, and for text that is no video model's.
    """
    texts, made = list(texts), {}
    for done, text in enumerate(texts):
        on_step(done, len(texts))
        with torch.inference_mode():
            out = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True, return_dict=True)
        refuse_unread([out])
        context, mask, pooled = out["cond"], out.get("attention_mask"), out.get("pooled_output")
        if context.ndim != 3 or context.shape[0] != 1:
            raise ConfigError(
                f"clip gives text of {tuple(context.shape)}; (1, n, d) is needed; connect the text encoder of a video "
                "model"
            )
        parts = (context[0], None if mask is None else mask.reshape(-1), None if pooled is None else pooled[0])
        made[text] = SavedPrompt.of(*map(_own, parts))
    on_step(len(texts), len(texts))
    return made


def save_prompts(target: Path, clip, prompts: dict[str, SavedPrompt]) -> Path:
    """Write them under the next free name; the path. Raises CheckpointError."""
    from ...motion.io.files.atomic import new_output

    with new_output(target) as output:
        write_prompts(output.temp, prompts, encoder_name(clip))
    return output.path


def _own(tensor: Tensor | None) -> Tensor | None:
    """A copy on the CPU that outlives the host's inference mode."""
    if tensor is None:
        return None
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32).clone()
