"""Run the tests of `inhost` with the Python of every host found; each of them is a test of its own here.

A host is a ComfyUI folder: those of COMFYUI_PATH (os.pathsep between them), else ~/comfyui-*. pytest is installed once
into a cache folder of the user and lent to the host's Python through PYTHONPATH, so the host itself stays as it is.
The tests of one host run in one process, which starts when its first result is asked for.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from host_suite import ROOT, HostSuite
from once_a_run import once_a_run, own_turn_first
from real_hosts import MISSING, find_hosts

INHOST = Path(os.environ.get("MOTIONBLOCKS_INHOST") or Path(__file__).resolve().parent / "inhost")
BASE = ROOT if INHOST.is_relative_to(ROOT) else INHOST  # what addresses inside a host are relative to
SILENCE = float(os.environ.get("MOTIONBLOCKS_SILENCE") or 300)  # seconds without a line after which a host hangs
INTERPRETED = "test_inhost_kernels.py"  # Triton decides when it decorates: a process of its own


def short(address):
    """An address without folders: test_inhost_x.py::test_y[a/b]."""
    file, *rest = address.split("::", 1)
    return "::".join([Path(file).name, *rest])


def find_inside(host):
    """{address inside the host: what is wrong with it}: "" for each test found, a text for a file without any."""
    files = sorted(INHOST.glob("test_*.py"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--rootdir", str(BASE), "--collect-only", *map(str, files)]
        with HostSuite(host, arguments, folder, SILENCE) as suite:
            suite.collect()
            found = dict.fromkeys(suite.tests, "") | suite.broken
            names = {short(address).partition("::")[0] for address in found}
            why = suite.ended or "it holds no test"
            return found | {path.name: f"{why}\n{suite.log_tail()}" for path in files if path.name not in names}


def found_inside(hosts, folder):
    """{host: what find_inside tells}; a host is looked into by one worker, in `folder` and for all."""
    found = {}
    for host in own_turn_first(hosts):
        kept = once_a_run(folder, f"inside-{host.name}", lambda made, host=host: (made / "found.json").write_text(
            json.dumps(find_inside(host))))  # fmt: skip
        found[host] = json.loads((kept / "found.json").read_text())
    return found


def pytest_generate_tests(metafunc):
    """One case a host and test. To find them takes seconds, so not where `-m "not host"` throws them away."""
    if "address" not in metafunc.fixturenames:
        return
    hosts = [] if "not host" in metafunc.config.option.markexpr else find_hosts()
    found = found_inside(hosts, metafunc.config._tmp_path_factory.getbasetemp())
    cases = [
        pytest.param(host, address, fault, id=f"{host.name}-{short(address)}")
        for host in hosts
        for address, fault in found[host].items()
    ]
    metafunc.parametrize("host, address, fault", cases or [pytest.param(None, None, None, id="no-host")])


@pytest.fixture(scope="session")
def oracles(tmp_path_factory):
    """Folder with what other libraries say, computed once by our Python for every host and worker."""
    if "MOTIONBLOCKS_ORACLES" in os.environ:
        return os.environ["MOTIONBLOCKS_ORACLES"]
    pytest.importorskip("diffusers")

    def make(folder):
        command = [sys.executable, str(ROOT / "tests" / "nodes" / "oracle_files.py"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]

    return str(once_a_run(tmp_path_factory.getbasetemp(), "oracles", make))


def selected(session, host, interpreted):
    """The addresses of a host that this run is to have a result of, all with or all without the interpreter."""
    asked = [item.callspec.params for item in session.items if "address" in getattr(item, "fixturenames", ())]
    addresses = [params["address"] for params in asked if params["host"] == host and "::" in params["address"]]
    return [address for address in addresses if (INTERPRETED in address) == interpreted]


@pytest.fixture(scope="session")
def suite_with(request, tmp_path_factory):
    """suite_with(host, address) -> the HostSuite that runs this test beside all others selected of its host."""

    @functools.cache
    def suite(host, interpreted):
        addresses = selected(request.session, host, interpreted)
        arguments = ["--rootdir", str(BASE), *(str(BASE / address) for address in addresses)]
        if interpreted:
            more = {"TRITON_INTERPRET": "1"}
        else:
            more = {"MOTIONBLOCKS_ORACLES": request.getfixturevalue("oracles")}
        folder = tmp_path_factory.mktemp(host.name)
        return running.enter_context(HostSuite(host, arguments, folder, SILENCE, **more))

    with contextlib.ExitStack() as running:
        yield lambda host, address: suite(host, INTERPRETED in address)


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.timeout(0)  # it waits; silence ends it
def test_in_host(host, address, fault, suite_with):
    if host is None:
        pytest.skip(MISSING)
    fault = fault or suite_with(host, address).fault(address)
    if fault:
        pytest.fail(fault, pytrace=False)
