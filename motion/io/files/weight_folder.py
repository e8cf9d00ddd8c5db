"""Weights of one network as one thing: a .safetensors file, shards with their index, or a diffusers folder.

Opening reads headers alone and refuses what is not whole; `read` then gives every tensor or raises. File names in an
index or a config are never followed out of the folder.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ..networks.linear_video import LISTED, PICKLE_SUFFIXES, refuse_pickle_name
from .kind import describe_bytes, shown
from .safetensors import AGAIN, SafetensorsHeader, opened_tensors, read_header, read_safetensors

DOCS = "docs/models.md"
NETWORK_FOLDER = "transformer"  # of a diffusers folder that holds text encoder, VAE and network side by side
_INDEX = re.compile(r".+\.safetensors\.index\.([\w-]+\.)?json")  # with a variant before json in some versions
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
CHANGED = "changed while it was read; try again when it is written"
MAX_JSON = 16 * 2**20
MAX_SHARDS = 1000
UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download")


@dataclass(frozen=True)
class WeightSource:
    """Weights whose headers have been checked. places: the file of each tensor. config: of config.json, else None."""

    path: Path
    headers: dict[Path, SafetensorsHeader]
    places: dict[str, Path]
    config: dict | None
    metadata: dict[str, str]
    row: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return {name: self.headers[path].tensors[name].shape for name, path in self.places.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Number type of every tensor by name."""
        return {name: self.headers[path].tensors[name].dtype for name, path in self.places.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        entries = (entry for header in self.headers.values() for entry in header.tensors.values())
        return sum(entry.end - entry.begin for entry in entries)

    def read(self, on_bytes: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """Every tensor, in memory of its own. on_bytes: told the size of each tensor once it is read.

        Raises CheckpointError for NaN and for files that changed since.
        """
        tensors: dict[str, Tensor] = {}
        with pointing_to(self.row):
            for path, header in self.headers.items():
                found, _ = read_safetensors(path, on_bytes=on_bytes)
                if {name: tuple(tensor.shape) for name, tensor in found.items()} != header.shapes:
                    raise CheckpointError(f"{path}: {CHANGED}")
                tensors |= found
        return {name: tensors[name] for name in self.places}

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], Tensor]]:
        """What reads one tensor by its name while the block lasts, so that the weights need never be held whole.

        Raises CheckpointError for NaN and for files that changed since.
        """
        readers = {}
        with ExitStack() as files:
            with pointing_to(self.row):
                for path, known in self.headers.items():
                    header, readers[path] = files.enter_context(opened_tensors(path))
                    if header != known:
                        raise CheckpointError(f"{path}: {CHANGED}")

            def read(name: str) -> Tensor:
                with pointing_to(self.row):
                    return readers[self.places[name]](name)

            yield read


def open_weights(path: str | os.PathLike, *, row: str = "", folder: str = NETWORK_FOLDER) -> WeightSource:
    """Find and check the weights at a file, an index or a diffusers folder, by their headers.

    row: row of docs/models.md that messages point to. folder: part of a whole diffusers folder that is meant.
    Raises CheckpointError with file, value, need and way out.
    """
    path = Path(path)
    with pointing_to(row):
        if path.is_dir():
            path = _network_folder(path, folder)
            weights, config = _weights_in(path), _read_json(path / "config.json", optional=True)
        else:
            refuse_pickle_name(path)
            if _SHARD.fullmatch(path.name):
                raise CheckpointError(f"{path}: is one of several shards; choose their folder, {path.parent}")
            weights, config = path, _read_json(path.parent / "config.json", optional=True, quiet=True)
        if weights.name.endswith(".json"):
            headers, places = _open_shards(weights)
        else:
            headers = {weights: read_header(weights)}
            places = dict.fromkeys(headers[weights].tensors, weights)
        metadata = {}
        for header in headers.values():
            metadata |= header.metadata
        return WeightSource(path, headers, places, _own_config(metadata, weights) or config, metadata, row)


def read_json(path: str | os.PathLike, *, row: str = "") -> dict:
    """A JSON object of moderate size. Raises CheckpointError with file, value, need and way out."""
    with pointing_to(row):
        return _read_json(Path(path))


@contextmanager
def pointing_to(row: str) -> Iterator[None]:
    """Add where to look to every refusal."""
    try:
        yield
    except CheckpointError as error:
        if DOCS in str(error):
            raise
        raise CheckpointError(f"{error} (file, folder and source: {DOCS}{f', {row}' if row else ''})") from error


def _network_folder(path: Path, folder: str) -> Path:
    """The folder that holds the network's own weights."""
    inner = path / folder
    whole = (path / "model_index.json").exists() or not (path / "config.json").exists()
    return inner if whole and inner.is_dir() else path


def _weights_in(folder: Path) -> Path:
    """The one index or file in a folder; the one without a variant (fp16, bf16) when there are several."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed ({error.strerror}); check the permissions") from error
    indices = [name for name in names if _INDEX.fullmatch(name)]
    shards = {name for name in names if _SHARD.fullmatch(name)}
    found = indices + [name for name in names if name.endswith(".safetensors") and name not in shards]
    plain = [name for name in found if name.split(".")[1:] in (["safetensors"], ["safetensors", "index", "json"])]
    if len(found) == 1 or len(plain) == 1:
        return folder / (plain or found)[0]
    if found:
        raise CheckpointError(
            f"{folder}: holds {len(found)} sets of weights ({_listed(found)}); one is needed: choose the file itself"
        )
    raise CheckpointError(f"{folder}: {_why_empty(names, shards)}")


def _why_empty(names: list[str], shards: set[str]) -> str:
    unfinished = [name for name in names if name.endswith(UNFINISHED)]
    pickles = [name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES]
    if unfinished:
        return f"a download that did not end ({_listed(unfinished)}); let it end or start it again"
    if shards:
        return f"shards ({_listed(sorted(shards))}) without their index (*.safetensors.index.json); get it as well"
    if pickles:
        return (
            f"only pickled weights ({_listed(pickles)}), which can run code and are never opened here; get the "
            ".safetensors files, or make one with `motionblocks convert`"
        )
    return f"no .safetensors weights in it ({_listed(names) or 'it is empty'}); choose the folder that has them"


def _open_shards(index: Path) -> tuple[dict[Path, SafetensorsHeader], dict[str, Path]]:
    """Headers of all shards and the shard of each tensor; index and shards must agree to the last name."""
    where = _read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{index}: has no 'weight_map' of tensor names to files; {AGAIN}")
    shards = sorted(set(where.values()))
    outside = [name for name in shards if not name.endswith(".safetensors") or set(name) & set("/\\:\0")]
    if outside or len(shards) > MAX_SHARDS:
        problem = f"{len(shards)} files, some of them no .safetensors beside it" if outside else f"{len(shards)} files"
        raise CheckpointError(f"{index}: names {problem} ({_listed(outside or shards)}); {AGAIN}")
    folder = index.parent
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {len(shards)} files that it names are missing ({_listed(missing)}); get them "
            f"into {folder}"
        )
    headers = {folder / name: read_header(folder / name) for name in shards}
    places = {name: folder / shard for name, shard in where.items()}
    absent = [name for name, path in places.items() if name not in headers[path].tensors]
    extra = [name for path, header in headers.items() for name in header.tensors if places.get(name) != path]
    for names, what in ((absent, "that the index names are not in their files"), (extra, "are not in the index")):
        if names:
            raise CheckpointError(
                f"{index}: {len(names)} tensors {what} ({_listed(names)}); index and files are of different versions: "
                "get all of them again"
            )
    return headers, places


def _own_config(metadata: Mapping[str, str], path: Path) -> dict | None:
    """The config.json that a converter put into the file's metadata."""
    if "config" not in metadata:
        return None
    return _parsed(metadata["config"], f"{path}: its metadata entry 'config'")


def _read_json(path: Path, *, optional: bool = False, quiet: bool = False) -> dict | None:
    """A JSON object; optional: None when there is no file. quiet: None for other JSON too, which is a neighbour's."""
    try:
        with open(path, "rb") as handle:
            text = handle.read(MAX_JSON + 1)
    except FileNotFoundError as error:
        if optional:
            return None
        raise CheckpointError(f"{path}: is missing; get it from the same place as the weights") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the permissions") from error
    seems = describe_bytes(text[:512], len(text))
    if "JSON" not in seems and seems:
        raise CheckpointError(f"{path}: {seems}; JSON is needed; {AGAIN}")
    if len(text) > MAX_JSON:
        raise CheckpointError(f"{path}: longer than {MAX_JSON} bytes; {AGAIN}")
    values = _parsed(text, str(path))
    return None if quiet and "_class_name" not in values else values


def _parsed(text: bytes | str, what: str) -> dict:
    try:
        values = parse_json(text, allow_constants=True)
    except ValueError as error:
        raise CheckpointError(f"{what}: is not usable JSON ({shown(str(error), 120)}); {AGAIN}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{what}: is not a JSON object; {AGAIN}")
    return values


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown(name, 80)[1:-1] for name in names[:LISTED]) + more
