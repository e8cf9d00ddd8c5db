"""Spoiled files never hang, never grow and never raise another error; `make bench` tries 10,000, this a few of each."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    import fuzz_readers
    from fuzz_readers import MEGABYTES, SECONDS, Worker, bad, run
    from fuzz_readers_common import READERS
finally:
    sys.path.remove(BENCHMARKS)  # a kernels.py is there, and transformers asks for a package of that name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory of one call is told by /proc")


@pytest.mark.slow
def test_spoiled_files_are_read_or_refused_in_time_and_memory_by_every_reader():
    rows = run(READERS, first=5000, count=16)
    assert {row["reader"] for row in rows} == set(READERS) and len(rows) == 16 * len(READERS)
    assert bad(rows) == []
    came = [row["came"] for row in rows]
    assert came.count("refused") > 100 and came.count("read") > 20


@pytest.mark.slow
def test_a_seed_makes_the_same_file_again_and_a_worker_that_dies_or_hangs_is_laid_to_its_case(monkeypatch):
    worker = Worker(["prompts and names"])
    try:
        once, again = ([worker.call("prompts and names", seed)["came"] for seed in range(20)] for _ in range(2))
        assert once == again and set(once) <= {"read", "refused"}
        worker.child.kill()
        row = worker.call("prompts and names", 1)
        assert row["came"] == "fault" and "ended with -9" in row["text"] and bad([row])
        assert worker.call("prompts and names", 1)["came"] == once[1]
        monkeypatch.setattr(fuzz_readers, "HANG", 0.0)
        assert "no answer within 0 s" in worker.call("prompts and names", 2)["text"]
    finally:
        worker.close()


@pytest.mark.parametrize("row", [
    {"came": "fault", "seconds": 0.0, "megabytes": 0.0}, {"came": "read", "seconds": SECONDS + 0.1, "megabytes": 0.0},
    {"came": "refused", "seconds": 0.0, "megabytes": MEGABYTES + 1},
])  # fmt: skip
def test_another_error_too_long_a_call_and_too_much_memory_count_as_broken(row):
    assert bad([row]) == [row] and bad([row | {"came": "read", "seconds": 0.1, "megabytes": 1.0}]) == []
