"""The shell: `motionblocks animate PHOTO --motion "zoom in"`, `train`, `poses`, `convert`, `inflate`, `info`, …"""

import argparse
import sys

from ..errors import CheckpointError, ConfigError, ShapeError
from .animate import add_animate
from .console import PROGRAM, say, take_any_letter
from .poses import add_poses
from .train import add_train
from .transfer import add_classify_heads, add_prepare_motion_clip, add_train_motion_lora
from .weights import add_convert, add_describing, add_inflate

FAILED, CANCELLED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 refused with one line on stderr, 130 cancelled by Ctrl-C."""
    take_any_letter()
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except (ShapeError, CheckpointError, ConfigError) as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(f"the Python package {error.name!r} is missing; run `make demo` once in the pack's folder")
    except MemoryError:
        return _fail("out of memory; use a smaller photo or fewer frames")
    except KeyboardInterrupt as stop:
        _fail(f"cancelled; {stop.args[0] if stop.args else 'no video was written'}")
        return CANCELLED
    return 0


def _fail(text: str) -> int:
    say(f"{PROGRAM}: {' '.join(text.split())}", sys.stderr)
    return FAILED


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Make a photograph move, on a CPU or a GPU, with no download.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        add_animate, add_train, add_prepare_motion_clip, add_classify_heads, add_train_motion_lora, add_poses,
        add_describing, add_inflate, add_convert,
    ):  # fmt: skip
        add(commands)
    return parser
