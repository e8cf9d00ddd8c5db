"""README and docs/numbers.md tell the truth: their numbers are those of the result files, links lead somewhere."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("fill_numbers")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_numbers_are_those_the_benchmarks_wrote():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "fill_numbers.py"), "--check"])
    assert done.returncode == 0, "README.md or docs/numbers.md is older than its results: run tools/fill_numbers.py"


def test_a_number_typed_by_hand_is_noticed_on_either_page(tool, tmp_path, monkeypatch):
    for page, section in ((ROOT / "README.md", tool.key_numbers), (ROOT / "docs" / "numbers.md", tool.all_tables)):
        text = page.read_text(encoding="utf-8")
        copy = tmp_path / page.name
        monkeypatch.setattr(sys, "argv", ["fill_numbers.py", "--check"])
        for written, stale in ((text, 0), (text.replace("99.79", "99.97"), 1)):
            copy.write_text(written, encoding="utf-8")
            assert tool.write_or_check("about", {copy: section}) == stale
            assert copy.read_text(encoding="utf-8") == written


def test_readme_keeps_six_numbers_and_the_page_every_result_of_the_list(tool):
    figures = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- numbers: begin -->")[1]
    assert figures.split("<!-- numbers: end -->")[0].count("\n|") == 2 + len(tool.KEY) <= 2 + 6
    page = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", page, re.M) == list(tool.TABLES.values())


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "assets/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


def test_links_of_readme_and_docs_lead_to_files():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    assert len(links) > 8
    assert [(page.name, link) for page, link in links if "://" not in link and not (page.parent / link).exists()] == []


ROOMS = "nodes|motion|kernels|recipes|tools|tests|benchmarks|docs|web|weights|workflows"
PATH = re.compile(rf"(?<![\w/-])(?:{ROOMS})/[\w*./-]*\w[*/]?(?![\w*])")


def named_paths(text):
    """Paths of this repository that a page names in code marks; those with NAME or ID stand for others."""
    marked = re.findall(r"`([^`\n]+)`", text)
    return {path for code in marked for path in PATH.findall(code) if not re.search(r"NAME|\bID\b", code)}


def test_paths_that_pages_name_are_there():
    found = {(page.name, path) for page in PAGES for path in named_paths(page.read_text(encoding="utf-8"))}
    assert len(found) > 60
    assert {(page, path) for page, path in found if not any(ROOT.glob(path.rstrip("/")))} == set()


def test_a_path_that_is_gone_is_seen():
    text = "`motion/cli.py`, `python tools/fill_readme.py -h`, `kernels/NAME.py`, `nodes/*.py`, `out/tests/a`"
    assert named_paths(text) == {"motion/cli.py", "tools/fill_readme.py", "nodes/*.py"}
