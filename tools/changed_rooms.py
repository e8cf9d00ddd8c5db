"""Print the tests that mirror what differs from main, uncommitted and new files too; `make quick` runs them.

motion/io/files/atomic.py is mirrored by tests/motion/io/files, else by the nearest folder above that exists; what has
no such folder (web, docs, a workflow) by the files of tests itself. tests/test_house.py watches everything.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git(*words: str, folder: Path = ROOT) -> list[str]:
    """The lines that git prints."""
    done = subprocess.run(["git", "-c", "core.quotePath=off", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def changed_files(folder: Path = ROOT, main: str = "main") -> list[str]:
    """Every path that differs from where this branch left main: changed, new or gone."""
    (base,) = git("merge-base", main, "HEAD", folder=folder)
    tracked = git("diff", "--name-only", "--no-renames", base, folder=folder)
    return tracked + git("ls-files", "--others", "--exclude-standard", folder=folder)


def mirrored_tests(paths: list[str], folder: Path = ROOT) -> list[str]:
    """The folders and files of tests that mirror these paths, none of them inside another."""
    found = {"tests/test_house.py"} if paths else set()
    for path in map(Path, paths):
        if path == Path("tests/conftest.py"):
            return ["tests"]
        inside = path.parent.parts[1:] if path.parts[0] == "tests" else path.parent.parts
        while inside and not any(folder.joinpath("tests", *inside).rglob("test_*.py")):
            inside = inside[:-1]
        if inside:
            found.add(Path("tests", *inside).as_posix())
        else:
            found |= {file.relative_to(folder).as_posix() for file in folder.glob("tests/test_*.py")}
    return sorted(one for one in found if not any(one.startswith(f"{other}/") for other in found))


if __name__ == "__main__":
    print(*mirrored_tests(changed_files()))
