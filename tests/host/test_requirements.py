"""Installing the pack's requirements into a host adds nothing and changes nothing."""

import json
import os
import subprocess

import pytest
from host_server import ROOT
from real_hosts import MISSING, find_hosts, host_python

pytestmark = pytest.mark.host
HOSTS = find_hosts()
FOREIGN = {
    "opencv_contrib_python-4.10.0.84": "Name: opencv-contrib-python\nVersion: 4.10.0.84\n",
    "transformers-4.57.1": "Name: transformers\nVersion: 4.57.1\nRequires-Dist: huggingface-hub<2.0\n",
}


def planned_installs(python, extra_path=None):
    """Return what pip would install for requirements.txt, as [name-version, ...]; it installs nothing."""
    command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    command += ["-r", str(ROOT / "requirements.txt")]
    environment = {**os.environ, "PYTHONPATH": str(extra_path or "")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return [f"{item['metadata']['name']}-{item['metadata']['version']}" for item in report["install"]]


@pytest.fixture(params=HOSTS or [None], ids=lambda folder: folder.name if folder else "no-host")
def host_folder(request):
    """A host's folder, nothing started."""
    if request.param is None:
        pytest.skip(MISSING)
    return request.param


def test_requirements_add_nothing_to_a_host(host_folder):
    assert planned_installs(host_python(host_folder)) == []


def test_requirements_add_nothing_beside_another_cv2_and_an_older_transformers(host_folder, tmp_path):
    for name, metadata in FOREIGN.items():
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
        (folder / "INSTALLER").write_text("pip\n")
    assert planned_installs(host_python(host_folder), tmp_path) == []
