"""Where real ComfyUI folders are, for tests and benchmarks."""

import os
import re
import sys
from pathlib import Path

MISSING = "no ComfyUI folder: set COMFYUI_PATH or put hosts at ~/comfyui-*"


def find_hosts() -> list[Path]:
    """The ComfyUI folders to test: those of COMFYUI_PATH (os.pathsep between them), else every ~/comfyui-*."""
    named = os.environ.get("COMFYUI_PATH")
    folders = [Path(part) for part in named.split(os.pathsep) if part] if named else Path.home().glob("comfyui-*")
    return sorted(folder.resolve() for folder in folders if (folder / "main.py").is_file())


def host_python(folder: Path) -> str:
    """The interpreter a host was installed with: its own .venv or venv, else COMFYUI_PYTHON, else ours."""
    for inside in (".venv/bin/python", "venv/bin/python"):
        if (folder / inside).exists():
            return str(folder / inside)
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def newest(hosts: list[Path]) -> Path:
    """The host with the highest version, as its comfyui_version.py tells."""

    def version(folder):
        text = (folder / "comfyui_version.py").read_text()
        return [int(part) for part in re.search(r'__version__ = "([\d.]+)', text)[1].split(".")]

    return max(hosts, key=version)


if __name__ == "__main__":
    found = find_hosts()
    print(newest(found) if found else sys.exit(MISSING))
