"""Prompts as token ids for SANA's networks: instruction in front, small letters, padded to what the pipelines give."""

import re
from functools import partial

import torch

from ...kernels.foreign_text import has_half_character, safe_logger
from ...motion.errors import ConfigError
from ...motion.io.text_encoders.gemma_tokenizer import SENTENCEPIECE, TokenizerFile, refused

_log = safe_logger("motionblocks.text")
TOKENS = "gemma2_2b"  # the host's name for this text encoder
LENGTH = 300  # text tokens that SANA's networks take
MAX_LETTERS = 20_000  # of a prompt with its instruction: far more than LENGTH tokens
PAD, BOS = 0, 2
_WEIGHTED = re.compile(r"\([^()]+:\s*\d+(\.\d+)?\s*\)")


class GemmaTokenizer:
    """Prompt → padded ids in the host's form, with the instruction that the clip was given in front."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        self.file: TokenizerFile = tokenizer_data["file"]
        self.instruction: str = tokenizer_data["instruction"]
        self.vocab_size: int = tokenizer_data["vocab_size"]
        self.encode = _encoder(self.file, self.vocab_size)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, tokenizer_options: dict | None = None, **_unused
    ) -> dict:
        """{"gemma2_2b": [[(id, 1.0), …]]}, as many ids as the network's text and the instruction need.

        tokenizer_options: "instruction" stands in for the clip's own; an empty text has none, as in training.
        """
        if _WEIGHTED.search(text):
            _log.warning("MotionBlocks: Gemma reads %r exactly as typed; prompt weights have no effect", text[:80])
        instruction = (tokenizer_options or {}).get("instruction", self.instruction)
        ids = self.fitted(text, instruction)
        return {TOKENS: [[(token, 1.0, 0) if return_word_ids else (token, 1.0) for token in ids]]}

    def fitted(self, text: str, instruction: str) -> list[int]:
        """Ids of instruction and prompt, cut or padded on the right to the length the pipeline gives them."""
        ids, room = self._ids_and_room(text, instruction)
        return ids[:room] + [PAD] * (room - len(ids))

    def num_cut(self, text: str, instruction: str) -> int:
        """Tokens at the end of this prompt that the network will not see."""
        ids, room = self._ids_and_room(text, instruction)
        return max(0, len(ids) - room)

    def ids(self, text: str) -> list[int]:
        """BOS and the tokens of this text as typed. Raises ConfigError for what the text encoder cannot read."""
        if has_half_character(text):
            raise ConfigError("the prompt holds half a character (a surrogate without its other half); type it again")
        if len(text) > MAX_LETTERS:
            raise ConfigError(
                f"the prompt has {len(text)} characters; up to {MAX_LETTERS} are read, and {LENGTH} tokens of them "
                "reach the model; shorten it"
            )
        found = [BOS, *self.encode(text)]
        if max(found) >= self.vocab_size:
            raise ConfigError(
                f"a word of the prompt is token {max(found)}; the text encoder knows {self.vocab_size}: leave out "
                "marks such as <mask>, or get the tokenizer.model that belongs to it"
            )
        return found

    def _ids_and_room(self, text: str, instruction: str) -> tuple[list[int], int]:
        text = text.lower().strip()
        if not instruction or not text:
            return self.ids(text), LENGTH
        return self.ids(instruction + text), len(self.ids(instruction)) + LENGTH - 2

    def untokenize(self, tokens) -> list:
        return [(pair, str(pair[0])) for pair in tokens]

    def state_dict(self) -> dict:
        """The tokenizer as the host saves it with a CLIP."""
        if self.file.kind != SENTENCEPIECE:
            return {}
        return {"spiece_model": torch.frombuffer(bytearray(self.file.data), dtype=torch.uint8)}


def _encoder(file: TokenizerFile, vocab_size: int):
    """text -> ids without BOS. Raises CheckpointError for a tokenizer that is damaged or not Gemma's."""
    try:
        if file.kind == SENTENCEPIECE:
            import sentencepiece

            model = sentencepiece.SentencePieceProcessor(model_proto=file.data)
            special, size = (model.pad_id(), model.bos_id()), model.get_piece_size()
            encode = partial(model.encode, add_bos=False, add_eos=False)
        else:
            from tokenizers import Tokenizer

            model = Tokenizer.from_buffer(file.data)
            special = model.token_to_id("<pad>"), model.token_to_id("<bos>")
            size = model.get_vocab_size(with_added_tokens=False)
            encode = partial(_json_ids, model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise refused(file.place, f"not a usable tokenizer ({str(error)[:120]}); get it again") from error
    if special != (PAD, BOS) or not 0 < size <= vocab_size:
        raise refused(
            file.place, f"{size} pieces with <pad>, <bos> at {special}; Gemma-2's has up to {vocab_size} with them at "
            f"{(PAD, BOS)}; get the tokenizer that belongs to these weights"
        )  # fmt: skip
    return encode


def _json_ids(model, text: str) -> list[int]:
    return model.encode(text, add_special_tokens=False).ids
