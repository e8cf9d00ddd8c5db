"""Servers and a browser for the tests against real hosts; everything skips in one line where they are missing."""

import shutil

import pytest
from host_server import HostServer, find_hosts

HOSTS = find_hosts()
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_terminal_summary(terminalreporter):
    """Say which hosts the run used, loudly when it was fewer than two."""
    names = ", ".join(folder.name for folder in HOSTS) or "none"
    if len(HOSTS) >= 2:
        terminalreporter.write_line(f"hosts tested: {names}")
        return
    terminalreporter.section("FEWER THAN TWO HOSTS", sep="!", red=True, bold=True)
    terminalreporter.write_line(f"hosts found: {names}. Node changes need two: the oldest (0.3.64) and a new one.")
    terminalreporter.write_line("Set COMFYUI_PATH to their folders (separated by ':'), or put them at ~/comfyui-*.")


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda folder: folder.name if folder else "no-host")
def host(request, tmp_path_factory):
    """A running host with the pack in it, one server per host and session."""
    if request.param is None:
        pytest.skip("no ComfyUI folder: set COMFYUI_PATH or put hosts at ~/comfyui-*")
    with HostServer(request.param, tmp_path_factory.mktemp("host") / "base") as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium installed")
    with sync_api.sync_playwright() as driver:
        instance = driver.chromium.launch(executable_path=path, headless=True, args=BROWSER_FLAGS)
        yield instance
        instance.close()
