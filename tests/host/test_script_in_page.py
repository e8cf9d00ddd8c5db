"""A script planted in a caption, a clip's name and a widget never runs in the page, and its text can be read there."""

import shutil

import pytest
from host_page import MODES, open_details, page_in_mode, take_screenshot
from host_server import ROOT

pytestmark = [pytest.mark.host, pytest.mark.browser]

FOLDER = "planted"
RAN = "() => window.planted ?? null"
ALIEN = "() => document.querySelectorAll('img[src=x], [onerror], script[data-planted]').length"
QUEUE = """async ([specs, links]) => {
  app.graph.clear();
  const nodes = specs.map(([type, values], place) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [60 + 480 * place, 80];
    for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
    return node;
  });
  for (const [from, output, to, input] of links) nodes[from].connect(output, nodes[to], input);
  app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [40, 40]; app.canvas.setDirty(true, true);
  await app.queuePrompt(0, 1);
}"""


def script(place):
    """Markup that tells on itself when a page takes it for HTML. It can stand in a file name."""
    return f"<img src=x onerror=\"window.planted='{place}'\"><script data-planted>window.planted='{place}'<\\script>"


@pytest.fixture(scope="module", params=MODES)
def page(browser, host, request):
    """The host's page in one way of drawing nodes."""
    with page_in_mode(browser, host, request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def planted(host):
    """A folder of clips with scripts in a caption and in two names; one clip has no caption, one is no video."""
    folder = host.base / "input" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    clip = next((ROOT / "assets" / "clips" / "jelly").glob("*.mp4"))
    for name in ("plain", f"name {script('name')}"):
        shutil.copy(clip, folder / f"{name}.mp4")
    (folder / "plain.txt").write_text(f"caption {script('caption')}")
    (folder / f"broken {script('broken name')}.mp4").write_bytes(b"no video")
    return FOLDER


def queue(page, host, nodes, links=()):
    """Put nodes on the page, run them from there, wait for the end and for what the page makes of it."""
    before = set(host.get("/history"))
    page.evaluate(QUEUE, [nodes, links])
    for _ in range(240):
        page.wait_for_timeout(250)
        new = [entry for key, entry in host.get("/history").items() if key not in before]
        if new:
            page.wait_for_timeout(2000)
            return new[0]
    raise TimeoutError(host.log_tail())


def check(page, host, name):
    """Nothing ran and nothing was built."""
    take_screenshot(page, f"{name}-{page.mode}-{host.folder.name}")
    assert page.evaluate(RAN) is None and page.evaluate(ALIEN) == 0


def test_scripts_in_captions_names_and_widgets_are_text_under_the_node(page, host, planted):
    load = {"folder": planted, "fps": 8.0, "default_caption": f"widget {script('widget')}", "require_captions": False}
    entry = queue(page, host, [["MotionBlocksLoadClips", load], ["PreviewAny", {}]], [[0, 2, 1, 0]])
    assert entry["status"]["status_str"] == "success"
    check(page, host, "script-in-clips")
    shown = page.evaluate("() => document.body.innerText")
    for place in ("caption", "widget", "broken name"):
        assert f"{place.split()[0]} ‹img src=x" in shown, place
    assert "&lt;" not in shown


def test_a_script_in_a_refused_widget_is_text_in_the_errors_dialog(page, host):
    bad = f"zoom {script('prompt')}"
    nodes = [["MotionBlocksLoadBuiltin", {}], ["MotionBlocksEncodePrompts", {"positive": bad}], ["PreviewAny", {}]]
    entry = queue(page, host, nodes, [[0, 1, 1, 0], [1, 0, 2, 0]])
    assert entry["status"]["status_str"] == "error"
    open_details(page)
    check(page, host, "script-in-error")
    assert "unknown word" in page.evaluate("() => document.body.innerText")
    page.keyboard.press("Escape")


def test_a_script_in_a_name_that_is_not_there_is_text_where_the_page_shows_it(page, host):
    nodes = [["MotionBlocksLoadModel", {"model_name": script("name")}], ["PreviewAny", {}]]
    page.evaluate(QUEUE, [nodes, [[0, 0, 1, 0]]])
    page.wait_for_timeout(2000)
    open_details(page)
    check(page, host, "script-in-validation")
    if host.folder.name.endswith("0.3.64"):  # newer frontends tell it in a tooltip
        assert "is not in models/diffusion_models" in page.evaluate("() => document.body.innerText")
    page.keyboard.press("Escape")
