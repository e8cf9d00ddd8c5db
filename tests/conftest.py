"""Mount the pack once under a fixed name, from any folder, with no install."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INTERPRETER = os.environ.get("TRITON_INTERPRET")


def keep_root_off_the_path():
    """`import nodes` must never find ours."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


def mount_pack():
    """Load the pack root as the package `pack` and keep the root itself off sys.path."""
    keep_root_off_the_path()
    if "pack" in sys.modules:
        return sys.modules["pack"]
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    return module


def pytest_configure(config):
    works, hands_out = hasattr(config, "workerinput"), bool(config.getoption("numprocesses", None))
    if works or hands_out:
        from worker_groups import LongestFirst, WorkerGroups

        config.pluginmanager.register(LongestFirst() if works else WorkerGroups())


def pytest_collection_finish():
    """Importing tests must not turn Triton's interpreter on: hosts started by a test would inherit it, and crawl."""
    if os.environ.get("TRITON_INTERPRET") != INTERPRETER:
        raise pytest.UsageError(
            "a test file sets TRITON_INTERPRET when it is imported, or leaves a folder on sys.path in which another "
            "package finds a module that does (benchmarks/kernels.py)"
        )


def pytest_runtest_call():
    """pytest imports the root's __init__.py as well, and puts a root that is no name (a-b) on the path."""
    if str(ROOT) in sys.path:
        keep_root_off_the_path()


def pytest_terminal_summary(terminalreporter):
    """After tests of hosts, say which hosts the run used, loudly when it was fewer than two."""
    stats = terminalreporter.stats
    reports = [report for outcome in stats if outcome != "deselected" for report in stats[outcome]]
    if not any("host" in getattr(report, "keywords", ()) for report in reports):
        return
    from real_hosts import find_hosts

    hosts = find_hosts()
    names = ", ".join(folder.name for folder in hosts) or "none"
    if len(hosts) >= 2:
        terminalreporter.write_line(f"hosts tested: {names}")
        return
    terminalreporter.section("FEWER THAN TWO HOSTS", sep="!", red=True, bold=True)
    terminalreporter.write_line(f"hosts found: {names}. Node changes need two: the oldest (0.3.64) and a new one.")
    terminalreporter.write_line("Set COMFYUI_PATH to their folders (separated by ':'), or put them at ~/comfyui-*.")


sys.path.insert(0, str(ROOT / "tests" / "helpers"))
mount_pack()
