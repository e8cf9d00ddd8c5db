"""Open a host's page in an installed headless Chromium."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
READY = "() => window.app && window.LiteGraph && Object.keys(LiteGraph.registered_node_types || {}).length > 100"
MODES = ("classic", "vue")  # ways of drawing nodes


def find_browser():
    """Return the path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def open_browser():
    """Yield a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser, server, *, width=1600, height=900):
    """Open the host's page, past its first-visit dialog; return (page, list that collects page errors)."""
    server.post("/settings", {"Comfy.TutorialCompleted": True})
    page = browser.new_page(viewport={"width": width, "height": height})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url, timeout=120_000)
    page.wait_for_function(READY, timeout=120_000)
    page.wait_for_timeout(1500)
    return page, errors


@contextlib.contextmanager
def page_in_mode(browser, server, mode):
    """Yield the host's page in one of MODES; `page.mode` names it, `page.reported` collects what the page reports."""
    if mode == "vue" and server.folder.name.endswith("0.3.64"):
        pytest.skip("this frontend has no Vue nodes")
    server.post("/settings", {"Comfy.VueNodes.Enabled": mode == "vue"})
    try:
        page, errors = open_page(browser, server)
        page.mode, page.reported = mode, errors
        yield page
        page.close()
    finally:
        server.post("/settings", {"Comfy.VueNodes.Enabled": False})


def open_details(page):
    """Newer frontends tell the text of an error on request."""
    if page.get_by_text("View details").count():
        page.get_by_text("View details").first.click()
        page.wait_for_timeout(2000)


def take_screenshot(page, name):
    """Keep a picture of the page for a person to look at, when MOTIONBLOCKS_SCREENSHOTS names a folder."""
    folder = os.environ.get("MOTIONBLOCKS_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
