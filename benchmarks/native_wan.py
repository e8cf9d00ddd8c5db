"""The door to the hosts' own Wan: what its tests measure of adapters and of training, in every host found. Writes JSON.

Tiny random weights, so that the figures say what is exact, not how a video looks. A figure whose test fails is missing,
and the failure is printed.
"""

import json
import sys
import tempfile
from pathlib import Path

from builtin_common import ROOT, save

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from host_suite import HostSuite  # noqa: E402
from real_hosts import MISSING, find_hosts  # noqa: E402

TESTS = ROOT / "tests" / "nodes" / "inhost"
SILENCE = 900  # seconds


def measure(host: Path, pattern: str = "test_inhost_native_*.py") -> tuple[dict, list[str]]:
    """What the tests of these files inside this host measured, and those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "figures.json"
        files = sorted(str(path) for path in TESTS.glob(pattern))
        arguments = ["--rootdir", str(TESTS), *files]
        with HostSuite(host, arguments, folder, SILENCE, MOTIONBLOCKS_FIGURES=str(kept)) as suite:
            suite.collect()
            failed = [f"{test}\n{fault}" for test in suite.tests if (fault := suite.fault(test))]
        return json.loads(kept.read_text()) if kept.exists() else {}, failed


def _each(rows: list[dict], value) -> str:
    """A figure on every host that has it."""
    found = {row["host"].removeprefix("comfyui-"): value(row) for row in rows}
    return ", ".join(f"{number:.2g} on {host}" for host, number in found.items() if number is not None)


def main() -> None:
    hosts = find_hosts()
    if not hosts:
        raise SystemExit(f"{MISSING}; nothing measured")
    rows = []
    for host in hosts:
        found, failed = measure(host)
        rows.append({"host": host.name, "figures": found, "failed": failed})
    names = dict.fromkeys(name for row in rows for name in row["figures"])
    figures = {name: _each(rows, lambda row, name=name: row["figures"].get(name)) for name in names}
    figures["tests that failed"] = _each(rows, lambda row: len(row["failed"]))
    save("native_wan", figures, rows)
    if any(row["failed"] for row in rows):
        raise SystemExit("\n\n".join(fault for row in rows for fault in row["failed"]))


if __name__ == "__main__":
    main()
