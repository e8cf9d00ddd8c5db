"""Run the kernels' tests with other versions of Triton than the one that came with torch, and print a table.

Each version goes into a folder of its own that is put before the environment's packages; nothing else changes.

    python tools/compile_matrix.py --folder .venv/matrix 3.3.1 3.6.0 3.7.1 3.9.0
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.3.1", "3.6.0", "3.7.1", "3.9.0")
OLD_NUMPY = "numpy==2.3.5"  # the interpreter of Triton before 3.7 cannot index with numpy 2.4's scalars
PARTS = {
    "interpreted": (["tests/kernels/interpreted", "-m", "not slow and not gpu"], {"TRITON_INTERPRET": "1"}),
    "compiled": (["tests/kernels/compiled", "-m", "not gpu"], {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv" / "matrix", help="where the versions are put")
    parser.add_argument("--part", choices=tuple(PARTS), action="append")
    arguments = parser.parse_args()
    failed = False
    for version in arguments.versions:
        place = arguments.folder / version
        problem = install(version, place)
        for part in arguments.part or PARTS:
            told = problem or run(part, place)
            failed |= not told.startswith("passed")
            print(f"Triton {version:8} {part:12} {told}", flush=True)
    sys.exit(failed)


def install(version: str, place: Path) -> str | None:
    """Put a version into its folder; the reason where pip cannot."""
    if (place / "triton").is_dir():
        return None
    wanted = [f"triton=={version}"]
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 7):
        wanted.append(OLD_NUMPY)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, *wanted],
                          capture_output=True, text=True)  # fmt: skip
    return None if done.returncode == 0 else f"not installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"


def run(part: str, place: Path) -> str:
    """Verdict, seconds and the names of what failed."""
    paths, switches = PARTS[part]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env |= {**switches, "COLUMNS": "240", "PYTHONPATH": str(place.resolve())}
    env["TRITON_CACHE_DIR"] = str(place.resolve() / "cache")
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "900", *paths, "-rfE"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    words = done.stdout.strip().splitlines()
    counts = re.sub(r"=+", "", words[-1]).strip() if words else done.stderr.strip()[-200:]
    if done.returncode == 0:
        return f"passed in {seconds:.0f} s: {counts}"
    names = [line[:200] for line in words if line.startswith(("FAILED", "ERROR"))]
    return "\n  ".join([f"FAILED in {seconds:.0f} s: {counts}", *names])


if __name__ == "__main__":
    main()
