"""The loss curve inside the training node: drawn from messages, in the classic canvas and in Vue nodes."""

import pytest
from host_page import MODES, page_in_mode, take_screenshot

pytestmark = [pytest.mark.host, pytest.mark.browser]

NODE = "MotionBlocksTrainMotionModel"
ADD = """([type, count]) => { app.graph.clear(); for (let i = 0; i < count; i++) {
  const node = LiteGraph.createNode(type); app.graph.add(node); node.pos = [80 + 460 * i, 60]; }
  app.canvas.ds.scale = 0.75; app.canvas.ds.offset = [40, 40]; app.canvas.setDirty(true, true);
  return app.graph._nodes.map((node) => node.id); }"""
SEND = """async ([name, detail]) => { const { api } = await import('/scripts/api.js');
  api.dispatchEvent(new CustomEvent(name, { detail })); }"""
ORANGE = """() => Array.from(document.querySelectorAll('canvas[data-motionblocks=loss]')).map((canvas) => {
  if (!canvas.width || !canvas.height) return 0;
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] > 100 && data[i] > data[i + 2] + 80 && data[i] > data[i + 1] + 30) count++;
  return count; })"""
CURVE = [[step, 1.0 / step] for step in range(1, 41)]


@pytest.fixture(scope="module", params=MODES)
def page(browser, host, request):
    """The host's page in one way of drawing nodes; `page.reported` collects the errors that pass through our script."""
    with page_in_mode(browser, host, request.param) as opened:
        opened.reported = mine = []
        opened.on("pageerror", lambda error: mine.extend([error.stack] if "loss_curve" in error.stack else []))
        yield opened


def add_nodes(page, count):
    """Fill the page with training nodes; returns their ids."""
    ids = page.evaluate(ADD, [NODE, count])
    page.wait_for_timeout(1200)
    return ids


def send(page, node_id, points=CURVE, num_steps=80, name="motionblocks.loss"):
    """Let a message arrive as the server sends it."""
    page.evaluate(SEND, [name, {"node": str(node_id), "num_steps": num_steps, "points": points}])
    page.wait_for_timeout(400)


def test_a_message_draws_its_curve_in_its_own_node_only(page, host):
    first, second = add_nodes(page, 2)
    assert page.evaluate(ORANGE) == [0, 0]
    send(page, second)
    drawn = page.evaluate(ORANGE)
    assert sorted(drawn)[0] == 0 and sorted(drawn)[1] > 60
    send(page, first)
    assert min(page.evaluate(ORANGE)) > 60 and page.reported == []
    take_screenshot(page, f"loss-curve-{page.mode}-{host.folder.name}")


def test_a_finished_or_cached_run_draws_its_curve_too(page):
    (node_id,) = add_nodes(page, 1)
    detail = {"node": str(node_id), "output": {"motionblocks_loss": [{"points": CURVE, "num_steps": 40}]}}
    page.evaluate(SEND, ["executed", detail])
    page.wait_for_timeout(400)
    assert page.evaluate(ORANGE)[0] > 60


def test_broken_messages_and_removed_nodes_are_passed_over(page):
    (node_id,) = add_nodes(page, 1)
    for points in (None, [], [[1]], [["a", None]], [[1, None], [2, 0.5], [3, 0.4]]):
        send(page, node_id, points=points)
    send(page, 9999)
    page.evaluate("() => app.graph.remove(app.graph._nodes[0])")
    send(page, node_id)
    page.wait_for_timeout(300)
    assert page.reported == [] and page.evaluate(ORANGE) in ([], [0])


def test_curve_enters_neither_the_prompt_nor_the_saved_workflow(page):
    add_nodes(page, 1)
    saved = page.evaluate("() => JSON.stringify(app.graph.serialize().nodes[0])")
    assert "loss_curve" not in saved
    prompt = page.evaluate("async () => Object.values((await app.graphToPrompt()).output)[0].inputs")
    assert "loss_curve" not in prompt and prompt["steps"] == 200 and prompt["learning_rate"] == pytest.approx(1e-4)


def test_the_seed_stays_fixed_between_runs(page):
    add_nodes(page, 1)
    names = page.evaluate("() => app.graph._nodes[0].widgets.map((widget) => widget.name)")
    assert "seed" in names and "control_after_generate" not in names


WIDEN = """() => { const node = app.graph._nodes[0];
  node.setSize([900, node.size[1]]); app.canvas.setDirty(true, true); }"""
WIDTHS = """() => { const canvas = document.querySelector('canvas[data-motionblocks=loss]');
  return [canvas.width, canvas.clientWidth * devicePixelRatio, canvas.clientHeight]; }"""


def test_the_curve_fills_its_place_and_follows_the_nodes_width(page):
    (node_id,) = add_nodes(page, 1)
    send(page, node_id)
    before, shown, height = page.evaluate(WIDTHS)
    assert before == pytest.approx(shown, abs=1) and shown > 150 and height >= 100
    if page.mode == "classic":
        page.evaluate(WIDEN)
        page.wait_for_timeout(800)
        after, shown, _ = page.evaluate(WIDTHS)
        assert after == pytest.approx(shown, abs=1) and after > before + 200 and page.evaluate(ORANGE)[0] > 60


def test_a_new_node_has_room_for_the_curve(page):
    """In the classic canvas widgets hang below a node that is too short."""
    add_nodes(page, 1)
    if page.mode == "classic":
        room, need = page.evaluate("() => [app.graph._nodes[0].size[1], app.graph._nodes[0].computeSize()[1]]")
        assert room >= need - 1
