"""The motion vocabulary as a CLIP of the host, so that the core node CLIP Text Encode reads motions."""

from collections.abc import Mapping
from functools import partial

import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch
from torch import Tensor

from ...motion.errors import CheckpointError, ConfigError
from ...motion.io.networks.file_motions import file_vocabulary
from ...motion.text.encoder import MotionTextEncoder
from ...motion.text.vocabulary import MotionVocabulary
from ..host import conditions
from ..host.conditions import UNREAD, WORDS
from .prompts import Unread

TOKENS = "motion"


class MotionTokenizer:
    """Prompt → eight fixed motion tokens in the host's form."""

    key = TOKENS

    def __init__(self, embedding_directory=None, tokenizer_data=None, *, vocabulary: MotionVocabulary):
        self.vocabulary = vocabulary

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_unused) -> dict:
        """{"motion": [[(id, 1.0), …]]}; for a prompt that cannot be read those of the empty one, and the refusal."""
        try:
            ids, more = self.vocabulary.tokenize(text), self._told(text)
        except ConfigError as error:
            ids, more = self.vocabulary.tokenize(""), {UNREAD: str(error)}
        pairs = [(token, 1.0) for token in ids]
        return {self.key: [[(*pair, 0) for pair in pairs] if return_word_ids else pairs], **more}

    def _told(self, text: str) -> dict:
        """What else a prompt that was read tells nodes."""
        return {WORDS: self.vocabulary.motions(text)}

    def untokenize(self, tokens) -> list:
        words = ("", *self.vocabulary.words)
        return [(pair, words[pair[0]]) for pair in tokens]

    def state_dict(self) -> dict:
        return {}


class MotionTextModel(torch.nn.Module):
    """MotionTextEncoder with the methods the host calls on a text encoder."""

    def __init__(self, *, vocabulary_size: int, width: int, dtype=None, device=None, model_options=None):
        super().__init__()
        self.encoder = MotionTextEncoder(
            vocabulary_size, width, operations=comfy.ops.manual_cast, dtype=dtype, device=device
        )
        self.dtypes = {dtype}
        self.execution_device = None

    def set_clip_options(self, options: dict) -> None:
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        self.execution_device = None

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor, dict]:
        """Host tokens -> context (b, 8, d), pooled (b, d), {"attention_mask": (b, 8)}; float32.

        The dict also holds the prompt's motions. A prompt that could not be read gives NaN, and carries why and the
        empty prompt in the dict (_prompts.py).
        """
        ids = torch.tensor([[pair[0] for pair in row] for row in tokens[TOKENS]], dtype=torch.long)
        context, pooled, mask = self.encoder(ids.to(self.execution_device or "cpu"))
        keep = comfy.model_management.intermediate_device()
        context, pooled, mask = context.to(keep).float(), pooled.to(keep).float(), mask.to(keep)
        if UNREAD not in tokens:
            return context, pooled, {"attention_mask": mask, WORDS: tokens.get(WORDS, ())}
        unread = Unread(tokens[UNREAD], context, pooled, mask)
        nan = float("nan")
        return context * nan, pooled * nan, {"attention_mask": mask, UNREAD: unread}

    def load_sd(self, weights: dict):
        return self.encoder.load_state_dict(weights, strict=False, assign=getattr(self, "can_assign_sd", False))


def build_clip(weights: dict[str, Tensor], metadata: Mapping[str, str]):
    """CLIP of the host around a built-in text encoder, reading the motions that the file's metadata names.

    Call it outside inference mode. Raises CheckpointError.
    """
    rows, width = weights["embedding.weight"].shape
    tokenizer = partial(MotionTokenizer, vocabulary=file_vocabulary(metadata, rows))
    target = comfy.supported_models_base.ClipTarget(tokenizer, MotionTextModel)
    target.params = {"vocabulary_size": rows, "width": width}
    count = sum(tensor.numel() for tensor in weights.values())
    clip = comfy.sd.CLIP(target, parameters=count, model_options={"dtype": torch.float32})
    missing, unexpected = clip.load_sd({name: tensor.float() for name, tensor in weights.items()})
    if missing or unexpected:
        raise CheckpointError(f"text encoder weights {[*missing, *unexpected][:5]} do not fit; get the file again")
    return clip


def words_of(prompt: list) -> tuple[str, ...]:
    """Motions that the parts of a CONDITIONING from such a clip name, without repeats."""
    return tuple(dict.fromkeys(word for _, told in prompt for word in conditions.read(told).words))


def names_no_motion(prompt: list) -> bool:
    """Whether no part of a CONDITIONING from such a clip names a motion: its first key is then the empty one."""
    keys = [part for part, _ in prompt if part.ndim == 3 and part.shape[1] > 1]
    return bool(keys) and all(torch.equal(part[:, 0], part[:, 1]) for part in keys)
