"""Make functions of the pack refuse everything and run tests: those that bind fail. A server, see forked_tests.py.

Each line "<module:name module:name …>\\t<arguments of pytest>\\t<log>" forks a child in which these functions raise a
ConfigError, an error that tests of bad input put up with. The file "<log>.reached" tells that one of them was called.
"""

import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path

from forked_tests import run_pytest, serve

REACHED = "MOTIONBLOCKS_BINDING_REACHED"


def name_of(function: Callable) -> str:
    """`module:name` under which `refuse` finds a function or method again."""
    plain = inspect.unwrap(function)
    return f"{plain.__module__}:{plain.__qualname__}"


def refuse(name: str) -> None:
    """Let a function raise ConfigError under every name by which it was imported: its code itself is replaced."""
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    inspect.unwrap(found).__code__ = _refusing.__code__


def _refusing(*args, **kwargs):
    from binding import tell_and_refuse

    tell_and_refuse()


def tell_and_refuse() -> None:
    """What a function does that was made to refuse."""
    from pack.motion.errors import ConfigError

    Path(os.environ[REACHED]).touch()
    raise ConfigError("this function was made to refuse by tests/helpers/binding.py")


def run_refusing(names: str, arguments: str, log: str) -> None:
    """The forked child: pytest while these functions refuse."""
    os.environ[REACHED] = f"{log}.reached"
    for name in names.split():
        refuse(name)
    quick = ["--assert=plain", "--tb=short", "-p", "no:anyio"]
    run_pytest([*quick, *arguments.split()], log, first_failure="-rA" not in arguments)


def main() -> None:
    """Serve until the input ends."""
    import conftest  # noqa: F401  (mounts the pack)
    import cv2  # noqa: F401
    import hypothesis
    import pytest  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import torch._dynamo  # noqa: F401  (the first registered operator needs it)

    for module in ("pipeline", "training.trainer", "training.tasks.adapter_task", "io.media.video",
                   "io.networks.video_model"):
        importlib.import_module(f"pack.motion.{module}")
    found_is_enough = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # no failure is made smaller
    hypothesis.settings.register_profile("binding", phases=found_is_enough)
    hypothesis.settings.load_profile("binding")
    serve(run_refusing)


if __name__ == "__main__":
    main()
