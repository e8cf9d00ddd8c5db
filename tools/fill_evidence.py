#!/usr/bin/env python3
"""Copy the tables of benchmarks/results/evidence_*.json into docs/evidence.md, each between its two markers.

    python tools/fill_evidence.py          rewrite docs/evidence.md between its markers
    python tools/fill_evidence.py --check  exit 1 when docs/evidence.md and the results differ
"""

import argparse
import json
import re
import sys

from fill_readme import ROOT, as_text

PAGE = ROOT / "docs" / "evidence.md"
MARKERS = re.compile(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", re.DOTALL)


def table(lines):
    """Return Markdown of a list of records with equal keys."""
    head = list(lines[0])
    rows = [head, ["---"] * len(head), *([as_text(line[name]) for name in head] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def section(name):
    """Return the Markdown of one results file: facts, single figures, tables."""
    path = ROOT / "benchmarks" / "results" / f"evidence_{name}.json"
    if not path.is_file():
        return f"Not measured yet: run `.venv/bin/python benchmarks/evidence/{name}.py`."
    result = json.loads(path.read_text())
    facts = ", ".join(f"{key} {value}" for key, value in result["facts"].items())
    parts = [f"`.venv/bin/python benchmarks/evidence/{name}.py` · {facts}"]
    single = [(key, value) for key, value in result["figures"].items() if not is_table(value)]
    parts.append("\n".join(f"- {key}: {as_text(value)}" for key, value in single))
    parts += [f"**{key}**\n\n{table(value)}" for key, value in result["figures"].items() if is_table(value)]
    return "\n\n".join(part for part in parts if part)


def is_table(value):
    """Tell tables from single figures."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def filled(text):
    """Return the page with every table between its markers."""
    def between(found):
        name = found[1]
        return f"<!-- {name}: begin -->\n\n{section(name)}\n\n<!-- {name}: end -->"

    return MARKERS.sub(between, text)


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
