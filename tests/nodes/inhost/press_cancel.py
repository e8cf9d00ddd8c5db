"""A user who presses Cancel while a training runs."""

import contextlib

import comfy.model_management
import pytest
from pack.nodes.training_run import live_view


@contextlib.contextmanager
def cancelled_after(monkeypatch, step):
    """What runs inside is cancelled after this step, and must end so."""
    original = live_view.Page.step

    def press(page, report, losses):
        if report.step == step:
            comfy.model_management.interrupt_current_processing()
        original(page, report, losses)

    with monkeypatch.context() as held, pytest.raises(comfy.model_management.InterruptProcessingException):
        held.setattr(live_view.Page, "step", press)
        yield
