"""A kernel with one line spoilt must fail its quick test: the mutants of tests/kernels/mutations, one process each."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from forked_tests import CAUGHT, SURVIVED, ask, started, verdict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
COPIED = ("__init__.py", "pyproject.toml", "kernels", "tests/conftest.py", "tests/kernels")

pytestmark = pytest.mark.slow


def load(path: Path):
    """A file of mutants as a module."""
    spec = importlib.util.spec_from_file_location(f"mutations_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPERATORS = {path.stem: load(path) for path in sorted((HERE.parent / "mutations").glob("*.py"))}
MUTANTS = [(operator, name) for operator, module in OPERATORS.items() for name in module.MUTANTS]


def copy_pack(folder: Path) -> Path:
    """A copy of what the operators' tests need."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    return folder


def spoil(folder: Path, operator: str, old: str, new: str) -> None:
    """Replace `old` by `new` in one of the operator's files, its kernels first; it must be there."""
    assert old != new
    files = [path for room in ("_triton", ".") for path in sorted((folder / "kernels" / room).glob(f"{operator}*.py"))]
    for path in files:
        source = path.read_text()
        if old in source:
            path.write_text(source.replace(old, new))
            return
    raise AssertionError(f"{operator}: no file holds {old!r}; the mutant is out of date")


@pytest.fixture(scope="module")
def server():
    """The process that has torch and Triton loaded and forks a child a mutant."""
    with started(HERE / "mutant_server.py", TRITON_INTERPRET="1") as process:
        yield process


def run(server, folder: Path, check: str) -> tuple[str, str]:
    """Verdict and the test's last words."""
    told, words = ask(server, folder, check, log=folder / "log.txt")
    return told, words[-1500:]


@pytest.mark.parametrize("operator", OPERATORS)
def test_unspoilt_copy_passes(server, operator, tmp_path):
    module = OPERATORS[operator]
    checks = {module.CHECK, *(entry[2] for entry in module.MUTANTS.values() if len(entry) > 2)}
    folder = copy_pack(tmp_path)
    for check in sorted(checks):
        told, words = run(server, folder, check)
        assert told == SURVIVED, words


@pytest.mark.parametrize("operator, name", MUTANTS, ids=[f"{operator}: {name}" for operator, name in MUTANTS])
def test_mutant_is_caught(server, operator, name, tmp_path):
    old, new, *check = OPERATORS[operator].MUTANTS[name]
    folder = copy_pack(tmp_path)
    spoil(folder, operator, old, new)
    told, words = run(server, folder, check[0] if check else OPERATORS[operator].CHECK)
    assert told == CAUGHT, f"{operator} {name}: no test failed\n{words}"


def test_every_operator_with_a_kernel_has_mutants():
    files = [path.stem for path in (ROOT / "kernels" / "_triton").glob("*.py") if "@triton.jit" in path.read_text()]
    assert files and not [name for name in files if not name.startswith(tuple(OPERATORS))]


def test_out_of_date_mutant_is_an_error(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "toy.py").write_text("a = 1\n")
    with pytest.raises(AssertionError, match="out of date"):
        spoil(tmp_path, "toy", "b = 1", "b = 2")
    spoil(tmp_path, "toy", "a = 1", "a = 2")
    assert (tmp_path / "kernels" / "toy.py").read_text() == "a = 2\n"


@pytest.mark.parametrize("status, told", [("0", SURVIVED), ("1", CAUGHT), ("-11", CAUGHT), ("late", CAUGHT)])
def test_crash_and_hang_count_as_caught(status, told):
    assert verdict(status) == told


@pytest.mark.parametrize("status", ["2", "4", "5"])
def test_a_check_that_was_not_run_is_an_error(status):
    with pytest.raises(AssertionError, match="was not run"):
        verdict(status)
