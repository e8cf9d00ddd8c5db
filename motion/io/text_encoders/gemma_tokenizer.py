"""Find the tokenizer of Gemma weights: inside the file, beside it, or in the tokenizer folder next door."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError
from ..files.kind import describe_bytes
from ..files.safetensors import AGAIN
from ..files.weight_folder import DOCS, WeightSource

EMBEDDED = "spiece_model"  # the tensor that holds tokenizer.model in the host's own single files
SENTENCEPIECE, JSON = "tokenizer.model", "tokenizer.json"
MAX_BYTES = 64 * 2**20
ROW = "Gemma-2"  # of docs/models.md


def refused(path: Path, text: str) -> CheckpointError:
    """The error to raise about these weights: file, what is wrong with it, and where to look."""
    return CheckpointError(f"{path}: {text} (file, folder and source: {DOCS}, {ROW})")


@dataclass(frozen=True)
class TokenizerFile:
    """Bytes of a tokenizer. kind: SENTENCEPIECE or JSON. place: where they were found."""

    kind: str
    data: bytes
    place: str


def find_tokenizer(source: WeightSource, embedded: str | None, *, json_too: bool = True) -> TokenizerFile:
    """The tokenizer of these weights; `embedded` is the name of the tensor that holds it, if one does.

    Order: the tensor; tokenizer.model beside the weights, then in ../tokenizer; where json_too, tokenizer.json in the
    same places. Raises CheckpointError listing the places tried.
    """
    if embedded is not None:
        return TokenizerFile(SENTENCEPIECE, _read(source.places[embedded], embedded, source), "inside the file")
    tried = []
    for kind in (SENTENCEPIECE, JSON) if json_too else (SENTENCEPIECE,):
        for path in _places(source.path, kind):
            if path.is_file():
                return TokenizerFile(kind, _bytes(path), str(path))
            tried.append(str(path))
    raise refused(
        source.path, f"no tokenizer found; tried: {EMBEDDED} inside the file, {', '.join(tried)}; get the model's "
        f"{SENTENCEPIECE} and put it beside the weights"
    )  # fmt: skip


def _places(path: Path, name: str) -> list[Path]:
    folder = path if path.is_dir() else path.parent
    return [folder / name, folder.parent / "tokenizer" / name]


def _read(path: Path, name: str, source: WeightSource) -> bytes:
    """Bytes of the embedded tokenizer, without reading the weights around it."""
    header = source.headers[path]
    entry = header.tensors[name]
    if entry.dtype.itemsize != 1 or len(entry.shape) != 1 or not 0 < entry.end - entry.begin <= MAX_BYTES:
        raise refused(
            path, f"its tensor {name} is {entry.dtype} of {entry.shape}; a row of bytes with the tokenizer in it is "
            f"needed; {AGAIN}"
        )  # fmt: skip
    with open(path, "rb") as handle:
        handle.seek(header.data_start + entry.begin)
        return handle.read(entry.end - entry.begin)


def _bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror}); check the permissions") from error
    seems = describe_bytes(data[:512], len(data))
    wrong = seems and not (path.name == JSON and "JSON" in seems)
    if wrong or len(data) > MAX_BYTES:
        raise refused(path, f"{seems or f'longer than {MAX_BYTES} bytes'}; a tokenizer is needed; {AGAIN}")
    return data
