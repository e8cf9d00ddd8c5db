"""The words of the pack's small Wan as a CLIP of the host, so that the core node CLIP Text Encode reads them."""

from functools import partial

import comfy.model_management
import comfy.sd
import comfy.supported_models_base
import torch
from torch import Tensor

from ...motion.text.scene_vocabulary import SceneVocabulary, word_vectors
from ..host.conditions import UNREAD
from .motion_vocabulary import MotionTokenizer
from .prompts import Unread


class SceneTokenizer(MotionTokenizer):
    """Prompt → eight tokens, one a word."""

    key = "scene"

    def _told(self, text: str) -> dict:
        return {}


class SceneTextModel(torch.nn.Module):
    """The vectors of the words, with the methods the host calls on a text encoder. They are known without a file."""

    def __init__(self, *, count: int, width: int, dtype=None, device=None, model_options=None):
        super().__init__()
        self.register_buffer("vectors", word_vectors(count, width).to(device), persistent=False)
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: dict) -> None:
        """Nothing is computed, so nothing depends on where."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, None, dict]:
        """Host tokens -> context (b, 8, d) float32, no pooled text, and why a prompt was not read (prompts.py)."""
        ids = torch.tensor([[pair[0] for pair in row] for row in tokens[SceneTokenizer.key]], dtype=torch.long)
        context = self.vectors[ids.to(self.vectors.device)].to(comfy.model_management.intermediate_device())
        if UNREAD not in tokens:
            return context, None, {}
        return context * float("nan"), None, {UNREAD: Unread(tokens[UNREAD], context, None, None)}

    def load_sd(self, weights: dict):
        return self.load_state_dict(weights, strict=False)


def build_scene_clip(vocabulary: SceneVocabulary, width: int):
    """CLIP of the host that reads these words. width: of the text the network takes. Call it outside inference mode."""
    target = comfy.supported_models_base.ClipTarget(partial(SceneTokenizer, vocabulary=vocabulary), SceneTextModel)
    target.params = {"count": vocabulary.size, "width": width}
    return comfy.sd.CLIP(target, parameters=vocabulary.size * width, model_options={"dtype": torch.float32})
