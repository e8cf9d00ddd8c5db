"""`python FOLDER animate …`: run the shell from any folder, with no install.

The folder is mounted as one package under a fixed name and leaves the import path, so that none of our rooms can
stand in for somebody else's `nodes` or `motion`.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

ALIAS = "motionblocks_pack"


def mount(root: Path) -> None:
    """Load the pack's root as the package ALIAS and take the root off the import path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != root]
    spec = importlib.util.spec_from_file_location(ALIAS, root / "__init__.py", submodule_search_locations=[str(root)])
    sys.modules[ALIAS] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    mount(Path(__file__).resolve().parent)
    sys.exit(importlib.import_module(f"{ALIAS}.motion.shell.main").main())
