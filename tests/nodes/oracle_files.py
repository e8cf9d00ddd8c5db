"""Truth for the tests inside a host, computed here by libraries that no host has (diffusers), as files.

Every `oracles/oracle_<name>.py` has `make(folder)`, which writes what it likes into an empty folder of its own; a test
inside the host gets that folder by the fixture `oracle`: oracle("<name>") -> Path. By hand:
python tests/nodes/oracle_files.py FOLDER [name ...]
"""

import runpy
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "oracles"


def make_oracles(folder: Path, names=()) -> None:
    """Fill folder/<name> for every oracle, or the named ones."""
    sys.path.insert(0, str(SOURCES.parents[1]))
    import conftest  # noqa: F401  (mounts the pack as `pack`)

    for source in sorted(SOURCES.glob("oracle_*.py")):
        name = source.stem.removeprefix("oracle_")
        if not names or name in names:
            target = Path(folder) / name
            target.mkdir(parents=True)
            runpy.run_path(str(source))["make"](target)


if __name__ == "__main__":
    make_oracles(Path(sys.argv[1]), sys.argv[2:])
