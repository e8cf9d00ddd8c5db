"""What the shipped rooms must not contain, found by reading their syntax: see SECURITY.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("__init__.py", "__main__.py", "nodes", "motion", "kernels")
WRITER = "motion/io/files/atomic.py"
BANNED_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess", "multiprocessing", "pty",
    "ctypes", "socket", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "huggingface_hub", "pip",
    "tempfile", "shutil", "webbrowser", "runpy", "code",
}  # fmt: skip
BANNED_NAMES = {"eval", "exec", "compile", "__import__", "breakpoint"}
BANNED_CALLS = re.compile(
    r"torch\.(save|load)|torch\.jit\.load|torch\.package\..*|torch\.hub\..*"
    r"|os\.(system|popen|startfile|fork|kill|remove|unlink|rename|replace|link|mkdir|makedirs|rmdir|chmod|open"
    r"|exec\w*|spawn\w*|posix_spawn\w*|truncate|symlink)"
    r"|(np|numpy)\.(save\w*|load\w*|memmap|fromfile)|safetensors\.torch\.save\w*|importlib\.import_module"
)
BANNED_METHODS = {"write_text", "write_bytes", "unlink", "rmdir", "mkdir", "touch", "rename", "tofile", "add_routes",
                  "symlink_to", "hardlink_to"}  # fmt: skip
# Each exception names a file and what it may do.
ALLOWED = {
    WRITER: {"import shutil", "os.open", "os.replace", "os.rename", "os.link", "os.unlink", "os.mkdir", "os.chmod",
             "open for writing"},
    "motion/io/media/video.py": {"open for writing", "save"},  # PyAV and Pillow, onto temporary paths of the writer
    # weights_only, for the shell's `convert`; no node imports it
    "motion/io/checkpoints/torch_checkpoint.py": {"torch.load"},
    "__main__.py": {"importlib.import_module"},  # the shell, under the pack's alias
    "nodes/extension.py": {"importlib.import_module"},  # the node files, by names written there
}  # fmt: skip


def shipped_files():
    """Every Python file that a user's machine runs."""
    for room in SHIPPED:
        path = ROOT / room
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def dotted(node):
    """`a.b.c` of a name or attribute chain, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    base = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{base}.{node.attr}" if base else ""


def opens_for_writing(call):
    """Whether an open(…) or x.open(…) call may write: any mode but a plain reading one given as text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("open", "fdopen"):
        return False
    modes = [word.value for word in call.keywords if word.arg == "mode"]
    is_path_method = isinstance(call.func, ast.Attribute) and dotted(call.func.value) not in ("av", "Image", "io", "os")
    modes += call.args[0:1] if is_path_method else call.args[1:2]
    return any(not (isinstance(mode, ast.Constant) and mode.value in ("r", "rb", "rt")) for mode in modes)


def findings(source):
    """Everything banned in this source, as (what, line)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((f"import {item.name}", node.lineno) for item in node.names
                        if item.name.split(".")[0] in BANNED_MODULES)  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] in BANNED_MODULES:
                yield f"import {node.module}", node.lineno
            for item in node.names:
                if BANNED_CALLS.fullmatch(f"{node.module}.{item.name}"):
                    yield f"{node.module}.{item.name}", node.lineno
        elif isinstance(node, ast.Name) and node.id in BANNED_NAMES:
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and BANNED_CALLS.fullmatch(dotted(node)):
            yield dotted(node), node.lineno
        elif isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if opens_for_writing(node):
                yield "open for writing", node.lineno
            elif method in BANNED_METHODS | {"save"} and not BANNED_CALLS.fullmatch(dotted(node.func)):
                yield method, node.lineno


@pytest.mark.parametrize("path", list(shipped_files()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_file_holds_nothing_banned(path):
    name = path.relative_to(ROOT).as_posix()
    found = [f"line {line}: {what}" for what, line in findings(path.read_text()) if what not in ALLOWED.get(name, ())]
    assert not found, f"{name}: {'; '.join(found)}; see SECURITY.md"


def test_exceptions_are_all_still_needed():
    for name, allowed in ALLOWED.items():
        assert allowed == {what for what, _ in findings((ROOT / name).read_text())} & allowed, name


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import urllib.request",
        "import torch\ntorch.load('a')",
        "import torch\nx = torch.save",
        "from torch import load",
        "from os import system",
        "import os\nos.system('ls')",
        "import os\nos.execv('a', [])",
        "eval('1')",
        "run = exec",
        "__import__('os')",
        "import subprocess as s",
        "open('a', 'w')",
        "open('a', mode='ab')",
        "open('a', 'r+')",
        "open('a', mode)",
        "path.open('w')",
        "path.write_text('a')",
        "import av\nav.open('a', 'w')",
        "image.save('a.png')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "from safetensors.torch import save_file",
        "import importlib\nimportlib.import_module(name)",
        "PromptServer.instance.app.add_routes(routes)",
    ],
)
def test_each_ban_bites(source):
    assert list(findings(source))


@pytest.mark.parametrize("source", [
    "open('a')", "open('a', 'rb')", "open('a', 'rb', buffering=0)", "path.open()", "path.open('rb')", "model.eval()",
    "import av\nav.open('a')", "from PIL import Image\nImage.open(path, formats=('PNG',))", "re.compile('a')",
])  # fmt: skip
def test_reading_and_models_in_evaluation_are_not_banned(source):
    assert not list(findings(source))


def test_web_files_run_no_code_and_fetch_nothing():
    scripts = re.compile(r"<script|\beval\s*\(|new Function|\bfetch\s*\(|XMLHttpRequest|WebSocket", re.IGNORECASE)
    files = [path for path in (ROOT / "web").rglob("*") if path.suffix in (".js", ".md", ".html", ".css", ".svg")]
    assert files
    for path in files:
        assert not scripts.search(path.read_text()), path


def test_security_policy_says_how_to_report_and_names_no_address():
    text = (ROOT / "SECURITY.md").read_text()
    assert "Report a vulnerability" in text and "@" not in text
