"""The sample client takes a user's photo through a real host and back."""

import importlib.util

import numpy as np
import pytest
from host_server import ROOT, decode_video

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
