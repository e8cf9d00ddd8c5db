"""benchmarks/kernels.py without a card: it runs the same code, tells errors and claims no speed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_without_a_card_it_measures_errors_and_claims_no_speed(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "kernels.py", "--part", "crossover", "--part", "step",
               "--out", tmp_path]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "not measured on a GPU yet" in done.stdout
    assert not re.search(r"\d ms|GB/s|of ours|of copy", done.stdout)
    for part in ("crossover", "step"):
        told = json.loads((tmp_path / f"kernels_{part}.json").read_text())
        assert told["facts"]["measured_on_a_gpu"] is False and "copy_gb_s" not in told["facts"]
        assert told["rows"] and not [row for row in told["rows"] if "error" in row or "cold" in row or "hot" in row]
        errors = [row["relative_error"] for row in told["rows"] if row["rival"] != "softmax"]
        assert errors and max(errors) < 0.03
