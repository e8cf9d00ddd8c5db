"""docs/nodes.md and node_list.json say what the nodes say, on this host."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("build_node_pages")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_pages_of_the_nodes_are_those_their_schemas_write(tool, ours):
    pages = tool.pages(list(ours.values()))
    assert {path.relative_to(ROOT).as_posix() for path in pages} == {"docs/nodes.md", "node_list.json"}
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run tools/build_node_pages.py"


def test_pages_do_not_change_with_the_files_on_disk(tool, ours, models_folder):
    before = tool.pages(list(ours.values()))
    found = models_folder / "found_on_disk"
    found.mkdir()
    try:
        (found / "config.json").write_text("{}")
        names = ours["LoadModel"].GET_NODE_INFO_V1()["input"]["required"]["model_name"]
        assert "found_on_disk" in str(names)
        assert tool.pages(list(ours.values())) == before
    finally:
        (found / "config.json").unlink()
        found.rmdir()


@pytest.mark.parametrize(("given", "text"), [
    ({"name": "n", "group": "required", "type": "INT", "default": 3, "min": 0, "max": 2**64 - 1},
     "`n` int = 3 (0 to 2^64 - 1)"),
    ({"name": "edges", "group": "optional", "type": "COMBO", "default": "a", "choices": ["a", "b"]},
     "*`edges` combo = a (a, b)*"),
    ({"name": "t", "group": "required", "type": "STRING", "default": "one\n| two " * 9},
     "`t` string = one \\| two one \\| two one \\| two one \\| two one \\| tw …"),
])  # fmt: skip
def test_an_input_is_one_line_of_a_cell(tool, given, text):
    assert tool.input_text(given) == text
