"""The three errors that users read: a short name without a path, and still the same class after every journey."""

import copy
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from pack.motion.data.sources.video_container import UnusableVideo
from pack.motion.errors import CheckpointError, ConfigError, ShapeError, ToldError

TESTS = Path(__file__).resolve().parents[1]
ERRORS = [CheckpointError, ConfigError, ShapeError]
READER = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
import conftest
error = pickle.loads(sys.stdin.buffer.read())
from pack.motion import errors
assert type(error) is getattr(errors, sys.argv[2]), type(error)
sys.stdout.buffer.write(pickle.dumps(error))
"""


@pytest.mark.parametrize("kind", ERRORS)
def test_a_page_and_a_traceback_name_the_error_without_a_path(kind):
    assert f"{kind.__module__}.{kind.__qualname__}" == f"MotionBlocks.{kind.__name__}"  # as hosts name its type
    told = traceback.format_exception_only(kind("dynamics is 20; it must be 0 to 19"))
    assert told == [f"MotionBlocks.{kind.__name__}: dynamics is 20; it must be 0 to 19\n"]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, *(
    lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
)])  # fmt: skip
@pytest.mark.parametrize("kind", [*ERRORS, ToldError, UnusableVideo])
def test_an_error_comes_back_as_the_same_class_with_all_it_carried(kind, again):
    error = kind("steps is 0\nuse 8")
    error.place = "Sampler"
    error.__notes__ = ["a note"]
    back = again(error)
    assert type(back) is kind and back.args == error.args == ("steps is 0 use 8",)
    assert back.place == "Sampler" and back.__notes__ == ["a note"]


@pytest.mark.parametrize("kind", ERRORS)
def test_a_fresh_process_reads_the_error_and_sends_it_back(kind):
    sent = pickle.dumps(kind("no model here"))
    command = [sys.executable, "-c", READER, str(TESTS), kind.__name__]
    done = subprocess.run(command, input=sent, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    back = pickle.loads(done.stdout)
    assert type(back) is kind and str(back) == "no model here"


def test_the_three_stay_apart():
    for kind in ERRORS:
        assert issubclass(kind, ValueError) and not any(issubclass(kind, other) for other in ERRORS if other != kind)
