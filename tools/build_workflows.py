#!/usr/bin/env python3
"""Build workflows/*.json (for the page) and their thumbnails from workflows/api/*.json, inside a real frontend.

    python tools/build_workflows.py --host ~/comfyui-0.33.0 [--only animate_photo] [--thumbnails]

The API graphs are the source. The page itself loads them, lays them out, adds groups and notes, and serialises.
Graphs that need public weights are built among tiny stand-ins (which need diffusers and sentencepiece); their thumbnail
is a picture of the graph. Needs playwright and an installed Chromium.
"""

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in ("tests/helpers", "tests/host", "tools"):
    sys.path.insert(0, str(ROOT / folder))

from host_page import open_browser, open_page  # noqa: E402
from host_server import HostServer, decode_video, saved_video  # noqa: E402
from workflow_layouts import (  # noqa: E402
    LAYOUTS,
    NEED_WEIGHTS,
    NEWER_NODES,
    NODE_SIZES,
    NODE_WIDTH,
    SIZES_IN,
    WAN_WEIGHTS,
)

WIDTH, HEIGHT = 1920, 1080
BUILD = """
async ({api, name, stacks, sizes, width, pack}) => {
  const TITLE = 30, GAP = 24, PAD = 20, HEAD = 44, BETWEEN = 50;
  await app.loadApiJson(api, name);
  const graph = app.graph;
  for (const node of graph._nodes) {
    const wanted = sizes[node.type] || [width, 0], least = node.computeSize();
    node.setSize([Math.max(wanted[0], least[0]), Math.max(wanted[1], least[1])]);
    for (const widget of node.widgets || []) if (widget.name === 'control_after_generate') widget.value = 'fixed';
    if (node.type.startsWith('MotionBlocks')) Object.assign(node.properties, pack);
  }
  const make = (item) => {
    if (typeof item === 'string') return graph.getNodeById(Number(item));
    const node = LiteGraph.createNode('MarkdownNote');
    graph.add(node);
    node.title = item.title;
    node.widgets[0].value = item.note;
    node.setSize(item.size);
    node.color = '#432'; node.bgcolor = '#653';
    return node;
  };
  let left = 0;
  for (const stack of stacks) {
    let top = 0, widestGroup = 0;
    for (const spec of stack) {
      let x = left + PAD, height = 0;
      for (const column of spec.columns) {
        let y = top + HEAD, widest = 0;
        for (const item of column) {
          const node = make(item);
          node.pos = [x, y + TITLE];
          y += TITLE + node.size[1] + GAP;
          widest = Math.max(widest, node.size[0]);
        }
        x += widest + BETWEEN;
        height = Math.max(height, y - top);
      }
      const box = new LiteGraph.LGraphGroup(spec.title);
      box.pos = [left, top];
      box.size = [x - BETWEEN + PAD - left, height];
      box.color = spec.color;
      graph.add(box);
      top += height + BETWEEN;
      widestGroup = Math.max(widestGroup, box.size[0]);
    }
    left += widestGroup + BETWEEN;
  }
  const data = graph.serialize();
  const right = Math.max(...data.groups.map((g) => g.bounding[0] + g.bounding[2]));
  const bottom = Math.max(...data.groups.map((g) => g.bounding[1] + g.bounding[3]));
  const scale = Math.min(1, 1720 / right, 900 / bottom);
  data.extra = {ds: {scale, offset: [90 / scale, 100 / scale]}};
  return JSON.stringify(data);
}
"""


def pack_properties():
    """Return the registry name and version that tell the Manager where our nodes come from."""
    text = (ROOT / "pyproject.toml").read_text()
    name, version = (re.search(rf'^{key} = "(.+)"', text, re.M).group(1) for key in ("name", "version"))
    return {"cnr_id": name, "ver": version}


def build_page_graph(page, name, api):
    """Turn an API graph into the text of the page's own format, laid out by LAYOUTS[name]."""
    sizes = {key: list(size) for key, size in {**NODE_SIZES, **SIZES_IN.get(name, {})}.items()}
    settings = {"api": api, "name": name, "stacks": LAYOUTS[name], "sizes": sizes, "width": NODE_WIDTH}
    return json.loads(page.evaluate(BUILD, {**settings, "pack": pack_properties()}))


def write_thumbnail(server, api, target, width=480):
    """Run the graph and save its first frame and two later ones side by side as a JPEG."""
    from PIL import Image

    frames, _ = decode_video(server.download(saved_video(server.run(api))))
    chosen = [Image.fromarray(frames[i]) for i in (0, len(frames) // 4, 3 * len(frames) // 4)]
    sheet = Image.new("RGB", (sum(f.width for f in chosen) + 16, chosen[0].height), "white")
    for index, frame in enumerate(chosen):
        sheet.paste(frame, (index * (frame.width + 8), 0))
    sheet.resize((width, round(sheet.height * width / sheet.width)), Image.LANCZOS).save(target, quality=85)


def write_picture(page, graph, target, width=640, scale=0.8):
    """Save a picture of the whole graph, as the page draws it at this scale, as a JPEG."""
    from PIL import Image

    boxes = [box["bounding"] for box in graph["groups"]]
    right, bottom = (round(scale * max(box[i] + box[2 + i] for box in boxes)) for i in (0, 1))
    page.set_viewport_size({"width": right + 500, "height": bottom + 400})  # menus keep clear of it
    seen = {**graph, "extra": {"ds": {"scale": scale, "offset": [100 / scale, 110 / scale]}}}
    page.evaluate("async (text) => { await app.loadGraphData(JSON.parse(text)); }", json.dumps(seen))
    page.wait_for_timeout(2500)
    clip = {"x": 92, "y": 102, "width": right + 16, "height": bottom + 16}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    picture.resize((width, round(picture.height * width / picture.width)), Image.LANCZOS).save(target, quality=85)


def main():
    """Build every workflow, or the one named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", type=Path, required=True, help="a ComfyUI folder with its own .venv")
    parser.add_argument("--only", help="one workflow's name")
    parser.add_argument("--thumbnails", action="store_true", help="also run each graph and write its .jpg")
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="motionblocks-"))
    names = [args.only] if args.only else list(LAYOUTS)
    if set(names) & set(NEED_WEIGHTS):
        from tiny_weights import write_models

        write_models(base / "base" / "models")
    try:
        with HostServer(args.host.expanduser().resolve(), base / "base") as server, open_browser() as browser:
            page, _ = open_page(browser, server, width=WIDTH, height=HEIGHT)
            for name in names:
                api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
                target = ROOT / "workflows" / f"{name}.json"
                graph = build_page_graph(page, name, api)
                target.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n")
                print(target)
                if args.thumbnails:
                    picture = target.with_suffix(".jpg")
                    if name in (*NEED_WEIGHTS, *WAN_WEIGHTS, *NEWER_NODES):
                        write_picture(page, graph, picture)
                    else:
                        write_thumbnail(server, api, picture)
                    print(picture)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
