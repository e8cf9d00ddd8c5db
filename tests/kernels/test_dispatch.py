"""Which backend of an operator runs: the choice, its refusals, and one registration a process."""

import pytest
import torch
from pack.kernels import backend_choice
from pack.kernels.errors import ConfigError, ShapeError


def test_torch_is_taken_on_a_cpu_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backend_choice.triton_problem.cache_clear()
    assert not backend_choice.use_triton("auto", torch.ones(1))
    with pytest.raises(ConfigError, match="the device is a CPU; use kernels 'auto' or 'torch'"):
        backend_choice.use_triton("triton", torch.ones(1))
    backend_choice.triton_problem.cache_clear()


def test_interpreter_makes_a_cpu_fit_where_triton_is_installed(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    backend_choice.triton_problem.cache_clear()
    assert backend_choice.use_triton("auto", torch.ones(1))
    assert not backend_choice.use_triton("torch", torch.ones(1))
    backend_choice.triton_problem.cache_clear()


def test_float64_takes_torch_and_is_refused_when_triton_is_named():
    assert not backend_choice.use_triton("auto", torch.ones(1, dtype=torch.float64))
    with pytest.raises(ConfigError, match="float64"):
        backend_choice.use_triton("triton", torch.ones(1, dtype=torch.float64))


def test_missing_triton_is_named(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(backend_choice.importlib.util, "find_spec", lambda name: None)
    backend_choice.triton_problem.cache_clear()
    with pytest.raises(ConfigError, match="Triton is not installed"):
        backend_choice.use_triton("triton", torch.ones(1))
    backend_choice.triton_problem.cache_clear()


def test_unknown_choice_lists_the_known_ones():
    with pytest.raises(ConfigError, match="auto, torch, triton"):
        backend_choice.use_triton("fast", torch.ones(1))


def test_gradients_and_meta_tensors_go_through_the_operator():
    plain = torch.ones(1)
    assert not backend_choice.through_operator(plain, None)
    assert backend_choice.through_operator(plain, torch.ones(1, requires_grad=True))
    assert backend_choice.through_operator(torch.ones(1, device="meta"))
    with torch.no_grad():
        assert not backend_choice.through_operator(torch.ones(1, requires_grad=True))


def test_second_registration_keeps_the_first():
    def plus_one(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def plus_two(x: torch.Tensor) -> torch.Tensor:
        return x + 2

    first = backend_choice.register("test_only_plus", plus_one, fake=torch.empty_like)
    second = backend_choice.register("test_only_plus", plus_two, fake=torch.empty_like)
    assert first is second and second(torch.zeros(1)).item() == 1


def test_grid_beyond_the_card_is_refused():
    assert backend_choice.programs(3, 5) == 15
    with pytest.raises(ShapeError, match="a grid holds 2147483647"):
        backend_choice.programs(2**20, 2**12)


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ShapeError, match="different devices.*cpu.*meta"):
        backend_choice.check_same(q=torch.ones(1), k=torch.ones(1, device="meta"), bias=None)
