"""Tests of something spoilt, each run in a process forked from one that has loaded torch: a run costs no imports.

A server is a script that calls `serve`; `started` and `ask` are the side of the test that wants to know.
"""

import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 60  # seconds of processor time of one run: a busy machine is no endless loop
LONGEST_WAIT = 600.0
CAUGHT, SURVIVED = "caught", "survived"


def run_pytest(arguments: list[str], log: str, *, first_failure: bool = True) -> None:
    """In a forked child: pytest with what it says in a file. Never returns."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    status = 3
    try:
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        always = ["-q", "-p", "no:cacheprovider", "-p", "no:timeout"]
        status = pytest.main([*always, *(["-x"] if first_failure else []), *arguments])
    finally:
        sys.stdout.flush()
        os._exit(int(status))


def serve(run: Callable[..., None]) -> None:
    """Until the input ends: call run(*fields) of each line, fields parted by tabs, in a forked child.

    Answers one line each: the exit status of pytest, minus the signal, or "late".
    """
    gc.freeze()  # what is loaded now stays; pytest would look through all of it again at its end
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(*line.rstrip("\n").split("\t"))
            finally:  # run has ended the child by itself, unless it failed
                os._exit(3)
        print(_wait(child), flush=True)


def _wait(child: int) -> str:
    """How the child ended; it is killed after LONGEST_WAIT seconds."""
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "late"


@contextmanager
def started(script: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A server, ended with the block."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    here = Path(__file__).resolve().parent
    env |= {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), **environment}
    process = subprocess.Popen([sys.executable, script], env=env, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    yield process
    process.stdin.close()
    process.wait(timeout=60)


def ask(server: subprocess.Popen, *fields: object, log: Path) -> tuple[str, str]:
    """Verdict of one run, and all it said. Raises AssertionError with its last words when it was no run of tests."""
    server.stdin.write("\t".join(map(str, (*fields, log))) + "\n")
    server.stdin.flush()
    status = server.stdout.readline().strip()
    words = log.read_text(errors="replace") if log.is_file() else ""
    try:
        return verdict(status), words
    except AssertionError as error:
        raise AssertionError(f"{error}\n{words[-1500:]}") from None


def verdict(status: str) -> str:
    """Whether an exit status says that a test failed (or crashed, or hung). Other troubles are the harness's."""
    if status == "0":
        return SURVIVED
    if status in ("1", "late") or status.startswith("-"):
        return CAUGHT
    raise AssertionError(f"pytest ended with {status}: the test was not run")
