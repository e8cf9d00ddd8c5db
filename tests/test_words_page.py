"""docs/words.md tells the truth: its figures are those the benchmark wrote, its caps those of the code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pack.motion.limits import MAX_DYNAMICS
from pack.motion.text.safe_words import SAFE, UNLISTED

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "words.md"
RESULT = json.loads((ROOT / "benchmarks" / "results" / "safe_words.json").read_text())


def test_figures_are_those_the_benchmark_wrote():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "fill_words.py"), "--check"])
    assert done.returncode == 0, "docs/words.md is older than benchmarks/results: run tools/fill_words.py"


def test_the_benchmark_measured_the_caps_of_the_code_on_a_dozen_photographs():
    assert {word: RESULT["figures"][word]["cap"] for word in SAFE} == SAFE
    assert len({row["photo"] for row in RESULT["rows"]}) >= 12


@pytest.mark.parametrize("word", [word for word in SAFE if word != "clouds"])
def test_at_its_cap_no_word_stretches_a_photograph_much_and_without_it_every_one_does(word):
    """`clouds` is judged by eye: its stretch is the seam between the sky and what stands before it."""
    at = {bucket: [row["stretch"] for row in RESULT["rows"] if (row.get("word"), row.get("bucket")) == (word, bucket)]
          for bucket in (SAFE[word], MAX_DYNAMICS)}  # fmt: skip
    assert max(at[SAFE[word]]) < 1.7 < 10 < max(at[MAX_DYNAMICS])


@pytest.mark.parametrize("word", SAFE)
def test_in_a_region_nothing_folds_at_its_cap_and_nothing_moves_outside(word):
    found = [row["region"] for row in RESULT["rows"] if (row.get("word"), row.get("bucket")) == (word, SAFE[word])]
    assert len(found) >= 12 and max(row["region"]["stretch"] for row in found) < 3
    assert max(row["region"]["largest change outside, of 255"] for row in found) < 0.1
    assert min(row["whole photo"]["largest change outside, of 255"] for row in found) > 1, "outside there was something"


def test_the_page_says_which_words_are_no_longer_listed():
    text = PAGE.read_text()
    assert all(f"`{word}`" in text for word in (*SAFE, *UNLISTED))
