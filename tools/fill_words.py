#!/usr/bin/env python3
"""Copy the figures of benchmarks/results/safe_words.json into docs/words.md, between its two markers.

    python tools/fill_words.py          rewrite docs/words.md between its markers
    python tools/fill_words.py --check  exit 1 when docs/words.md and the results differ
"""

import sys

from pages import ROOT, as_text, facts_of, is_table, read_result, table, write_or_check

PAGE = ROOT / "docs" / "words.md"
COMMAND = "`.venv/bin/python benchmarks/safe_words.py --jobs 1 --sheets docs/images`"


def section(_name):
    """Return the Markdown of the results: facts, single figures, a row a word, and the tables beside."""
    result = read_result("safe_words")
    words = {key: value for key, value in result["figures"].items() if isinstance(value, dict)}
    single = [f"- {key}: {as_text(value)}" for key, value in result["figures"].items()
              if key not in words and not is_table(value)]
    beside = [f"**{key}**\n\n{table(value)}" for key, value in result["figures"].items() if is_table(value)]
    lines = [{"word": f"`{word}`", **figures} for word, figures in words.items()]
    return "\n\n".join((f"{COMMAND} · {facts_of(result)}", "\n".join(single), table(lines), *beside))


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {PAGE: section}))
