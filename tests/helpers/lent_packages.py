"""Packages for tests alone, installed once into a cache folder of the user and lent to a Python through PYTHONPATH."""

import os
import subprocess
import tempfile
from pathlib import Path


def lent_package(python, requirement, *options):
    """Folder with a package for this interpreter, installed when missing; fails with pip's words when it cannot be."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    tag = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motionblocks"
    target = cache / f"{requirement.replace('>=', '-').replace('==', '-')}-{tag}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        staged = tempfile.mkdtemp(dir=cache)
        command = [python, "-m", "pip", "install", "-q", "--target", staged, *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{requirement} could not be installed for {python}:\n{done.stderr[-2000:]}"
        try:
            os.replace(staged, target)
        except OSError:  # another test run was faster
            assert target.is_dir()
    return target
