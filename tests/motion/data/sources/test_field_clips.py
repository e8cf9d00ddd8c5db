"""Clips that failed in users' hands give their right values, with the oldest PyAV we take, one between, and ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from field_clips import RIGHT, seen
from lent_packages import lent_package

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[3] / "helpers" / "field_clips.py"
OLDER = ("14.2.0", "16.1.0")


def check(name, found, version):
    """A file has its right values; one that may be refused has a reason instead where PyAV is too old."""
    right = dict(RIGHT[name])
    reason = right.pop("skipped", None)
    is_refused = bool(reason) and (not right or version < 17)
    if is_refused:
        assert reason in found["skipped"], (name, found)
    else:
        assert found == right, name


@pytest.mark.parametrize("name", RIGHT)
def test_a_clip_that_failed_in_users_hands_gives_its_right_value(name):
    check(name, seen(name, RIGHT[name]), int(av.__version__.partition(".")[0]))


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="these PyAV were built for Python up to 3.13")
def test_older_pyav_gives_the_same_right_values(version):
    folder = lent_package(sys.executable, f"av=={version}", "--no-deps", "--only-binary", ":all:")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit {done.returncode}:\n{done.stderr[-2000:]}"
    for name, found in json.loads(done.stdout).items():
        check(name, found, int(version.partition(".")[0]))
