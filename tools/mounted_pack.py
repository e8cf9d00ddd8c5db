"""The pack under the fixed alias `pack`, for tools that use it, from any folder and with no install."""

import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin at barriers stall on a busy machine
ROOT = Path(__file__).resolve().parents[1]


def mount_pack() -> None:
    """Load the pack and take its root off the import path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tools")]
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
