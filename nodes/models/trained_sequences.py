"""What a LoRA's file says of the sequences it was trained on, kept on the MODEL that the LoRA is put on.

The host's own LoRA loaders drop what files say; what is told here survives clones of the MODEL.
"""

from collections.abc import Iterable, Mapping

from ...motion.adapters.base_sample import CHANNELS
from ...motion.sequence.trained_as import ENTRIES
from .pose_sequence import LENGTH, TRAINED

BESIDE = (CHANNELS, "expert", "base_model")  # of the base, as far as the file says


def says_sequences(metadata: Mapping[str, str]) -> bool:
    """Whether a file is of a training on sequences."""
    return ENTRIES["mode"] in metadata


def tell(copy, metadata: Mapping[str, str]) -> None:
    """Keep on a MODEL, which nobody else has yet, what a file says of sequences; nothing where it says nothing."""
    if not says_sequences(metadata):
        return
    copy.set_attachments(TRAINED, {name: metadata[name] for name in (*ENTRIES.values(), *BESIDE) if name in metadata})
    if metadata.get("frames", "").isdecimal():
        copy.set_attachments(LENGTH, int(metadata["frames"]))


def tell_last(copy, files: Iterable[Mapping[str, str]]) -> None:
    """`tell` of the last of several files that says something of sequences."""
    for metadata in files:
        tell(copy, metadata)
