"""The verdict at load: what makes it torch, what is refused, what passes, and that it is said once."""

import logging

import pytest
import torch
from pack.kernels import self_test
from pack.kernels.errors import ConfigError
from pack.kernels.self_test import OPERATORS, kernel_problem, resolve_kernels, try_operator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_verdict():
    kernel_problem.cache_clear()
    yield
    kernel_problem.cache_clear()


def capable(monkeypatch):
    """Make the CPU pass for a device that could run Triton."""
    monkeypatch.setattr(self_test, "triton_problem", lambda device: None)


def answering(monkeypatch, change):
    """Replace one operator: its Triton backend answers change(torch backend's answer)."""
    kept = self_test._CALLS["glu_depthwise"]

    def run(*arguments, kernels):
        out = kept.run(*arguments, kernels="torch")
        return change(out) if kernels == "triton" else out

    monkeypatch.setitem(self_test._CALLS, "glu_depthwise", self_test._Call(kept.inputs, run))


def raising(fault):
    def change(out):
        raise fault

    return change


def test_torch_is_torch_without_a_try(monkeypatch):
    monkeypatch.setattr(self_test, "try_operator", lambda *given: pytest.fail("tried"))
    assert resolve_kernels("torch", CPU, torch.float32, OPERATORS) == "torch"


def test_a_device_without_triton_gets_torch_and_one_line(monkeypatch, caplog):
    monkeypatch.setattr(self_test, "triton_problem", lambda device: "the device is a CPU")
    with caplog.at_level(logging.INFO):
        assert [resolve_kernels("auto", CPU, torch.float32, OPERATORS) for _ in range(3)] == ["torch"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "MotionBlocks: on cpu (float32) torch operators, since the device is a CPU."
    ]


def test_triton_by_name_says_why_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(self_test, "triton_problem", lambda device: "Triton is not installed")
    with pytest.raises(ConfigError, match="kernels is 'triton', but Triton is not installed; use kernels 'auto'"):
        resolve_kernels("triton", CPU, torch.float32, OPERATORS)


def test_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="'quick'; it must be one of auto, torch, triton"):
        resolve_kernels("quick", CPU, torch.float32, OPERATORS)


def test_right_answers_keep_the_choice(monkeypatch):
    capable(monkeypatch)
    answering(monkeypatch, lambda out: out)
    for choice in ("auto", "triton"):
        assert resolve_kernels(choice, CPU, torch.float32, ("glu_depthwise",)) == choice


@pytest.mark.parametrize("change", [lambda out: out * 1.1, lambda out: out * float("nan"), torch.zeros_like])
def test_wrong_answers_are_noticed(monkeypatch, change):
    capable(monkeypatch)
    answering(monkeypatch, change)
    assert "glu_depthwise answers wrongly" in try_operator("glu_depthwise", CPU, torch.float32)
    assert resolve_kernels("auto", CPU, torch.float32, ("glu_depthwise",)) == "torch"


class CompilationError(Exception):
    """Stands for Triton's own, which is no RuntimeError."""

    __module__ = "triton.compiler.errors"


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("0 active drivers"), FileNotFoundError("gcc"), ImportError("libcuda"), CompilationError("x")],
    ids=lambda fault: type(fault).__name__,
)  # fmt: skip
def test_faults_of_the_machine_choose_torch_with_the_reason(monkeypatch, fault):
    capable(monkeypatch)
    answering(monkeypatch, raising(fault))
    assert resolve_kernels("auto", CPU, torch.float32, ("glu_depthwise",)) == "torch"
    with pytest.raises(ConfigError, match=f"glu_depthwise does not run here .{type(fault).__name__}: {fault}"):
        resolve_kernels("triton", CPU, torch.float32, ("glu_depthwise",))


class Cancelled(Exception):
    """Stands for the host's own, an ordinary exception."""


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("full"), MemoryError(), Cancelled()], ids=repr)
def test_out_of_memory_and_cancel_pass_and_leave_no_verdict(monkeypatch, fault):
    capable(monkeypatch)
    answering(monkeypatch, raising(fault))
    with pytest.raises(type(fault)):
        resolve_kernels("auto", CPU, torch.float32, ("glu_depthwise",))
    answering(monkeypatch, lambda out: out)
    assert resolve_kernels("auto", CPU, torch.float32, ("glu_depthwise",)) == "auto"


def test_number_types_without_kernels_get_torch(monkeypatch):
    capable(monkeypatch)
    assert resolve_kernels("auto", CPU, torch.float64, OPERATORS) == "torch"


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_can_be_tried(name):
    make = torch.randn
    call = self_test._CALLS[name]
    assert torch.isfinite(call.run(*call.inputs(make), kernels="torch")).all()
