"""`make quick` runs the tests of the rooms that differ from main."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from changed_rooms import changed_files, mirrored_tests  # noqa: E402

FILES = (
    "motion/photo.py", "motion/io/files/atomic.py", "nodes/vaes.py", "web/page.js", "tests/test_house.py",
    "tests/test_page.py", "tests/motion/io/media/test_photo.py", "tests/motion/io/files/test_atomic.py",
    "tests/nodes/oracles/oracle_one.py", "tests/nodes/test_vaes.py",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    """A repository with FILES on main, and a branch `here` beside which main went on."""

    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t", *words], cwd=tmp_path, check=True,
                       capture_output=True)  # fmt: skip

    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("branch", "here")
    (tmp_path / "nodes" / "vaes.py").write_text("main went on")
    git("commit", "-qam", "second")
    git("checkout", "-q", "here")
    tmp_path.joinpath("web", "page.js").write_text("committed")
    git("commit", "-qam", "third")
    return tmp_path


def test_committed_changed_new_and_removed_files_count_and_those_of_main_do_not(tree):
    assert changed_files(tree) == ["web/page.js"]
    (tree / "motion" / "photo.py").write_text("changed")
    (tree / "motion" / "io" / "é.py").write_text("new")
    (tree / "tests" / "test_page.py").unlink()
    assert sorted(changed_files(tree)) == ["motion/io/é.py", "motion/photo.py", "tests/test_page.py", "web/page.js"]


@pytest.mark.parametrize(("changed", "tests"), [
    ([], []),
    (["motion/io/files/atomic.py"], ["tests/motion/io/files", "tests/test_house.py"]),
    (["motion/io/other.py", "motion/io/files/atomic.py"], ["tests/motion/io", "tests/test_house.py"]),
    (["motion/gone/away.py"], ["tests/motion", "tests/test_house.py"]),
    (["tests/nodes/oracles/oracle_one.py"], ["tests/nodes", "tests/test_house.py"]),
    (["tests/motion/io/files/test_atomic.py"], ["tests/motion/io/files", "tests/test_house.py"]),
    (["web/page.js"], ["tests/test_house.py", "tests/test_page.py"]),
    (["Makefile", "nodes/vaes.py"], ["tests/nodes", "tests/test_house.py", "tests/test_page.py"]),
    (["nodes/vaes.py", "tests/conftest.py"], ["tests"]),
])  # fmt: skip
def test_a_file_is_tested_by_the_nearest_folder_that_mirrors_it(tree, changed, tests):
    assert mirrored_tests(changed, tree) == tests
