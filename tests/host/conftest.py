"""Servers and a browser for the tests against real hosts; everything skips in one line where they are missing."""

import signal

import pytest
from host_page import find_browser, open_browser
from host_server import HostServer
from real_hosts import MISSING, find_hosts

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
def browser():
    """A headless Chromium."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if find_browser() is None:
        pytest.skip("no Chromium installed")
    with open_browser() as instance:
        yield instance
