"""Nobody decides by the type of a spec, a config or a network, and operators know no model: rows are asked instead."""

import ast
from pathlib import Path

import pytest
from pack.motion.models.architectures import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[3]


def types_of_rows():
    """Names of the classes by which somebody could decide what only the table may."""
    return {kind.__name__ for row in ARCHITECTURES for kind in (row.spec, row.config, row.network())}


def decisions(source, kinds):
    """What names a type to decide by: isinstance, issubclass, `type(x) is`, a class pattern, a union of types."""
    for node in ast.walk(ast.parse(source)):
        asked, enough = [], 1
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node.left):
            asked = node.comparators
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            asked, enough = [node.left, node.right], 2  # a union, to be asked for under a name of its own
        parts = [part for entry in asked for part in ast.walk(entry)]
        named = {getattr(part, "id", getattr(part, "attr", "")) for part in parts}
        if len(named & kinds) >= enough:
            yield ast.unparse(node)


def test_no_type_of_an_architecture_decides_anything_beside_the_table():
    rooms = ("nodes", "motion", "kernels", "tools", "benchmarks", "recipes")
    kinds, found = types_of_rows(), {}
    for path in (path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))):
        source = path.read_text()
        if any(kind in source for kind in kinds):
            found |= {str(path.relative_to(ROOT)): lines for lines in [list(decisions(source, kinds))] if lines}
    assert not found, f"ask ARCHITECTURES, or a field of the row, instead: {found}"


@pytest.mark.parametrize("source", [
    "if isinstance(spec, SanaVideoSpec): pass", "x = isinstance(config, (int, spec.LinearVideoDiTConfig))",
    "if type(config) is SanaVideoConfig: pass", "isinstance(model, LinearVideoDiT | None)",
    "match spec:\n    case LinearVideoSpec(): pass", "issubclass(kind, SanaVideoDiT)",
    "if type(spec) in (LinearVideoSpec,): pass", "Spec = LinearVideoSpec | SanaVideoSpec",
])  # fmt: skip
def test_a_decision_by_type_is_seen(source):
    assert list(decisions(source, types_of_rows()))


def words_of(source):
    """Names and texts of a source in lower case, docstrings left out: those may say where an operator comes from."""
    tree = ast.parse(source)
    told = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value.lower()
        for name in ("id", "attr", "name", "arg"):
            if isinstance(getattr(node, name, None), str):
                yield getattr(node, name).lower()


def test_operators_know_no_architecture():
    names = {row.name for row in ARCHITECTURES}
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        source = path.read_text()
        words = words_of(source) if any(name in source.lower() for name in names) else ()
        seen = [word for word in words if any(name in word for name in names)]
        assert not seen, f"{path.name}: {seen}; the rows of motion/models/architectures.py name operators instead"


def test_an_architecture_among_operators_is_seen():
    assert any("sana_video" in word for word in words_of('SANA_VIDEO = ("token_rstd",)'))
