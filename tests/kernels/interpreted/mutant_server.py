"""Run one test of one changed copy of the pack per line of input, each in a process of its own.

Torch and Triton are imported once, then every line "<folder>\\t<test>\\t<log>" forks: a mutant may hang or crash.
Answers one line each: the exit status of pytest, minus the signal, or "late".
"""

import os
import resource
import sys
import time

LONGEST = 60  # seconds of processor time of one mutant: a busy machine is no endless loop
LONGEST_WAIT = 600.0


def run_in_child(folder: str, check: str, log: str) -> None:
    """The forked child: pytest on one test in the changed copy. Never returns."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    os.chdir(folder)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    status = 3
    try:
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:timeout", f"tests/kernels/{check}"])
    finally:
        sys.stdout.flush()
        os._exit(int(status))


def wait(child: int) -> str:
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


def main() -> None:
    """Serve until the input ends."""
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch._dynamo  # noqa: F401  (the first registered operator needs it: most of a child's time)
    import triton.language  # noqa: F401
    import triton.runtime.interpreter  # noqa: F401

    for line in sys.stdin:
        folder, check, log = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            run_in_child(folder, check, log)
        print(wait(child), flush=True)


if __name__ == "__main__":
    main()
