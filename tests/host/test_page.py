"""The shipped workflows open in the real page: no red node, no dialog, and they mean the same as their API twins."""

import json
from pathlib import Path

import pytest
from host_page import open_page, take_screenshot
from host_server import saved_video
from shipped_workflows import ALL, CUT_DOWN, PROMISES, api_graph, files_listed, lacking, page_graph

pytestmark = [pytest.mark.host, pytest.mark.browser]

OPEN = "async (text) => { await app.loadGraphData(JSON.parse(text)); }"
BROKEN = """() => app.graph._nodes
  .filter((node) => node.has_errors || !LiteGraph.registered_node_types[node.type])
  .map((node) => node.type)"""
BOXES = """() => app.graph._nodes.map((n) => (
  {title: n.title, x: n.pos[0], y: n.pos[1] - 30, w: n.size[0], h: n.size[1] + 30}))"""
GROUPS = """() => app.graph._groups.map((g) => (
  {title: g.title, x: g.pos[0], y: g.pos[1], w: g.size[0], h: g.size[1]}))"""
EXPORT = "async () => JSON.stringify((await app.graphToPrompt()).output)"
SET_WIDGETS = """(kinds) => { for (const node of app.graph._nodes)
  for (const [name, value] of Object.entries(kinds[node.type] ?? {}))
    node.widgets.find((widget) => widget.name === name).value = value; }"""
NEWER_KEYS = {"codec", "format.codec", "bypass"}  # of core nodes, which older pages do not show


@pytest.fixture(scope="module")
def page(browser, host):
    """The host's page, opened once; `page.reported` collects the errors the page itself reports."""
    with files_listed(host.base / "models"):
        opened, reported = open_page(browser, host)
        opened.reported = reported
        yield opened
        opened.close()


def open_workflow(page, name):
    """Open a shipped workflow the way a drop of the file does, and let it settle.

    A dialog about the graph before it is closed: an old host names nodes it lacks, over everything.
    """
    if page.locator(".p-dialog-mask:visible").count():
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
    page.reported.clear()
    page.evaluate(OPEN, page_graph(name))
    page.wait_for_timeout(1500)


def edges(box):
    """Return left, top, right, bottom."""
    return box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]


def overlap(a, b):
    """Tell whether two boxes share area."""
    (a_left, a_top, a_right, a_bottom), (b_left, b_top, b_right, b_bottom) = edges(a), edges(b)
    return a_left < b_right and b_left < a_right and a_top < b_bottom and b_top < a_bottom


def inside(box, group):
    """Tell whether a box lies within a group."""
    (left, top, right, bottom), (g_left, g_top, g_right, g_bottom) = edges(box), edges(group)
    return left >= g_left and top >= g_top and right <= g_right and bottom <= g_bottom


def check_layout(page):
    """Insist that no two nodes or groups overlap and that every node sits inside a group."""
    nodes, groups = page.evaluate(BOXES), page.evaluate(GROUPS)
    for boxes in (nodes, groups):
        clashes = [(a["title"], b["title"]) for i, a in enumerate(boxes) for b in boxes[:i] if overlap(a, b)]
        assert clashes == []
    assert [box["title"] for box in nodes if not any(inside(box, group) for group in groups)] == []


@pytest.mark.parametrize("name", ALL)
def test_workflow_opens_without_a_red_node_or_a_dialog(page, host, name):
    open_workflow(page, name)
    if missing := lacking(host, name):  # an old host names what it lacks, and nothing of ours
        assert set(page.evaluate(BROKEN)) == missing
        page.keyboard.press("Escape")
        return
    assert page.evaluate(BROKEN) == [] and page.reported == []
    assert page.locator(".p-dialog:visible, .comfy-missing-nodes:visible, [role=dialog]:visible").count() == 0
    assert page.locator(".p-toast-message-error:visible").count() == 0
    take_screenshot(page, f"{name}-{host.folder.name}")


@pytest.mark.parametrize("name", ALL)
def test_layout_has_no_overlaps_and_every_node_sits_in_a_group(page, host, name):
    if lacking(host, name):
        pytest.skip("this host lacks nodes of it")
    open_workflow(page, name)
    check_layout(page)


@pytest.mark.parametrize("name", ALL)
def test_page_graph_exports_to_its_api_twin(page, host, name):
    if lacking(host, name):
        pytest.skip("this host lacks nodes of it")
    open_workflow(page, name)
    exported, twin = json.loads(page.evaluate(EXPORT)), api_graph(name)
    assert exported.keys() == twin.keys()
    for node_id, node in twin.items():
        inputs = exported[node_id]["inputs"]
        assert exported[node_id]["class_type"] == node["class_type"]
        assert set(node["inputs"]) - NEWER_KEYS <= set(inputs)
        assert {key: inputs[key] for key in node["inputs"] if key in inputs} == {
            key: value for key, value in node["inputs"].items() if key in inputs
        }


def wait_for_new_entry(page, host, before, num_polls=600):
    """Return the history entry that is not among the ids `before`, at the latest after num_polls half seconds."""
    for _ in range(num_polls):
        new = [entry for key, entry in host.get("/history").items() if key not in before]
        if new:
            return new[0]
        page.wait_for_timeout(500)
    raise TimeoutError(f"pressing Run left nothing in the history:\n{host.log_tail()}")


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_opening_and_pressing_run_makes_a_video(page, host, shipped_frames, name):
    before = set(host.get("/history"))
    open_workflow(page, name)
    page.evaluate(SET_WIDGETS, CUT_DOWN.get(name, {}))
    page.get_by_role("button", name="Run").first.click()
    page.evaluate("() => { app.canvas.pause_rendering = true; }")  # leaves the processor to the host
    entry = wait_for_new_entry(page, host, before)
    shipped_frames(name, json.loads(page.evaluate(EXPORT)))  # for test_workflows_run.py, while it costs little
    page.evaluate("() => { app.canvas.pause_rendering = false; app.canvas.setDirty(true, true); }")
    assert entry["status"]["status_str"] == "success" and saved_video(entry["outputs"])
    page.wait_for_timeout(2500)
    assert page.evaluate(BROKEN) == [] and page.reported == []
    check_layout(page)
    take_screenshot(page, f"{name}-after-run-{host.folder.name}")


def test_a_graph_saved_with_0_1_keeps_what_it_showed(page):
    """Its node Photo to Video has no values for the widgets that came later; new nodes and templates have others."""
    page.evaluate(OPEN, (Path(__file__).parent / "animate_photo_of_0_1.json").read_text())
    page.wait_for_timeout(1000)
    assert page.evaluate(BROKEN) == []
    (inputs,) = (node["inputs"] for node in json.loads(page.evaluate(EXPORT)).values()
                 if node["class_type"] == "MotionBlocksImageToVideo")  # fmt: skip
    assert (inputs["longer"], inputs["edges"]) == ("go on", "as in 0.1")
    assert (inputs["num_frames"], inputs["dynamics"], inputs["batch_size"]) == (16, 12, 1)
    page.evaluate("""() => { app.graph.clear();
      app.graph.add(LiteGraph.createNode('MotionBlocksImageToVideo')); }""")
    widgets = page.evaluate("() => Object.fromEntries(app.graph._nodes[0].widgets.map((w) => [w.name, w.value]))")
    assert (widgets["longer"], widgets["edges"], widgets["fps"]) == ("same move", "crop", 8)
