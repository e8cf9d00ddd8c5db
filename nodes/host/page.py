"""What goes to the page: text under a node and messages to our scripts. Foreign text is made safe here."""

from ...kernels.foreign_text import LONG, has_half_character, safe_text


def page_text(text: str) -> str:
    """Text as the page may have it: hosts put what a node says into their document as HTML."""
    return safe_text(text, limit=LONG, lines=True, markup=False)


def show_text(text: str, node_id: str | None) -> None:
    """Show lines under the running node in the page, where there is a page. Foreign text is made safe."""
    server = _server() if node_id is not None and not has_half_character(node_id) else None
    if server is not None:
        server.send_progress_text(page_text(text), node_id)


def send_event(name: str, data: dict) -> None:
    """Send a message to the page that queued the running prompt, where there is one."""
    server = _server()
    if server is not None:
        server.send_sync(name, data, server.client_id)


def _server():
    """The host's web server; None where nodes run without one."""
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
