"""Mount the pack once under a fixed name, from any folder, with no install."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def mount_pack():
    """Load the pack root as the package `pack` and keep the root itself off sys.path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    if "pack" in sys.modules:
        return sys.modules["pack"]
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    return module


mount_pack()
