"""The client ends whatever the server does: a scripted server brings the orders of events that a real one rarely shows.

tests/host/test_client.py runs the client against real hosts.
"""

import base64
import contextlib
import hashlib
import http.server
import importlib.util
import json
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VIDEO = {"filename": "a.mp4", "subfolder": "", "type": "output"}
DONE = {"status": {"messages": []}, "outputs": {"9": {"images": [VIDEO]}}}
RUNNING, GONE, ENDED = ("p", None), (None, None), (None, DONE)
AWAY, BUSY, HTML = "502", "no answer", "<html>"


@pytest.fixture
def client(monkeypatch):
    """tools/queue_workflow.py as a module, in a hurry."""
    spec = importlib.util.spec_from_file_location("queue_workflow", ROOT / "tools" / "queue_workflow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("POLL", 0.05), ("PATIENCE", 1.0), ("QUESTION", 0.3)):
        monkeypatch.setattr(module, name, value, raising=False)
    return module


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes((ROOT / "assets" / "raccoon.jpg").read_bytes())
    return path


class Script(http.server.BaseHTTPRequestHandler):
    """Answers as a ComfyUI whose queue and history follow `server.rounds`, the last one for ever."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        is_photo = self.path == "/upload/image"
        self.answer({"name": "photo.jpg"} if is_photo else {"prompt_id": "p", "node_errors": {}})

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/ws"):
            return self.open_socket()
        if self.path.startswith("/view"):
            return self.answer(b"the video")
        rounds = self.server.rounds
        now = rounds.pop(0) if self.path == "/queue" and len(rounds) > 1 else rounds[0]
        self.server.now = now if self.path == "/queue" else self.server.now
        if self.server.now == BUSY:
            time.sleep(1)
            self.close_connection = True
        elif self.server.now == AWAY:
            self.send_error(502)
        elif self.server.now == HTML:
            self.answer(b"<html>hello</html>")
        elif self.path == "/queue":
            running = [[0, self.server.now[0], {}, {}, []]] if self.server.now[0] else []
            self.answer({"queue_running": running, "queue_pending": []})
        else:
            self.answer({"p": self.server.now[1]} if self.server.now[1] else {})

    def answer(self, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def open_socket(self):
        """A web socket that says `server.told`, then nothing, until the test ends it."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.write(self.server.told)
        self.close_connection = True
        if not self.server.closes:
            self.server.finished.wait(20)


@contextlib.contextmanager
def scripted(rounds, told=b"", closes=False):
    """A server on a port of its own; yields it with `.url`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.rounds, server.now, server.asked, server.told, server.closes = list(rounds), rounds[0], [], told, closes
    server.finished, server.url = threading.Event(), f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.finished.set()
        server.shutdown()
        server.server_close()


def run(client, server, photo, limit=15.0):
    """Run the client as from the shell, in a thread, so that a hang fails the test; the exit code."""
    found = []
    arguments = [str(photo), "--server", server.url, "-o", str(photo.with_name("out.mp4"))]
    thread = threading.Thread(target=lambda: found.append(client.main(arguments)), daemon=True)
    thread.start()
    thread.join(limit)
    assert found, "the client hangs"
    return found[0]


@pytest.mark.parametrize("rounds", [
    [ENDED], [RUNNING, RUNNING, ENDED], [RUNNING, GONE, RUNNING, GONE, ENDED], [RUNNING, AWAY, AWAY, ENDED],
    [RUNNING, BUSY, ENDED],
], ids=["at once", "after a while", "one missed round", "a proxy's 502", "a slow answer"])  # fmt: skip
def test_a_prompt_that_is_still_known_is_waited_for(client, photo, rounds):
    with scripted(rounds) as server:
        assert run(client, server, photo) == 0
    assert photo.with_name("out.mp4").read_bytes() == b"the video"


def test_a_prompt_that_both_queue_and_history_miss_twice_is_lost(client, photo, capsys):
    with scripted([RUNNING, GONE]) as server:
        assert run(client, server, photo) == 1
    questions = [path for path in server.asked if path in ("/queue", "/history/p")]
    assert questions == ["/queue", "/history/p"] * 3, "the queue is asked first, and two rounds are enough"
    assert "neither in the queue nor in the history" in capsys.readouterr().err


def test_a_server_that_comes_back_without_the_prompt_was_restarted(client, photo, capsys):
    with scripted([RUNNING, AWAY, GONE]) as server:
        assert run(client, server, photo) == 1
    err = capsys.readouterr().err
    assert "waiting up to" in err and "was restarted and has forgotten it" in err


@pytest.mark.parametrize("silence", [AWAY, BUSY])
def test_a_server_that_stays_away_is_given_up(client, photo, capsys, silence):
    with scripted([RUNNING, silence]) as server:
        assert run(client, server, photo) == 1
    assert "it was stopped or hangs" in capsys.readouterr().err


def test_an_address_where_something_else_answers_is_refused(client, photo, capsys):
    with scripted([HTML]) as server:
        assert run(client, server, photo) == 1
    assert "which no ComfyUI says" in capsys.readouterr().err


@pytest.mark.parametrize(("output", "words"), [("no/out.mp4", "does not exist"), (".", "is a folder")])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_sent(client, photo, capsys, output, words):
    with scripted([ENDED]) as server:
        assert client.main([str(photo), "--server", server.url, "-o", str(photo.parent / output)]) == 1
        assert server.asked == [] and words in capsys.readouterr().err


@pytest.mark.parametrize(("text", "words"), [
    (None, "cannot be read"), ("", "is empty"), ("{", "is not JSON"), ('{"nodes": [], "links": []}', "Export (API)"),
    ("[1]", "Export (API)"),
])  # fmt: skip
def test_a_workflow_that_is_no_api_graph_is_refused_before_anything_is_sent(client, photo, capsys, text, words):
    workflow = photo.with_name("graph.json")
    if text is not None:
        workflow.write_text(text)
    with scripted([ENDED]) as server:
        arguments = [str(photo), "--server", server.url, "--workflow", str(workflow)]
        assert client.main([*arguments, "-o", str(photo.with_name("out.mp4"))]) == 1
        assert server.asked == [] and words in capsys.readouterr().err


def text_frame(text):
    """A server's web socket frame of up to 125 bytes."""
    return bytes([0x81, len(text)]) + text.encode()


STEP = text_frame('{"type": "progress", "data": {"value": 3, "max": 8}}')
SAID = {
    "nothing, for ever": (b"", False),
    "a step, then nothing": (STEP, False),
    "a step, then closed": (STEP, True),
    "a close frame": (STEP + b"\x88\x00", False),
    "half a frame": (STEP[:9], False),
}


@pytest.mark.parametrize("case", list(SAID))
def test_a_progress_socket_never_holds_the_client_up(client, photo, capsys, case):
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    with scripted([RUNNING, RUNNING, RUNNING, ENDED], *SAID[case]) as server:
        assert run(client, server, photo) == 0
        assert any(path.startswith("/ws") for path in server.asked)
    assert ("step 3/8" in capsys.readouterr().err) == (len(SAID[case][0]) >= len(STEP))


def test_a_lost_prompt_is_told_while_the_socket_stays_silent(client, photo, capsys):
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    with scripted([RUNNING, GONE]) as server:
        assert run(client, server, photo) == 1
    assert "neither in the queue nor in the history" in capsys.readouterr().err
