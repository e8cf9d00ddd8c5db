"""A real ComfyUI in this process, on the CPU, with folders of its own: set up before anything of it is imported."""

import asyncio
import importlib
import inspect
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

HOST = os.environ["MOTIONBLOCKS_HOST"]
BASE = Path(tempfile.mkdtemp(prefix="motionblocks-host-"))
sys.path.insert(0, HOST)

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.base_directory = str(BASE)
for kind in ("diffusion_models", "loras", "vae", "text_encoders"):
    (BASE / "models" / kind).mkdir(parents=True)
for folder in ("input", "output", "temp", "custom_nodes"):
    (BASE / folder).mkdir()

import pack  # noqa: E402  (mounted by tests/conftest.py)
import torch  # noqa: E402
import utils.extra_config  # noqa: E402, F401  (before `nodes`, which shadows the host's own package `utils`)

import nodes as host_nodes  # noqa: E402

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
sys.path.insert(0, str(Path(__file__).parent))
# Triton reads TRITON_INTERPRET when it decorates a kernel: interpreted kernels get a process of their own.
INTERPRETED = ["test_inhost_kernels.py"]
here = {path.name for path in Path(__file__).parent.glob("test_*.py")}
collect_ignore = sorted(here - set(INTERPRETED)) if os.environ.get("TRITON_INTERPRET") == "1" else INTERPRETED
CORE_EXTRAS = ("nodes_custom_sampler", "nodes_model_advanced", "nodes_post_processing", "nodes_easycache", "nodes_slg",
               "nodes_model_merging", "nodes_torch_compile", "nodes_context_windows")  # fmt: skip


def pytest_sessionfinish():
    import shutil

    shutil.rmtree(BASE, ignore_errors=True)


async def nodes_of(module):
    """Node classes behind a module's comfy_entrypoint, which may be plain or async."""
    extension = module.comfy_entrypoint()
    if inspect.isawaitable(extension):
        extension = await extension
    return await extension.get_node_list()


@pytest.fixture(scope="session")
def models_folder():
    return BASE / "models" / "diffusion_models"


@pytest.fixture(scope="session")
def loras_folder():
    return BASE / "models" / "loras"


@pytest.fixture(scope="session")
def vae_folder():
    return BASE / "models" / "vae"


@pytest.fixture(scope="session")
def text_folder():
    return BASE / "models" / "text_encoders"


@pytest.fixture(scope="session")
def oracle():
    """Folder that one of tests/nodes/oracles filled: oracle("name") -> Path."""
    folder = Path(os.environ["MOTIONBLOCKS_ORACLES"])
    return lambda name: folder / name


@pytest.fixture(scope="session")
def ours():
    """Our node classes by id without the prefix."""
    return {node.GET_SCHEMA().node_id.removeprefix("MotionBlocks"): node for node in asyncio.run(nodes_of(pack))}


@pytest.fixture(scope="session")
def core():
    """Call a core node of this host by id, whichever form it has: core("KSampler", model=…) -> outputs."""
    found = dict(host_nodes.NODE_CLASS_MAPPINGS)
    for name in CORE_EXTRAS:
        module = importlib.import_module(f"comfy_extras.{name}")
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        if hasattr(module, "comfy_entrypoint"):
            found |= {node.GET_SCHEMA().node_id: node for node in asyncio.run(nodes_of(module))}

    def call(name, **inputs):
        node = found[name]
        if hasattr(node, "GET_SCHEMA"):
            return node.execute(**inputs).args
        return getattr(node(), node.FUNCTION)(**inputs)

    return call


@pytest.fixture(scope="session")
def figure():
    """figure(name, value): a number that a benchmark prints; kept where it asked for them."""
    kept = {}
    yield kept.__setitem__
    if "MOTIONBLOCKS_FIGURES" in os.environ:
        Path(os.environ["MOTIONBLOCKS_FIGURES"]).write_text(json.dumps(kept))


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    """The host executes nodes in inference mode."""
    with torch.inference_mode():
        yield
