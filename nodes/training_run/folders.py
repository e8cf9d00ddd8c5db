"""Names and folders of training runs inside the host's output folder.

output/loras/NAME_00001.safetensors             finished adapters (mode lora); listed by the core LoRA loaders
output/motion_adapters/NAME_00001.safetensors  finished motion adapters; listed by Load Motion Adapter
output/diffusion_models/NAME_00001.safetensors  finished models (mode full); listed by Load Motion Model
output/motionblocks/training/NAME/run-0001/     saved states of one run
output/motionblocks/latents/                    encoded clips, shared by all runs
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...motion.errors import ConfigError
from ..host import checks
from ..host import folders as host_folders

NEW, LATEST = "new", "latest"
WEIGHT_FOLDERS = {"lora": "loras", "full": "diffusion_models", "miva": host_folders.ADAPTERS_FOLDER}
STATE_FILE = "state.json"  # written last, so a state that has it is whole
LISTED = 50
MAX_DEPTH = 8  # folders in a filename_prefix
_RUN = re.compile(r"run-(\d{4,})")
_STATE = re.compile(r"state-\d{8,}")


@dataclass(frozen=True)
class RunFolders:
    """Where one run writes."""

    states: Path  # of this run
    weights: Path  # finished weights go here, under `name` and a number
    latents: Path
    name: str
    resume: str | Path | None  # what the trainer is told: a state's folder, "latest" or None

    def next_weights(self) -> Path:
        """The first name after those in use: NAME_00001.safetensors, NAME_00002.safetensors, …"""
        return _next_file(self.weights, self.name)


def training_root() -> Path:
    return host_folders.output_folder() / "motionblocks" / "training"


def latents_folder() -> Path:
    return host_folders.output_folder() / "motionblocks" / "latents"


def listed_states() -> list[str]:
    """Whole states as "NAME/run-0001/state-00000100", the newest first, at most 50."""
    found = []
    for name in _names(training_root()):
        for run in _runs(training_root() / name):
            found += [(host_folders.stamp_time(state), f"{name}/{run.name}/{state.name}") for state in _states(run)]
    return [label for _, label in sorted(found, reverse=True)[:LISTED]]


def plan_run(file_prefix: str, kind: str, resume_from: str) -> RunFolders:
    """Decide where a run writes and what it starts from; nothing is made yet. Raises ConfigError.

    kind: what is trained, one of WEIGHT_FOLDERS.
    """
    name = check_prefix(file_prefix)
    states, resume = _states_and_resume(name, resume_from)
    output = host_folders.output_folder()
    return RunFolders(states, output / WEIGHT_FOLDERS[kind], latents_folder(), name, resume)


def check_prefix(name: str, what: str = "file_prefix") -> str:
    """A name that can be a file and a folder on every system. Raises ConfigError."""
    from ...motion.io.files.names import check_output_name

    if not isinstance(name, str) or "/" in name or "\\" in name or ":" in name or name.startswith("."):
        raise ConfigError(f"{what} is {str(name)[:60]!r}; a plain name is needed, without / \\ : or a leading dot")
    return check_output_name(checks.whole_text(what, name)).name


def prepare(folders: RunFolders) -> None:
    """Make the folders and try to write in each, so that a refusal comes before the training. CheckpointError."""
    from ...motion.io.files.atomic import make_folder, try_writing

    for folder in (folders.states, folders.weights, folders.latents):
        try_writing(make_folder(folder))


def numbered_output(filename_prefix: str, suffix: str = ".safetensors") -> Path:
    """First free name for a file inside the output folder: "diffusion_models/NAME" → …/NAME_00001.safetensors.

    Nothing is made. Raises ConfigError for a prefix that leads outside or cannot be a file name on every system.
    """
    parts = str(filename_prefix).replace("\\", "/").split("/")
    if not isinstance(filename_prefix, str) or len(parts) > MAX_DEPTH:
        raise ConfigError(
            f"filename_prefix is {str(filename_prefix)[:60]!r}; folder and name are needed, such as "
            "diffusion_models/my_model"
        )
    for part in parts:
        check_prefix(part, "filename_prefix")
    return _next_file(host_folders.safe_join(host_folders.output_folder(), "/".join(parts)).parent, parts[-1], suffix)


def _next_file(folder: Path, name: str, suffix: str = ".safetensors") -> Path:
    used = re.compile(re.escape(name) + r"_(\d{5,})(_\d+)?" + re.escape(suffix), re.IGNORECASE)
    numbers = [int(found[1]) for entry in _names(folder) if (found := used.fullmatch(entry))]
    return folder / f"{name}_{max(numbers, default=0) + 1:05d}{suffix}"


def _states_and_resume(name: str, resume_from: str) -> tuple[Path, str | Path | None]:
    """A chosen state goes on in its own run when it is the newest there under this name, else in a new run."""
    runs = _runs(training_root() / name)
    number = max((int(_RUN.fullmatch(run.name)[1]) for run in runs), default=0) + 1
    fresh = training_root() / name / f"run-{number:04d}"
    if resume_from == NEW:
        return fresh, None
    if resume_from == LATEST:
        for run in reversed(runs):
            if _states(run):
                return run, LATEST
        raise ConfigError(
            f"resume_from is {LATEST!r}, but nothing is saved under {name!r}; choose {NEW!r}, or another file_prefix"
        )
    state = host_folders.safe_join(training_root(), str(resume_from))
    if not _STATE.fullmatch(state.name) or not (state / STATE_FILE).is_file():
        raise ConfigError(
            f"resume_from is {str(resume_from)[:80]!r}, which is no saved state; choose {NEW!r}, {LATEST!r} or a state "
            "from the list (refresh the node definitions: press R)"
        )
    is_newest = state.parent in [run.resolve() for run in runs] and _states(state.parent)[-1] == state
    return (state.parent if is_newest else fresh), state


def _runs(folder: Path) -> list[Path]:
    """Run folders, the oldest first."""
    names = [name for name in _names(folder) if _RUN.fullmatch(name) and (folder / name).is_dir()]
    return [folder / name for name in sorted(names, key=lambda name: int(_RUN.fullmatch(name)[1]))]


def _states(run: Path) -> list[Path]:
    """Folders of whole states, the earliest first."""
    names = [name for name in sorted(_names(run)) if _STATE.fullmatch(name)]
    return [run / name for name in names if (run / name / STATE_FILE).is_file()]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
