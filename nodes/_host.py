"""The one file that asks the host for folders, progress, cancel, memory and number types."""

import os
from pathlib import Path

import comfy.model_management as memory
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..kernels.foreign_text import LONG, has_half_character, safe_text
from ..motion.errors import CheckpointError, ConfigError, ShapeError

WEIGHTS_FOLDER = "diffusion_models"
WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_ROWS = {  # parts of names of files that lie apart -> row of docs/models.md
    "vae": (("wan", "Wan 2.1 VAE"), ("ltx", "LTX-2 VAE"), ("dc-ae", "DC-AE"), ("dcae", "DC-AE")),
    "text_encoders": (("gemma", "Gemma-2"),),
}
COMPUTE_DTYPES = (torch.bfloat16, torch.float32)  # float16 overflows in the linear attention of large clips


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


def _absent(folder: str, name) -> str:
    """What a user reads of a model that is not there, with the row of docs/models.md that its name belongs to."""
    from ..motion.io.networks.video_model import row_by_name

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


def choose(name: str, value: str, options) -> str:
    """Re-check a combo value, which older hosts pass on unchecked. Raises ConfigError."""
    if value not in options:
        raise ConfigError(f"{name} is {str(value)[:60]!r}; it must be one of: {', '.join(options) or 'none here'}")
    return value


def in_range(name: str, value, low, high):
    """Re-check a number against the range its widget shows. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} is {str(value)[:60]}; it must be {low} to {high}")
    return value


def whole_text(name: str, value: str) -> str:
    """Refuse text that no encoder and no file can take. Raises ConfigError."""
    if not isinstance(value, str) or has_half_character(value):
        raise ConfigError(f"{name} is {value!r:.60}: not text, or half a character in it; type it again")
    return value


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


def inference_dtypes(weights: dict[str, Tensor], wanted: torch.dtype | None, supported=COMPUTE_DTYPES):
    """Types to store and to compute in, as the host's settings and device ask: (stored, compute or None if equal)."""
    device, supported = memory.get_torch_device(), list(supported)
    if wanted is None:
        count = sum(tensor.numel() for tensor in weights.values())
        kinds = [tensor.dtype for tensor in weights.values()]
        common = max(set(kinds), key=kinds.count)
        wanted = memory.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=common)
    return wanted, memory.unet_manual_cast(wanted, device, supported)


def new_patcher(model: torch.nn.Module, *, disable_dynamic: bool = False):
    """The host's patcher around a model. Its class is read now, since the host's start-up may rebind it."""
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return kind(model, load_device=memory.get_torch_device(), offload_device=memory.unet_offload_device())


def is_dynamic(patcher) -> bool:
    """Whether the host streams this model's weights (newer hosts, GPU only)."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def vae_device() -> torch.device:
    return memory.vae_device()


def output_device() -> torch.device:
    return memory.intermediate_device()


def check_fits(what: str, num_bytes: int) -> None:
    """Refuse results that exceed this machine's memory before they are computed. Raises ShapeError."""
    total = memory.get_total_memory(torch.device("cpu"))
    if num_bytes > total:
        raise ShapeError(
            f"{what} needs {num_bytes / 2**30:.1f} GiB; this machine has {total / 2**30:.1f} GiB; use a smaller photo, "
            "fewer frames or a smaller batch"
        )


def total_memory(device: torch.device) -> int:
    """Bytes of a device's memory, free or not; for the CPU those of the machine."""
    return memory.get_total_memory(device)


def can_cast(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device can hold numbers of a type and convert them."""
    return memory.supports_cast(device, dtype)


def make_room(num_bytes: int, device: torch.device) -> None:
    """Ask the host to move other models out of the way."""
    memory.free_memory(num_bytes, device)


def throw_if_cancelled() -> None:
    """Raise the host's own exception when the user pressed Cancel."""
    memory.throw_exception_if_processing_interrupted()


def progress_bar(total: int):
    return comfy.utils.ProgressBar(total)


def progress_step():
    """Progress bar and cancel as an on_step(done, total) for library functions."""
    bar = progress_bar(100)

    def on_step(done: int, total: int) -> None:
        throw_if_cancelled()
        bar.update_absolute(100 * done // total, 100)

    return on_step


def bytes_as_progress(on_step, done: int, total: int):
    """An on_bytes(num_bytes) that tells on_step of bytes, from `done` up to at most `total`."""

    def on_bytes(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        on_step(min(done, total), max(total, 1))

    return on_bytes


def output_folder() -> Path:
    """Where the host keeps what nodes save; its `loras` and `diffusion_models` are listed by the core loaders."""
    return Path(folder_paths.get_output_directory())


def input_folder() -> Path:
    """The folder that users put pictures and videos into."""
    return Path(folder_paths.get_input_directory())


def compute_device() -> torch.device:
    return memory.get_torch_device()


def unload_models() -> None:
    """Move every model of the host off the device; it loads them again when they are wanted."""
    memory.unload_all_models()
    memory.soft_empty_cache()


def release_memory() -> None:
    """Give freed memory back to the device's driver."""
    memory.soft_empty_cache()


def page_text(text: str) -> str:
    """Text as the page may have it: hosts put what a node says into their document as HTML."""
    return safe_text(text, limit=LONG, lines=True, markup=False)


def show_text(text: str, node_id: str | None) -> None:
    """Show lines under the running node in the page, where there is a page. Foreign text is made safe."""
    server = _server() if node_id is not None and not has_half_character(node_id) else None
    if server is not None:
        server.send_progress_text(page_text(text), node_id)


def send_event(name: str, data: dict) -> None:
    """Send a message to the page that queued the running prompt, where there is one."""
    server = _server()
    if server is not None:
        server.send_sync(name, data, server.client_id)


def _server():
    """The host's web server; None where nodes run without one."""
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
