"""Sentences that were false are gone from what users read, and the true ones stand there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NODES, NOTES, HELP = "nodes/*.py", "tools/workflow_layouts.py", "web/docs/**/*.md"

# where, what it said, what is true
FALSE = [
    (NOTES, "no rain, no walking", "motionblocks-small draws rain and snow"),
    (NOTES, "Load LoRA (Model only)", "0.33.0 calls it Load LoRA, 0.3.64 LoraLoaderModelOnly"),
    ("workflows/*.json", "no rain, no walking", "motionblocks-small draws rain and snow; build the workflows again"),
    ("workflows/*.json", "Load LoRA (Model only)", "as in the notes; build the workflows again"),
    (NODES, "Concat or Average", "Average keeps the number of tokens and runs"),
    ("motion/sampling/*.py", "25 is usual", "every model has its own number; the built-in ones 8"),
    (NODES, "core nodes Save LoRA and", "it is called Save LoRA Weights"),
    (HELP, "*Save LoRA*", "it is called Save LoRA Weights"),
    (NODES, "Image to Video", "the node is called Photo to Video"),
    (HELP, "Image to Video", "the node is called Photo to Video"),
    ("motion/**/*.py", "Image to Video", "the node is called Photo to Video"),
    ("docs/*.md", "Image to Video", "the node is called Photo to Video"),
    ("README.md", "Image to Video", "the node is called Photo to Video"),
]


def plain(text: str) -> str:
    """Text with line ends, and the quotes of Python strings that go on in the next line, taken out."""
    return " ".join(re.sub(r'"\s*\n\s*f?"', "", text).split())


@pytest.mark.parametrize(("where", "words", "truth"), FALSE, ids=[f"{where}: {words}" for where, words, _ in FALSE])
def test_a_sentence_that_was_false_is_gone(where, words, truth):
    pages = sorted(ROOT.glob(where))
    assert pages
    assert [page.name for page in pages if words in plain(page.read_text(encoding="utf-8"))] == [], truth


def test_the_notes_of_both_photo_workflows_say_what_edges_does():
    notes = (ROOT / NOTES).read_text(encoding="utf-8")
    for name in ("START_NOTE", "SUBJECT_NOTE"):
        note = plain(notes.partition(f"\n{name} = ")[2].partition("\n)\n")[0])
        assert all(word in note for word in ("**edges**", "`crop`", "`mirror`", "1.35")), name


@pytest.mark.parametrize("page", sorted((ROOT / "web" / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_english_help_page_is_also_where_the_page_looks_first(page):
    """Pages ask for NAME/LANGUAGE.md, then for NAME.md: English ones must not answer 404, others fall back to it."""
    english = page.with_suffix("") / "en.md"
    assert english.read_bytes() == page.read_bytes(), f"copy {page.name} to {page.stem}/en.md"
