"""What the tools share that write figures into pages: results, cells, tables, and the places between two markers."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKERS = re.compile(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", re.DOTALL)


def read_result(name: str) -> dict | None:
    """What a benchmark wrote; None where it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def facts_of(result: dict) -> str:
    """Date, versions and machine of a result in one line."""
    return ", ".join(f"{key} {value}" for key, value in result["facts"].items())


def as_text(value) -> str:
    """One figure as the text of a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return str(value).replace("|", "\\|")


def is_table(value) -> bool:
    """Tell tables, records in a list, from single figures."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def table(lines: list[dict]) -> str:
    """Markdown of records with equal keys."""
    head = list(lines[0])
    rows = [head, ["---"] * len(head), *([as_text(line[name]) for name in head] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def filled(text: str, section: Callable[[str], str]) -> str:
    """The page with what `section(name)` returns between the markers of each name."""
    return MARKERS.sub(lambda at: f"<!-- {at[1]}: begin -->\n\n{section(at[1])}\n\n<!-- {at[1]}: end -->", text)


def write_or_check(about: str, sections: dict[Path, Callable[[str], str]]) -> int:
    """Run a page tool: write its pages, or with --check return 1 where one is older than the results."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where pages and results differ")
    check = parser.parse_args().check
    stale = 0
    for page, section in sections.items():
        text = page.read_text(encoding="utf-8")
        new = filled(text, section)
        stale |= new != text
        if not check:
            page.write_text(new, encoding="utf-8")
    return int(check and stale)
