"""What a CLIP of the host says of a clip: how alike successive frames are to it, and how alike they are to a prompt."""

import torch
from torch import Tensor

from ...motion.errors import ConfigError
from ...motion.metrics.transfer_report import ClipScores, mean_cosine
from .progress import throw_if_cancelled

BATCH = 8  # frames encoded at once
KNOWN = {768: "as ViT-L/14 has", 1024: "as ViT-H/14 has", 1280: "as ViT-bigG/14 has"}  # numbers of an embedding


def clip_scores(frames: Tensor, clip_vision=None, clip=None, prompt: str = "") -> ClipScores:
    """Scores of frames (t, h, w, 3) in [0, 1] by a CLIP_VISION, and with a CLIP and a prompt those of its words.

    What cannot be told is left out, and the reason said. Raises ConfigError for a CLIP_VISION without embeddings.
    """
    if clip_vision is None:
        return ClipScores()
    pictures = _pictures(frames, clip_vision)
    width = pictures.shape[1]
    known = f", {KNOWN[width]}" if width in KNOWN else ""
    told = (
        f"CLIP scores by {getattr(clip_vision, 'model_type', 'clip_vision_model')} at "
        f"{getattr(clip_vision, 'image_size', '?')} px, {width} numbers a picture{known}"
    )
    text, why = _text(width, clip, prompt)
    similar = None if text is None else mean_cosine(pictures, text)
    return ClipScores(mean_cosine(pictures[1:], pictures[:-1]), similar, f"{told}; {why}" if why else told)


def _pictures(frames: Tensor, clip_vision) -> Tensor:
    parts = []
    for part in frames.split(BATCH):
        throw_if_cancelled()
        found = getattr(clip_vision.encode_image(part), "image_embeds", None)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(part):
            raise ConfigError(
                "this clip_vision gives no embedding of a picture; load a CLIP vision model, such as clip_vision_h, or "
                "disconnect it"
            )
        parts.append(found.float().cpu())
    return torch.cat(parts)


def _text(width: int, clip, prompt: str) -> tuple[Tensor | None, str]:
    """The prompt's embedding (1, d), or why there is none."""
    if clip is None or not prompt.strip():
        return None, "no text score: connect a CLIP of the same model as clip_vision, and write the prompt"
    _, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    if not isinstance(pooled, Tensor) or pooled.ndim != 2:
        return None, "no text score: this text encoder has no embedding of a whole prompt, CLIP has"
    if pooled.shape[1] != width:
        return None, f"no text score: the CLIP has {pooled.shape[1]} numbers a prompt; they belong to different models"
    if not pooled.isfinite().all() or _has_no_projection(clip, width):
        return None, "no text score: this CLIP came without its text_projection, as those of many checkpoints do"
    return pooled.float().cpu(), ""


def _has_no_projection(clip, width: int) -> bool:
    """Whether the last layer, which many files leave out, was never filled: hosts leave zeros or the unit matrix."""
    modules = getattr(clip.cond_stage_model, "named_modules", dict)()
    layers = [module.weight for name, module in modules if name.endswith("text_projection")]
    found = [weight.detach().float().cpu() for weight in layers if tuple(weight.shape) == (width, width)]
    return any(not weight.any() or torch.equal(weight, torch.eye(width)) for weight in found)
