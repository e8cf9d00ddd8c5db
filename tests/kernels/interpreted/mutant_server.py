"""Run one test of one changed copy of the pack per line of input, each in a process of its own.

Torch and Triton are imported once, then every line "<folder>\\t<test>\\t<log>" forks: a mutant may hang or crash.
"""

import os

from forked_tests import run_pytest, serve


def run_mutant(folder: str, check: str, log: str) -> None:
    """The forked child: pytest on one test in the changed copy."""
    os.chdir(folder)
    run_pytest([f"tests/kernels/{check}"], log)


def main() -> None:
    """Serve until the input ends."""
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch._dynamo  # noqa: F401  (the first registered operator needs it: most of a child's time)
    import triton.language  # noqa: F401
    import triton.runtime.interpreter  # noqa: F401

    serve(run_mutant)


if __name__ == "__main__":
    main()
