"""Run the tests of `inhost` with the Python of every host found, and report their failures here.

A host is a ComfyUI folder: those of COMFYUI_PATH (os.pathsep between them), else ~/comfyui-*. pytest is installed once
into a cache folder of the user and lent to the host's Python through PYTHONPATH, so the host itself stays as it is.
"""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from lent_packages import lent_package
from real_hosts import MISSING, find_hosts, host_python

ROOT = Path(__file__).resolve().parents[2]
INHOST = Path(__file__).resolve().parent / "inhost"
LEAST_TESTS, LEAST_INTERPRETED = 150, 6
SECONDS = 900


HOSTS = find_hosts()


@pytest.fixture(scope="session")
def oracles(tmp_path_factory):
    """Folder with what other libraries say, computed once by our Python for every host."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("oracles")
    command = [sys.executable, str(ROOT / "tests" / "nodes" / "oracle_files.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS or [None], ids=lambda host: host.name if host else "no-host")
def test_nodes_hold_inside_the_host(host, tmp_path, oracles):
    run_inside(host, tmp_path, least=LEAST_TESTS, MOTIONBLOCKS_ORACLES=str(oracles))


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS or [None], ids=lambda host: host.name if host else "no-host")
def test_kernels_hold_inside_the_host_under_tritons_interpreter(host, tmp_path):
    run_inside(host, tmp_path, least=LEAST_INTERPRETED, TRITON_INTERPRET="1")


def run_inside(host, tmp_path, *, least, **more):
    """Run `inhost` with the host's Python; fails with its failures, on skips, and on fewer tests than `least`."""
    if host is None:
        pytest.skip(MISSING)
    python, report = host_python(host), tmp_path / "report.xml"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COMFYUI_"))}
    environment |= {"PYTHONPATH": str(lent_package(python, "pytest>=8")), "MOTIONBLOCKS_HOST": str(host), **more}
    command = [python, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), str(INHOST)]
    command += ["-p", "no:cacheprovider", "--junitxml", str(report), "--basetemp", str(tmp_path / "base")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert report.exists(), f"the host's Python did not get to the tests:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    suite = ElementTree.parse(report).getroot().find("testsuite")
    cases = list(suite.iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    failures = "\n".join(f"{case.get('classname')}::{case.get('name')}" for case in bad)
    assert done.returncode == 0, f"on {host.name}:\n{failures}\n{done.stdout[-6000:]}"
    assert int(suite.get("tests")) >= least and int(suite.get("skipped")) == 0, done.stdout[-3000:]
