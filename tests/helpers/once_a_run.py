"""What a run needs once, although several workers ask for it: the first makes it, the others wait and read."""

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, …; empty without workers


def once_a_run(worker_folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` that make(folder) filled. worker_folder: where this worker's temporary folders are.

    What `make` raises is raised here, and the next who asks tries again.
    """
    shared = worker_folder.parent if WORKER else worker_folder
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / name).exists():
            unfinished = Path(tempfile.mkdtemp(dir=shared))
            make(unfinished)
            unfinished.rename(shared / name)
    return shared / name


def own_turn_first(things: list) -> list:
    """The same things, from another place in each worker, so that two that want all of them do not wait."""
    start = int(WORKER.removeprefix("gw") or 0) % max(1, len(things))
    return things[start:] + things[:start]
