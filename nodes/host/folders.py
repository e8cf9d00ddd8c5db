"""The host's folders: what loaders offer from them, where names lead, when a file has changed."""

import os
from pathlib import Path

import folder_paths

from ...motion.errors import CheckpointError, ConfigError

WEIGHTS_FOLDER = "diffusion_models"
ADAPTERS_FOLDER = "motion_adapters"  # below models and below output
SUFFIX = ".safetensors"
DETECTORS_FOLDER = "pose_detectors"
SHIPPED = "shipped: "  # before the names of what comes with the pack
_ROWS = {  # parts of names of files that lie apart -> row of docs/models.md
    "vae": (("wan", "Wan 2.1 VAE"), ("ltx", "LTX-2 VAE"), ("dc-ae", "DC-AE"), ("dcae", "DC-AE")),
    "text_encoders": (("gemma", "Gemma-2"),),
}


def model_names(folder: str, part: str = "") -> list[str]:
    """What a loader offers of models/<folder>: .safetensors files, and folders with a whole model in them.

    A folder is one that holds config.json, model_index.json or an index of shards, as diffusers and transformers save
    them; what lies inside it is not listed a second time. part: a diffusers folder in models/diffusion_models that has
    this part (vae, text_encoder) is offered too, so that it can be kept whole.
    """
    models = [name for root in folder_paths.get_folder_paths(folder) for name in _model_folders(Path(root))]
    inside = tuple(name + os.sep for name in models)
    files = [name for name in folder_paths.get_filename_list(folder)
             if name.lower().endswith(".safetensors") and not name.startswith(inside)]  # fmt: skip
    whole = [name for root in folder_paths.get_folder_paths(WEIGHTS_FOLDER) for name in _model_folders(Path(root))
             if part and (Path(root) / name / part).is_dir()]  # fmt: skip
    return sorted({*models, *whole}) + files


def model_path(folder: str, name: str, part: str = "") -> str:
    """Full path of a listed file or folder. Raises CheckpointError for a name that is not in the list."""
    if name in model_names(folder, part):
        places = [folder, WEIGHTS_FOLDER] if part else [folder]
        for root in (root for place in places for root in folder_paths.get_folder_paths(place)):
            if (Path(root) / name).exists():
                return str(Path(root) / name)
    raise CheckpointError(_absent(folder, name))


def check_model_name(folder: str, name: str | None, part: str = "") -> bool | str:
    """For a node's validate_inputs: True, or what to get and where, which the host shows before anything runs.

    The host's own check of the combo would only say that the value is not in the list. None: the input is linked.
    """
    return True if name is None or name in model_names(folder, part) else _absent(folder, name)


def register_adapters_folder() -> None:
    """Tell the host of models/motion_adapters and output/motion_adapters; what a user's extra paths name stays."""
    known = folder_paths.folder_names_and_paths
    named = list(known[ADAPTERS_FOLDER][0]) if ADAPTERS_FOLDER in known else []
    own = [os.path.join(root, ADAPTERS_FOLDER)
           for root in (folder_paths.models_dir, folder_paths.get_output_directory())]  # fmt: skip
    known[ADAPTERS_FOLDER] = ([*named, *(path for path in own if path not in named)], {SUFFIX})


def adapter_names() -> list[str]:
    """Adapters that come with the pack, then the .safetensors files in the folders of motion adapters."""
    from ...motion.io.adapters.shipped import SHIPPED_ADAPTERS

    return [*(SHIPPED + name for name in SHIPPED_ADAPTERS), *folder_paths.get_filename_list(ADAPTERS_FOLDER)]


def adapter_path(name: str) -> str:
    """Full path of a listed adapter. Raises CheckpointError for a name that is not in the list."""
    from ...motion.io.adapters.shipped import FOLDER

    path = folder_paths.get_full_path(ADAPTERS_FOLDER, name) if name in adapter_names() else None
    if name in adapter_names() and name.startswith(SHIPPED):
        path = str(FOLDER / f"{name.removeprefix(SHIPPED)}{SUFFIX}")
    if path is None:
        raise CheckpointError(_no_adapter(name))
    return path


def check_adapter_name(name: str | None) -> bool | str:
    """For a node's validate_inputs, as `check_model_name`."""
    return True if name is None or name in adapter_names() else _no_adapter(name)


def _no_adapter(name) -> str:
    return (
        f"{str(name)[:80]!r} is not in models/{ADAPTERS_FOLDER} or output/{ADAPTERS_FOLDER}; a .safetensors file made "
        "by Train Motion Adapter, or a LoRA, is needed; put it there and refresh the node definitions (press R)"
    )


def detector_names() -> tuple[list[str], list[str]]:
    """Folders and .safetensors files of models/pose_detectors, which the host itself does not know.

    Other places for it can be named in the host's extra_model_paths.yaml.
    """
    found, files = [], []
    for root in _detector_roots():
        models = _model_folders(root)
        found += models
        files += sorted(
            os.path.join(*([] if place is None else [place.name]), entry.name)
            for place in (None, *(entry for entry in _entries(root) if entry.is_dir() and entry.name not in models))
            for entry in _entries(root if place is None else place.path)
            if entry.name.lower().endswith(".safetensors")
        )
    return list(dict.fromkeys(found)), list(dict.fromkeys(files))


def detector_path(name: str) -> str:
    """Full path of a listed folder or file of models/pose_detectors. Raises CheckpointError."""
    for root in _detector_roots() if name in sum(detector_names(), []) else ():
        if (root / name).exists():
            return str(root / name)
    raise CheckpointError(
        f"{str(name)[:80]!r} is not in models/{DETECTORS_FOLDER}; docs/models.md says what to put there and where it "
        "comes from; then refresh the node definitions (press R)"
    )


def _detector_roots() -> list[Path]:
    told = folder_paths.folder_names_and_paths.get(DETECTORS_FOLDER, ([],))[0]
    return [Path(root) for root in dict.fromkeys([*told, os.path.join(folder_paths.models_dir, DETECTORS_FOLDER)])]


def _absent(folder: str, name) -> str:
    """What a user reads of a model that is not there, with the row of docs/models.md that its name belongs to."""
    from ...motion.io.networks.video_model import row_by_name

    low = str(name)[:200].lower()
    whole = row_by_name(low) if folder == WEIGHTS_FOLDER or "sana" in low else "VAEs and the text encoder"
    row = next((row for mark, row in _ROWS.get(folder, ()) if mark in low), whole)
    return (
        f"{str(name)[:80]!r} is not in models/{folder}; a .safetensors file or a diffusers folder in there is needed; "
        "put it there and refresh the node definitions (press R); docs/models.md names files, folders and sources: "
        f"{row}"
    )


def _model_folders(root: Path, depth: int = 2) -> list[str]:
    """Names of model folders below root, by the files that mark them; what cannot be listed holds none."""
    found = []
    for entry in sorted(_entries(root), key=lambda entry: entry.name):
        if not entry.is_dir():
            continue
        if any(_marks_a_model(inner.name) for inner in _entries(entry.path)):
            found.append(entry.name)
        elif depth > 1:
            found += [os.path.join(entry.name, name) for name in _model_folders(Path(entry.path), depth - 1)]
    return found


def _entries(folder: str | os.PathLike) -> list[os.DirEntry]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _marks_a_model(name: str) -> bool:
    return name in ("config.json", "model_index.json") or name.endswith(".safetensors.index.json")


def safe_join(root: str | os.PathLike, name: str) -> Path:
    """Path of name inside root, links followed. Raises ConfigError when it leads outside."""
    base = Path(root).resolve()
    path = (base / name).resolve() if "\0" not in name else base
    if base not in path.parents:
        raise ConfigError(f"file name {name[:60]!r} leads outside {base.name}; choose a name from the list")
    return path


def stamp(path: str | os.PathLike) -> str:
    """Size and time of a file, or of all files of a model folder, so that a cached load is repeated when one changes.

    '' when it is missing.
    """
    try:
        if not os.path.isdir(path):
            info = os.stat(path)
            return f"{info.st_size}-{info.st_mtime_ns}"
        folders = [path, *(entry.path for entry in os.scandir(path) if entry.is_dir())]
        files = sorted(entry.path for folder in folders for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return ""
    return " ".join(f"{os.path.basename(file)} {stamp(file)}" for file in files)


def model_stamp(folder: str, name: str, part: str = "") -> str:
    """The stamp of a model that `model_names` offers; '' when it is not there."""
    try:
        return stamp(model_path(folder, name, part))
    except CheckpointError:
        return ""


def stamp_time(path: str | os.PathLike) -> int:
    """When a file was last changed, in ns; 0 when it is missing."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def output_folder() -> Path:
    """Where the host keeps what nodes save; its `loras` and `diffusion_models` are listed by the core loaders."""
    return Path(folder_paths.get_output_directory())


def input_folder() -> Path:
    """The folder that users put pictures and videos into."""
    return Path(folder_paths.get_input_directory())
