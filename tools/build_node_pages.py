#!/usr/bin/env python3
"""Write docs/nodes.md and node_list.json from the schemas of the nodes, as a real host tells them.

    python tools/build_node_pages.py                          with the first host found
    python tools/build_node_pages.py --host ~/comfyui-0.33.0  with this one

node_list.json is what ComfyUI-Manager reads: a line for each node id. Both pages come out the same on every host
and with any files on disk; tests/nodes/inhost/test_inhost_node_pages.py holds them to the schemas.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from node_promises import promised  # noqa: E402
from real_hosts import MISSING, find_hosts, host_python  # noqa: E402

LONGEST = 48  # characters of a default that are shown
HEAD = """# Nodes

Written by `tools/build_node_pages.py` from the nodes themselves; change those, not this page. Names and their order are
what saved graphs rely on. Inputs read `name` type = default (range); optional ones are in *italics*, and choices that
are files on disk are left out. Each node's own page says more: select the node and press *?*, or follow its link.
"""
COLUMNS = ("| node | what it does | inputs | outputs |", "|---|---|---|---|")


def first_clause(text: str) -> str:
    """What a description says up to its first colon, semicolon or full stop."""
    return re.split(r"[.:;](?:\s|$)", text, maxsplit=1)[0]


def shown_value(value) -> str:
    """A value as people write it: limits beyond 32 bits as powers of two."""
    if isinstance(value, int) and value > 2**32 and value & (value + 1) == 0:
        return f"2^{value.bit_length()} - 1"
    return f"{value:g}" if isinstance(value, float) else str(value)


def input_text(given: dict) -> str:
    """One input as Markdown."""
    text = f"`{given['name']}` {given['type'].lower()}"
    if "default" in given and given["default"] != "":
        shown = " ".join(shown_value(given["default"]).split())
        shown = shown if len(shown) <= LONGEST else shown[:LONGEST].rstrip() + " …"
        text += " = " + shown.replace("|", "\\|")
    if "min" in given:
        text += f" ({shown_value(given['min'])} to {shown_value(given['max'])})"
    if "choices" in given:
        text += f" ({', '.join(map(str, given['choices']))})"
    return text if given["group"] == "required" else f"*{text}*"


def row(node) -> str:
    """One node as a row of its category's table."""
    schema, promises = node.GET_SCHEMA(), promised(node)
    inputs = "<br>".join(map(input_text, promises["inputs"]))
    outputs = "<br>".join(f"`{name}` {kind.lower()}" for name, kind in promises["outputs"])
    title = f"[{schema.display_name}](../web/docs/{schema.node_id}.md)<br>`{schema.node_id}`"
    return f"| {title} | {schema.description} | {inputs} | {outputs} |"


def pages(nodes: list) -> dict[Path, str]:
    """Text of each page, from our node classes in the order the pack lists them."""
    categories: dict[str, list] = {}
    for node in nodes:
        categories.setdefault(node.GET_SCHEMA().category, []).append(node)
    tables = ["\n".join([f"## {name}", "", *COLUMNS, *map(row, members)]) for name, members in categories.items()]
    told = {node.GET_SCHEMA().node_id: first_clause(node.GET_SCHEMA().description) for node in nodes}
    return {
        ROOT / "docs" / "nodes.md": HEAD + "\n" + "\n\n".join(tables) + "\n",
        ROOT / "node_list.json": json.dumps(told, indent=2, ensure_ascii=False) + "\n",
    }


def write_inside(host: str) -> None:
    """In the host's own Python: load the pack as the host does and write the pages."""
    sys.path[:0] = [host, str(ROOT / "tests")]
    from comfy.cli_args import args

    with tempfile.TemporaryDirectory() as base:
        args.cpu, args.base_directory = True, base
        import conftest

        async def listed():
            return await (await conftest.mount_pack().comfy_entrypoint()).get_node_list()

        for path, text in pages(asyncio.run(listed())).items():
            path.write_text(text, encoding="utf-8")


def main() -> int:
    """Start this file again with the Python of a host."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", type=Path, help="a ComfyUI folder; without it the first one found")
    host = parser.parse_args().host or next(iter(find_hosts()), None)
    if host is None:
        parser.error(MISSING)
    host = host.expanduser().resolve()
    environment = {**os.environ, "MOTIONBLOCKS_HOST": str(host)}
    return subprocess.run([host_python(host), __file__], env=environment).returncode


if __name__ == "__main__":
    inside = os.environ.pop("MOTIONBLOCKS_HOST", "")
    sys.exit(write_inside(inside) if inside else main())
