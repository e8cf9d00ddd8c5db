"""What the property tests share: how hard they look, and when a call may refuse.

A property "a right result, or one of our errors" holds for a function that always refuses. So each test also says
which calls are usable, and a usable call must succeed; tests/test_binding.py makes functions refuse and looks.
"""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError

pytest.importorskip("hypothesis")
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

OURS = (ShapeError, ConfigError, CheckpointError)
Result = TypeVar("Result")

quick = settings(max_examples=50, deadline=None, database=None, derandomize=True)
any_float = st.floats(allow_nan=True, allow_infinity=True, width=32)
shifts = st.one_of(st.floats(0.01, 1000), st.floats(-100, -1).map(lambda power: 10**power), any_float)
floats = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
dtypes = st.one_of(floats, st.sampled_from([torch.int64, torch.uint8]))


def answer(call: Callable[[], Result], *, usable: bool) -> Result | None:
    """The result of a call that is usable, or None of one that is not and raised one of our errors.

    Fails where a usable call is refused and where another is not; what is no error of ours is a bug and passes through.
    """
    try:
        result = call()
    except OURS as error:
        assert not usable, f"a usable call was refused: {error}"
        assert len(str(error)) > 20
        return None
    assert usable, "a call that should be refused gave a result"
    assert result is not None
    return result
