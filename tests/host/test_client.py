"""The sample client takes a user's photo through a real host and back."""

import importlib.util
import json
import threading
import time

import numpy as np
import pytest
from host_server import ROOT, HostServer, decode_video
from real_hosts import MISSING, find_hosts
from shipped_workflows import api_graph, node_of

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def client():
    """tools/queue_workflow.py as a module."""
    spec = importlib.util.spec_from_file_location("queue_workflow", ROOT / "tools" / "queue_workflow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photo(tmp_path):
    """A user's own photo of odd size, with a name full of spaces and accents."""
    from PIL import Image

    target = tmp_path / "mon été 1.png"
    Image.open(ROOT / "assets" / "raccoon.jpg").resize((333, 217)).save(target)
    return target


def test_client_uploads_queues_and_downloads_a_moving_video(host, client, photo, tmp_path):
    target = tmp_path / "out.mp4"
    arguments = [str(photo), "--motion", "pan right", "--dynamics", "15", "--frames", "9", "--seed", "3"]
    assert client.main([*arguments, "--server", host.url, "-o", str(target)]) == 0
    frames, _ = decode_video(target.read_bytes())
    assert frames.shape == (9, 218, 334, 3)
    assert np.abs(frames[-1].astype(float) - frames[0]).mean() > 3


def test_client_shows_the_hosts_own_words_for_an_unknown_motion(host, client, photo, tmp_path, capsys):
    target = tmp_path / "out.mp4"
    assert client.main([str(photo), "--motion", "fly", "--server", host.url, "-o", str(target)]) == 1
    assert "fly" in capsys.readouterr().err and not target.exists()


def test_client_says_when_no_server_answers(client, photo, tmp_path, capsys):
    assert client.main([str(photo), "--server", "http://127.0.0.1:1", "-o", str(tmp_path / "x.mp4")]) == 1
    assert "error" in capsys.readouterr().err


@pytest.fixture
def long_workflow(tmp_path):
    """A graph that samples for minutes when nobody stops it."""
    graph = api_graph("animate_photo")
    node_of(graph, "KSampler")["steps"] = 9_000
    path = tmp_path / "long.json"
    path.write_text(json.dumps(graph))
    return path


class Running:
    """The client at work in a thread, so that a hang fails the test."""

    def __init__(self, client, server, photo, workflow):
        self.code = []
        arguments = [str(photo), "--server", server.url, "--workflow", str(workflow)]
        arguments += ["--seed", str(time.time_ns() % 2**32), "-o", str(photo.with_name("out.mp4"))]
        self.thread = threading.Thread(target=lambda: self.code.append(client.main(arguments)), daemon=True)
        self.thread.start()

    def end(self, limit=60):
        """The exit code."""
        self.thread.join(limit)
        assert self.code, "the client hangs"
        return self.code[0]


def wait_for(server, key, count, timeout=60):
    """The prompt ids in one half of the queue, once there are `count`."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ids = [item[1] for item in server.get("/queue")[key]]
        if len(ids) >= count:
            return ids
        time.sleep(0.1)
    raise TimeoutError(server.log_tail())


def test_client_says_that_its_prompt_was_deleted_from_the_queue(host, client, photo, long_workflow, capsys):
    first = host.queue(json.loads(long_workflow.read_text()))
    wait_for(host, "queue_running", 1)
    running = Running(client, host, photo, long_workflow)
    (waiting,) = wait_for(host, "queue_pending", 1)
    time.sleep(1.5)
    assert not running.code, "a prompt that waits is waited for"
    host.post("/queue", {"delete": [waiting]})
    try:
        assert running.end() == 1
    finally:
        host.post("/interrupt", {})
        host.wait(first)
    assert "neither in the queue nor in the history" in capsys.readouterr().err


def test_client_says_that_its_prompt_was_cancelled(host, client, photo, long_workflow, capsys):
    running = Running(client, host, photo, long_workflow)
    wait_for(host, "queue_running", 1)
    time.sleep(1)
    host.post("/interrupt", {})
    assert running.end() == 1 and "was cancelled" in capsys.readouterr().err


def test_client_says_that_the_server_was_restarted(client, photo, long_workflow, tmp_path, capsys):
    hosts = find_hosts()
    if not hosts:
        pytest.skip(MISSING)
    with HostServer(hosts[-1], tmp_path / "base") as server:
        running = Running(client, server, photo, long_workflow)
        wait_for(server, "queue_running", 1)
        server.process.kill()
        server.stop()
        server.start()
        assert running.end() == 1
    err = capsys.readouterr().err
    assert "waiting up to 60 s for it to come back" in err and "was restarted and has forgotten it" in err


def test_client_refuses_a_missing_output_folder_before_it_asks_the_server(client, photo, tmp_path, capsys):
    assert client.main([str(photo), "--server", "http://127.0.0.1:1", "-o", str(tmp_path / "no" / "x.mp4")]) == 1
    assert "does not exist; create it first" in capsys.readouterr().err
