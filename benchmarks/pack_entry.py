"""Time from the host calling our entry point to its node list, in fresh processes of every host found. Writes JSON."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from builtin_common import ROOT, save, verdict

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from real_hosts import find_hosts, host_python  # noqa: E402

LIMIT_MS = 50
HEAVY = ("cv2", "diffusers", "triton", "torch._dynamo", "torch._inductor", "transformers", "accelerate", "av", "scipy")
CHILD = """
import asyncio, importlib.util, json, sys, time
host, root, base = sys.argv[1:4]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu, args.base_directory = True, base
import comfy_api.latest, comfy.sd, comfy.samplers
import utils.extra_config, nodes, server
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
started = time.perf_counter()
spec.loader.exec_module(module)
async def list_nodes():
    return await (await module.comfy_entrypoint()).get_node_list()
found = asyncio.run(list_nodes())
schemas = [node.GET_SCHEMA().node_id for node in found]
seconds = time.perf_counter() - started
print("RESULT" + json.dumps({"ms": seconds * 1000, "nodes": schemas, "modules": sorted(set(sys.modules) - before)}))
"""


def once(host: Path) -> dict:
    """One fresh process of the host: milliseconds, node ids, modules that came with us."""
    with tempfile.TemporaryDirectory() as base:
        for folder in ("input", "output", "temp", "models/diffusion_models"):
            (Path(base) / folder).mkdir(parents=True)
        done = subprocess.run(
            [host_python(host), "-c", CHILD, str(host), str(ROOT), base], capture_output=True, text=True, cwd=host
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise SystemExit(f"{host.name} did not start:\n{done.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix("RESULT"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    hosts = find_hosts()
    if not hosts:
        raise SystemExit("no ComfyUI folder found: set COMFYUI_PATH or put hosts at ~/comfyui-*; nothing measured")
    figures, rows = {}, []
    for host in hosts:
        once(host)  # writes the byte code
        runs = [once(host) for _ in range(repeats)]
        heavy = sorted({name for run in runs for name in run["modules"] if name in HEAVY})
        figures[f"{host.name}: entry, warm, ms"] = verdict(statistics.median(run["ms"] for run in runs), high=LIMIT_MS)
        figures[f"{host.name}: heavy modules we pulled in"] = ", ".join(heavy) or "none"
        rows += [{"host": host.name, **run} for run in runs]
    save("pack_entry", figures, rows)


if __name__ == "__main__":
    main()
