"""Spoiled files into every reader: which exceptions, how long, how much memory. Prints a summary, writes JSON.

A case is a reader and a seed: `--only "photo gif" --seed 17 --count 1` makes the same file again.
"""

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from builtin_common import save, verdict

COUNT = 420  # files a reader
SECONDS, MEGABYTES = 2.0, 300.0
HANG = 30.0  # seconds of the clock, on a machine that others use too, after which a worker is ended


class Worker:
    """A child process that takes cases; a new one is started where it died or hung."""

    def __init__(self, readers: Iterable[str]):
        self.readers, self.child = tuple(readers), None

    def call(self, reader: str, seed: int) -> dict:
        """What came of one case."""
        if self.child is None:
            self._start()
        with contextlib.suppress(BrokenPipeError):  # one that has died answers nothing, and is told of below
            self.child.stdin.write(f"{reader} {seed}\n")
            self.child.stdin.flush()
        line = self._line(HANG)
        if line:
            return json.loads(line)
        hung = self._runs()
        self.close()
        how = f"no answer within {HANG:g} s" if hung else f"the process ended with {self._code}"
        return {"came": "fault", "text": how, "seconds": HANG if hung else 0.0, "megabytes": 0.0}

    def _start(self) -> None:
        script = Path(__file__).with_name("fuzz_worker_common.py")
        self.child = subprocess.Popen(
            [sys.executable, script, *self.readers], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if self._line(300.0) != "ready\n":
            self.close()
            raise SystemExit("the worker did not start: run benchmarks/fuzz_worker_common.py by hand to see why")

    def _line(self, patience: float) -> str:
        """One line of the child, "" when it ended or gave none in time."""
        return self.child.stdout.readline() if select.select([self.child.stdout], [], [], patience)[0] else ""

    def _runs(self) -> bool:
        """Whether the child goes on; one that has closed its output is given a moment to be seen to end."""
        has_ended = bool(select.select([self.child.stdout], [], [], 0.0)[0])
        try:
            self.child.wait(10.0 if has_ended else 0.0)
        except subprocess.TimeoutExpired:
            return True
        return False

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self._code = self.child.wait()
            self.child = None


def run(readers: Iterable[str], first: int, count: int, on_case=None) -> list[dict]:
    """Cases of each reader, from seed `first` on, with what came of them."""
    worker, rows = Worker(readers), []
    try:
        for reader in worker.readers:
            for seed in range(first, first + count):
                rows.append({"reader": reader, "seed": seed, **worker.call(reader, seed)})
                if on_case is not None:
                    on_case(rows[-1])
    finally:
        worker.close()
    return rows


def bad(rows: list[dict]) -> list[dict]:
    """Cases that broke a promise."""
    return [row for row in rows if row["came"] == "fault" or row["seconds"] > SECONDS or row["megabytes"] > MEGABYTES]


def summed(reader: str, rows: list[dict]) -> dict:
    """A line of the result: what came of one reader's files."""
    came = [row["came"] for row in rows]
    return {"reader": reader, "files": len(rows), "read": came.count("read"), "refused": came.count("refused"),
            "faults": came.count("fault"), "seconds at most": max(row["seconds"] for row in rows),
            "megabytes at most": max(row["megabytes"] for row in rows)}  # fmt: skip


def main() -> None:
    from fuzz_readers_common import READERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="files a reader")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", action="append", choices=list(READERS), help="a reader; may be given again")
    options = parser.parse_args()

    def tell(row: dict) -> None:
        if bad([row]):
            print(f"BROKEN: {json.dumps(row)}", flush=True)

    rows = run(options.only or READERS, options.seed, options.count, tell)
    summary = [summed(name, [row for row in rows if row["reader"] == name]) for name in options.only or READERS]
    figures = {
        "spoiled files": f"{len(rows)} over {len(summary)} readers",
        "exceptions of other kinds, ends and hangs": verdict(sum(row["came"] == "fault" for row in rows), high=0),
        "longest call, processor s": verdict(max(row["seconds"] for row in rows), high=SECONDS),
        "most memory of a call, MB": verdict(max(row["megabytes"] for row in rows), high=MEGABYTES),
    }
    if options.only is None:
        save("fuzz_readers", figures, summary + [{"broken": row} for row in bad(rows)])
    else:
        print(json.dumps({"figures": figures, "rows": rows[:20]}, indent=2))


if __name__ == "__main__":
    main()
