"""What meets the eye first: badges that cover nothing, text that can be read to its end, nodes that searches find."""

import re

import pytest
from host_page import MODES, open_details, page_in_mode, take_screenshot
from shipped_workflows import ALL
from test_page import edges, open_workflow, wait_for_new_entry

pytestmark = [pytest.mark.host, pytest.mark.browser]

BADGE = 22  # px that a badge stands above the title of our nodes
BOXES = """() => app.graph._nodes.map((n) => ({title: n.title, ours: n.type.startsWith('MotionBlocks'),
  x: n.pos[0], y: n.pos[1] - 30, w: n.size[0], h: n.size[1] + 30}))"""
SHOW = """async ([type, width, text]) => {
  app.graph.clear();
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  node.pos = [60, 40]; node.setSize([width, node.size[1]]);
  app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [120, 100];
  const { api } = await import('/scripts/api.js');
  api.dispatchEvent(new CustomEvent('progress_text', { detail: { nodeId: String(node.id), text } }));
  app.canvas.setDirty(true, true); }"""
BOX = """() => {
  const box = document.querySelector('[data-motionblocks-text], [node-type^=MotionBlocks] [role=textarea]');
  const text = [...box.querySelectorAll('span, p')].pop() ?? box, style = getComputedStyle(text);
  const node = app.graph._nodes[0], room = node.size[1], need = node.computeSize()[1];
  return {shown: box.clientHeight, whole: box.scrollHeight, wordBreak: style.wordBreak, room, need,
          lines: text.innerText.trim().split('\\n').length}; }"""
REPORT = "\n".join((
    "10 samples of 10 clips, stride 2 to 2, motion bucket 3 to 19", "latents: 8 frames of 8x8 (10)",
    "cache: 0 samples found, 10 made",
    "lora: 504,608 trained numbers, 120 steps of 1, 165.3 s in this run, 0.7 s of it drawing data",
    "loss 4.77 at first, 1.889 at last (means of 12)",
    "weights: /home/somebody/comfyui/output/loras/jelly_00001.safetensors",
    "state: /home/somebody/comfyui/output/motionblocks/training/jelly/run-0001/state-00000120",
))  # fmt: skip
SEARCH = """(words) => {
  const root = [...document.querySelectorAll('*')].find((element) => element.__vue_app__);
  const service = root.__vue_app__.config.globalProperties.$pinia._s.get('nodeDef').nodeSearchService;
  return Object.fromEntries(words.map((word) => [word,
    service.searchNode(word, [], {limit: 64}).map((node) => node.name)])); }"""
NODE = "MotionBlocksImageToVideo"
WORDS = ["animate", "zoom", "camera", "pan", "swing", "ken burns", "motion brush", "parallax", "image to video"]
WORDS += ["photo"]
SET_PROMPT = """(text) => { const node = app.graph._nodes.find((one) => one.type === 'CLIPTextEncode');
  node.widgets[0].value = text; app.canvas.setDirty(true, true); }"""


@pytest.fixture(scope="module", params=MODES)
def page(browser, host, request):
    """The host's page in one way of drawing nodes."""
    with page_in_mode(browser, host, request.param) as opened:
        yield opened


def covers(box, other, badge):
    """Whether `box`, with a badge of so many px above it, reaches into `other`, which lies above."""
    left, top, right, _ = edges(box)
    o_left, o_top, o_right, o_bottom = edges(other)
    return left < o_right and o_left < right and o_top < top < o_bottom + badge


@pytest.mark.parametrize("name", ALL)
def test_no_badge_covers_the_node_above(page, host, name):
    open_workflow(page, name)
    boxes, badge = page.evaluate(BOXES), BADGE if page.mode == "classic" else 0  # Vue nodes have it inside
    ours = [box for box in boxes if box["ours"]]
    clashes = [(a["title"], b["title"]) for a in ours for b in boxes if a is not b and covers(a, b, badge)]
    assert clashes == []
    take_screenshot(page, f"badges-{name}-{page.mode}-{host.folder.name}")


@pytest.mark.parametrize("kind", ["MotionBlocksTrainMotionModel", "MotionBlocksMeasureDynamics", NODE])
def test_text_under_a_node_breaks_between_words_and_is_seen_to_its_last_line(page, host, kind):
    page.evaluate(SHOW, [kind, 420, REPORT])
    page.wait_for_timeout(1500)
    box = page.evaluate(BOX)
    assert box["wordBreak"] == "normal" and box["lines"] >= 7, box
    assert box["shown"] >= box["whole"] > 100 and box["room"] >= box["need"] - 1, box
    take_screenshot(page, f"text-{kind}-{page.mode}-{host.folder.name}")


def test_a_line_as_short_as_before_takes_no_more_room(page):
    if page.mode == "classic":
        page.evaluate(SHOW, [NODE, 420, "16 frames"])
        page.wait_for_timeout(1000)
        assert page.evaluate("() => app.graph._nodes[0].widgets.at(-1).computedHeight") < 80


def test_scripts_are_loaded_once(page, host):
    for script in ("loss_curve.js", "node_text.js"):
        assert len([path for path in host.get("/extensions") if path.endswith(script)]) == 1
    names = page.evaluate("() => app.extensions.map((extension) => extension.name)")
    assert [names.count(f"MotionBlocks.{name}") for name in ("LossCurve", "NodeText")] == [1, 1]


def test_help_pages_answer_where_the_page_asks_first(host):
    for name in (name for name in host.get("/object_info") if name.startswith("MotionBlocks")):
        assert host.get(f"/extensions/ComfyUI-MotionBlocks/docs/{name}/en.md", raw=True).startswith(b"# ")


def test_searching_for_what_people_want_finds_photo_to_video(page, host):
    found = page.evaluate(SEARCH, WORDS)
    if host.folder.name.endswith("0.3.64"):  # searches ids and titles alone
        found = {word: found[word] for word in ("image to video", "photo")}
    ours = {word: [name for name in names if name.startswith("MotionBlocks")] for word, names in found.items()}
    ours["camera"] = [name for name in ours.get("camera", [NODE]) if name != "MotionBlocksMakeCameraClips"]  # by name
    assert {word: names[:1] for word, names in ours.items()} == {word: [NODE] for word in ours}
    few = {word: found[word].index(NODE) for word in ("zoom", "swing", "ken burns", "motion brush") if word in found}
    assert all(place < 3 for place in few.values()), few


def test_an_error_tells_a_short_name_and_the_sentence_that_helps(page, host):
    before = set(host.get("/history"))
    open_workflow(page, "animate_photo")
    page.evaluate(SET_PROMPT, "a dragon")
    page.get_by_role("button", name="Run").first.click()
    assert wait_for_new_entry(page, host, before)["status"]["status_str"] == "error"
    page.wait_for_timeout(2000)
    open_details(page)
    take_screenshot(page, f"error-{page.mode}-{host.folder.name}")
    shown = page.evaluate("() => document.body.innerText")
    page.keyboard.press("Escape")
    assert "unknown word 'dragon' in the prompt; nearest is 'down'; known motions: pan left, pan right" in shown, shown
    assert set(re.findall(r"(\S*)ConfigError", shown)) <= {"", "MotionBlocks."}, "no path stands before the name"
