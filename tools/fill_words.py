#!/usr/bin/env python3
"""Copy the figures of benchmarks/results/safe_words.json into docs/words.md, between its two markers.

    python tools/fill_words.py          rewrite docs/words.md between its markers
    python tools/fill_words.py --check  exit 1 when docs/words.md and the results differ
"""

import argparse
import json
import sys

from fill_evidence import MARKERS, is_table, table
from fill_readme import ROOT, as_text

PAGE = ROOT / "docs" / "words.md"


def section():
    """Return the Markdown of the results: facts, single figures, a row a word, and the tables beside."""
    result = json.loads((ROOT / "benchmarks" / "results" / "safe_words.json").read_text())
    facts = ", ".join(f"{key} {value}" for key, value in result["facts"].items())
    words = {key: value for key, value in result["figures"].items() if isinstance(value, dict)}
    single = [f"- {key}: {as_text(value)}" for key, value in result["figures"].items()
              if key not in words and not is_table(value)]
    beside = [f"**{key}**\n\n{table(value)}" for key, value in result["figures"].items() if is_table(value)]
    lines = [{"word": f"`{word}`", **figures} for word, figures in words.items()]
    command = "`.venv/bin/python benchmarks/safe_words.py --jobs 1 --sheets docs/images`"
    return "\n\n".join((f"{command} · {facts}", "\n".join(single), table(lines), *beside))


def filled(text):
    """Return the page with the figures between its markers."""
    return MARKERS.sub(lambda found: f"<!-- {found[1]}: begin -->\n\n{section()}\n\n<!-- {found[1]}: end -->", text)


def main():
    """Rewrite the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = PAGE.read_text()
    if args.check:
        return int(filled(text) != text)
    PAGE.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
