"""Servers and a browser for the tests against real hosts; everything skips in one line where they are missing."""

import signal

import numpy as np
import pytest
from host_page import find_browser, open_browser
from host_server import HostServer
from real_hosts import MISSING, find_hosts
from shipped_workflows import CUT_DOWN, api_graph, video_of

HOSTS = find_hosts()


def pytest_configure():
    """Being asked to end is like Ctrl-C: servers and browsers are stopped on the way out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda folder: folder.name if folder else "no-host")
def host(request, tmp_path_factory):
    """A running host with the pack in it, one server per host and session."""
    if request.param is None:
        pytest.skip(MISSING)
    with HostServer(request.param, tmp_path_factory.mktemp("host") / "base") as server:
        yield server


@pytest.fixture(scope="session")
def shipped_frames(host):
    """A function from a shipped workflow's name to its video, (t, h, w, 3) float in [0, 255], and its rate.

    Each graph of workflows/api runs once a host. shown: the same graph as the page has just run it; the host then
    answers with what it still holds of each node whose inputs are equal, so optional inputs are taken from it.
    """
    made = {}

    def frames_by_name(name, shown=None):
        if name not in made:
            graph = api_graph(name)
            for node_id, node in graph.items() if shown else ():
                node["inputs"] = shown[node_id]["inputs"] | node["inputs"]
            for kind, fewer in CUT_DOWN.get(name, {}).items():
                for node in graph.values():
                    if node["class_type"] == kind:
                        node["inputs"].update(fewer)
            made[name] = video_of(host, graph)
        frames, fps = made[name]
        return frames.astype(np.float32), fps

    return frames_by_name


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if find_browser() is None:
        pytest.skip("no Chromium installed")
    with open_browser() as instance:
        yield instance
