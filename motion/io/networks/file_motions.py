"""The motions a model file knows: named in its metadata, since every file may have been taught others."""

from collections.abc import Mapping

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ...text.vocabulary import MOTIONS, MotionVocabulary
from .builtin_names import BUILTIN_NAMES, builtin_path

ENTRY = "motions"  # metadata entry: JSON list in the order of the ids; absent = the nine of the first edition


def file_motions(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Motions by the metadata of a file. Raises CheckpointError for an entry that is no list of known motions."""
    if ENTRY not in metadata:
        return MOTIONS
    try:
        return MotionVocabulary(parse_json(metadata[ENTRY])).words
    except ValueError as error:
        raise CheckpointError(f"metadata entry {ENTRY!r} is not usable: {str(error)[:200]}; save it again") from error


def file_vocabulary(metadata: Mapping[str, str], rows: int) -> MotionVocabulary:
    """Reader of the prompts a file understands; rows: those of its text embedding, the empty one included.

    Raises CheckpointError when the weights were made with another number of motions than are named.
    """
    vocabulary = MotionVocabulary(file_motions(metadata), who_knows=builtin_models_that_know)
    if rows != vocabulary.size:
        raise CheckpointError(
            f"the model was made with {rows - 1} motions, but {vocabulary.size - 1} are named; update the pack or use "
            "the model that came with it"
        )
    return vocabulary


def builtin_models_that_know(word: str) -> list[str]:
    """Names of the built-in models that read a lower-case word; a damaged one knows none."""
    from ..files.safetensors import read_header

    found = []
    for name in BUILTIN_NAMES:
        try:
            words = file_motions(read_header(builtin_path(name)).metadata)
        except CheckpointError:
            continue
        found += [name] if MotionVocabulary(words).knows(word) else []
    return found
