"""Ctrl-C while training: once is a wish, at once again is the launcher passing it on, later again is an order."""

import signal
import time

import pytest
from pack.motion.shell import train


def test_one_press_that_arrives_twice_lets_the_step_be_finished_and_a_second_press_stops_at_once(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before = signal.getsignal(signal.SIGINT)
    with train.soft_stop() as check:
        check("nobody asked")
        for later in (0.0, 0.2):
            clock[0] += later
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="saved"):
            check("saved")
        clock[0] += 1.0
        with pytest.raises(KeyboardInterrupt, match="what was saved before is still there"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_being_asked_to_end_is_a_wish_however_often(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with train.soft_stop() as check:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            clock[0] += 5
        with pytest.raises(KeyboardInterrupt, match="saved"):
            check("saved")
