"""How workers share a run: long tests first, what both need made once."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import worker_groups
from once_a_run import once_a_run


def test_hosts_come_first_then_files_by_their_slow_tests_and_a_file_stays_together(monkeypatch):
    monkeypatch.setattr(worker_groups, "HOSTS", ["comfyui-1"])
    ids = ["a.py::test_1", "a.py::test_2", "b.py::test_slow", "c.py::test_of[comfyui-1-x]", "a.py::test_3"]
    items = [SimpleNamespace(nodeid=id, get_closest_marker=lambda name, id=id: "slow" in id) for id in ids]
    worker_groups.LongestFirst().pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [ids[3], ids[2], ids[0], ids[1], ids[4]]


def test_what_two_workers_need_is_made_once_and_a_failure_is_no_result(tmp_path):
    made = []

    def make(folder: Path):
        made.append(folder)
        if len(made) == 1:
            raise OSError("no room")
        (folder / "truth").write_text("7")

    with pytest.raises(OSError, match="no room"):
        once_a_run(tmp_path, "oracle", make)
    readers = [threading.Thread(target=once_a_run, args=(tmp_path, "oracle", make)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(made) == 2 and (once_a_run(tmp_path, "oracle", make) / "truth").read_text() == "7" and len(made) == 2
