"""README tells the truth: its numbers are those of the result files, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_numbers_are_those_the_benchmarks_wrote():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "fill_readme.py"), "--check"])
    assert done.returncode == 0, "README.md is older than benchmarks/results: run tools/fill_readme.py"


def test_links_of_readme_and_docs_lead_to_files():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "assets" / "README.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    assert len(links) > 8
    assert [(page.name, link) for page, link in links if "://" not in link and not (page.parent / link).exists()] == []
