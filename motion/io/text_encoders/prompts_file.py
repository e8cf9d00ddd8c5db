"""Encoded prompts as a file, so that a text encoder that only the host can run is not needed where a network trains.

A safetensors file: "N.context" (n, d), and where the encoder gives them "N.attention_mask" (n,) and "N.pooled" (d,),
for prompt N of the list in its metadata. Rows of zeros at the end, which encoders pad with, are counted, not stored.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...foreign_json import parse_json
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import SafetensorsHeader, check_values, opened_tensors, read_header
from ..networks.families import detect_family

FAMILY, FORMAT_VERSION = "prompts", 1
PARTS = ("context", "attention_mask", "pooled")
MAX_ROWS = 1 << 16  # of one prompt
LISTED = 5  # texts named in a message
SAVE_THEM = "save them with the node Save Prompts in ComfyUI"


@dataclass(frozen=True, eq=False)
class SavedPrompt:
    """What an encoder made of one prompt, without the zeros at its end. num_rows: with them."""

    context: Tensor  # (n, d)
    num_rows: int
    attention_mask: Tensor | None = None  # (n,), 1 where a key counts
    pooled: Tensor | None = None  # (d,)

    @classmethod
    def of(cls, context: Tensor, attention_mask: Tensor | None = None, pooled: Tensor | None = None) -> "SavedPrompt":
        """A prompt as encoded, (n, d); rows that are nothing but zeros, and masked where there is a mask, are cut off.

        One row is always kept. Raises ConfigError for other shapes.
        """
        is_mask = attention_mask is None or attention_mask.shape == context.shape[:1]
        if context.ndim != 2 or not context.numel() or not is_mask or (pooled is not None and pooled.ndim != 1):
            raise ConfigError(
                f"the text encoder gave text of {tuple(context.shape)}; (n, d) is needed, with a mask (n,) and pooled "
                "text (d,) where it has them; use the text encoder of a video model"
            )
        counts = context.ne(0).any(1)
        counts = counts if attention_mask is None else counts | attention_mask.ne(0)
        last = int(counts.nonzero().max()) + 1 if counts.any() else 1
        mask = None if attention_mask is None else attention_mask[:last]
        return cls(context[:last], len(context), mask, pooled)

    @property
    def full_context(self) -> Tensor:
        """(num_rows, d): the context as the encoder gave it."""
        zeros = self.context.new_zeros(self.num_rows - len(self.context), self.context.shape[1])
        return torch.cat((self.context, zeros))


@dataclass(frozen=True)
class PromptsFile:
    """A prompts file whose header has passed every check. encoder: what the host calls the text encoder."""

    path: Path
    header: SafetensorsHeader
    encoder: str
    width: int
    rows: Mapping[str, int]  # of each prompt, zeros at its end included; in the file's order

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts, the empty one among them."""
        return tuple(self.rows)

    def check_encoder(self, width: int, encoder: str, title: str) -> None:
        """Refuse prompts of another text encoder. title: of the one that is needed. Raises ConfigError."""
        if self.width != width:
            raise ConfigError(
                f"prompts {self.path} are {self.width} wide, of {shown(self.encoder)}; the model needs {width}, of "
                f"{title}; {SAVE_THEM}, with that text encoder as clip"
            )
        if self.encoder != encoder:
            raise ConfigError(
                f"prompts {self.path} were encoded by {shown(self.encoder)}; the model needs {encoder!r}, {title}, "
                f"which is as wide and reads otherwise; {SAVE_THEM}, with that text encoder as clip"
            )

    def check_holds(self, captions: Mapping[str, str]) -> None:
        """Refuse captions that are not in the file. captions: caption -> name of a clip that has it. ConfigError."""
        missing = [caption for caption in captions if caption not in self.rows]
        if not missing:
            return
        first, others = missing[0], f" and {len(missing) - 1} more" if missing[1:] else ""
        held = [f"{text[:60]!r}" for text in self.texts if text]
        more = f" and {len(held) - LISTED} more" if held[LISTED:] else ""
        raise ConfigError(
            f"prompts {self.path} lack the caption {first[:80]!r} of clip {captions[first]!r}{others}; they hold "
            f"{', '.join(held[:LISTED]) + more if held else 'the empty prompt alone'}; {SAVE_THEM}, with these clips "
            "connected, or change the captions"
        )

    def read(self, texts: Iterable[str]) -> dict[str, SavedPrompt]:
        """These prompts, each in memory of its own. Raises CheckpointError for values that are not finite."""
        found, places = {}, {text: number for number, text in enumerate(self.rows)}
        with opened_tensors(self.path) as (header, read):
            if header != self.header:
                raise CheckpointError(f"{self.path}: changed while it was read; try again when it is written")
            for text in texts:
                names = {part: f"{places[text]}.{part}" for part in PARTS}
                parts = {part: read(name) for part, name in names.items() if name in header.tensors}
                found[text] = SavedPrompt(num_rows=self.rows[text], **parts)
        return found

    def describe(self) -> str:
        """Encoder, width and texts, a line each."""
        shapes = self.header.shapes
        lines = [f"{shapes[f'{number}.context'][0]} tokens: {text[:120]!r}" for number, text in enumerate(self.rows)]
        return "\n".join([f"{len(lines)} prompts, {self.width} wide, encoded by {shown(self.encoder)}", *lines])


def write_prompts(
    path: str | os.PathLike, prompts: Mapping[str, SavedPrompt], encoder: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write encoded prompts by their text, whole or not at all; the empty one, "", must be among them.

    metadata: texts beside our own. Raises ConfigError for prompts of different widths, CheckpointError for values that
    are not finite and for a disk that refuses.
    """
    widths = {prompt.context.shape[1] for prompt in prompts.values()}
    if "" not in prompts or len(widths) != 1:
        raise ConfigError(f"prompts of one width are needed, the empty one among them; widths are {sorted(widths)}")
    tensors = {f"{number}.{part}": getattr(prompt, part) for number, prompt in enumerate(prompts.values())
               for part in PARTS if getattr(prompt, part) is not None}  # fmt: skip
    for name, tensor in tensors.items():
        check_values(name, tensor, Path(path))
    listed = [{"text": text, "rows": prompt.num_rows} for text, prompt in prompts.items()]
    own = {
        "format_version": str(FORMAT_VERSION), "family": FAMILY, "encoder": encoder, "width": str(widths.pop()),
        "prompts": json.dumps(listed, ensure_ascii=False),
    }  # fmt: skip
    write_safetensors(path, tensors, {**(metadata or {}), **own})


def open_prompts(path: str | os.PathLike) -> PromptsFile:
    """Check a prompts file by its header alone. Raises CheckpointError with file, value, need and way out."""
    path = Path(path)
    header = read_header(path)
    metadata = header.metadata
    if not is_prompts(metadata):
        what = detect_family(header.shapes, header.shapes) or "not a file known here"
        raise CheckpointError(f"{path}: this is {what}; encoded prompts are needed: {SAVE_THEM}")
    version = metadata.get("format_version", "")
    if not version.isdecimal() or int(version[:6]) > FORMAT_VERSION:
        raise CheckpointError(f"{path}: prompts of version {shown(version)}, this pack reads up to {FORMAT_VERSION}; "
                              "update the pack")  # fmt: skip
    rows = _listed(path, metadata)
    width = metadata.get("width", "")
    for number, count in enumerate(rows.values()):
        shapes = {part: header.tensors[name].shape for part in PARTS if (name := f"{number}.{part}") in header.tensors}
        context = shapes.get("context", ())
        fits = len(context) == 2 and 1 <= context[0] <= count and str(context[1]) == width
        if not fits or shapes.get("attention_mask", context[:1]) != context[:1] or len(shapes.get("pooled", (1,))) != 1:
            raise CheckpointError(f"{path}: prompt {number} has the shapes {shapes}; a context of up to {count} rows "
                                  f"{shown(width)} wide is needed; {SAVE_THEM} again")  # fmt: skip
    return PromptsFile(path, header, metadata.get("encoder", ""), int(width), rows)


def is_prompts(metadata: Mapping[str, str]) -> bool:
    """Whether a file says that it holds prompts."""
    return metadata.get("family") == FAMILY


def _listed(path: Path, metadata: Mapping[str, str]) -> dict[str, int]:
    """Rows by text, as the metadata lists them. Raises CheckpointError."""
    try:
        listed = parse_json(metadata.get("prompts", ""))
    except ValueError:
        listed = None
    whole = isinstance(listed, list) and all(
        isinstance(item, dict) and isinstance(item.get("text"), str) and type(item.get("rows")) is int
        and 1 <= item["rows"] <= MAX_ROWS for item in listed
    )  # fmt: skip
    rows = {item["text"]: item["rows"] for item in listed} if whole else {}
    if "" not in rows or len(rows) != len(listed):
        raise CheckpointError(
            f"{path}: its list of prompts is damaged, has one twice or lacks the empty one; {SAVE_THEM} again"
        )
    return rows
