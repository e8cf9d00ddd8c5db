"""Open a host's page in an installed headless Chromium."""

import contextlib
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
READY = "() => window.app && window.LiteGraph && Object.keys(LiteGraph.registered_node_types || {}).length > 100"


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
