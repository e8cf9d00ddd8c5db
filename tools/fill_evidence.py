#!/usr/bin/env python3
"""Copy the tables of benchmarks/results/evidence_*.json into docs/evidence.md, each between its two markers.

    python tools/fill_evidence.py          rewrite docs/evidence.md between its markers
    python tools/fill_evidence.py --check  exit 1 when docs/evidence.md and the results differ
"""

import sys

from pages import ROOT, as_text, facts_of, is_table, read_result, table, write_or_check

PAGE = ROOT / "docs" / "evidence.md"


def section(name):
    """Return the Markdown of one results file: facts, single figures, tables."""
    result = read_result(f"evidence_{name}")
    if result is None:
        return f"Not measured yet: run `.venv/bin/python benchmarks/evidence/{name}.py`."
    parts = [f"`.venv/bin/python benchmarks/evidence/{name}.py` · {facts_of(result)}"]
    single = [(key, value) for key, value in result["figures"].items() if not is_table(value)]
    parts.append("\n".join(f"- {key}: {as_text(value)}" for key, value in single))
    parts += [f"**{key}**\n\n{table(value)}" for key, value in result["figures"].items() if is_table(value)]
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {PAGE: section}))
