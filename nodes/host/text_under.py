"""What a node tells under itself: shown while it runs, and kept with its outputs."""

from comfy_api.latest import ui

from . import page
from .compat import unique_id


def text_under(cls, text: str) -> ui.PreviewText:
    """Show lines of text under the node and return them as its preview; `.value` is the text, made safe."""
    safe = page.page_text(text)
    page.show_text(safe, unique_id(cls))
    return ui.PreviewText(safe)
