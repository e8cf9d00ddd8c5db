"""The house: nodes → motion → kernels and never back, relative imports, a light door."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [ROOT / "__init__.py", ROOT / "__main__.py"] + [
    path for room in ("nodes", "motion", "kernels") for path in sorted((ROOT / room).rglob("*.py"))
]
MAY_IMPORT = {"nodes": {"nodes", "motion", "kernels"}, "motion": {"motion", "kernels"}, "kernels": {"kernels"}}
OUTSIDE = {
    "kernels": {"torch", "triton", "numpy"},
    "motion": {"torch", "einops", "safetensors", "numpy", "scipy", "tqdm", "PIL", "av", "cv2", "yaml",
               "accelerate", "transformers", "controlnet_aux"},
}
ONE_WAY_OUT = {  # foreign text is made safe on its way to a person: what leads there, and the files that may take it
    "send_progress_text": {"nodes/host/page.py"}, "PreviewText": {"nodes/host/text_under.py"},
    "print": {"motion/shell/console.py"},
    "tqdm.write": {"motion/shell/train.py"},
    "getLogger": {"kernels/foreign_text.py", "nodes/vaes_on_socket/builtin.py"},  # the latter adds a filter
    **{f"logging.{level}": set() for level in ("debug", "info", "warning", "error", "exception", "critical", "log")},
}  # fmt: skip
# Rooms and single files of motion, from the ground up: each may import what stands in a line above its own.
FLOORS = (
    ("errors",),
    ("records", "choices", "limits", "devices", "foreign_json"),
    ("layers",),
    ("text",),
    ("models", "metrics"),
    ("sampling",),
    ("adapters", "analysis", "conditioning", "pose", "sequence"),
    ("io",),
    ("builtin_model", "scene_model"),
    ("data",),
    ("pipeline",),
    ("training",),
    ("shell",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def imports_of(path):
    """[(absolute dotted name inside the pack or outside name, is inside, at module level) of each import]."""
    return list(_imports_of(path))


def _imports_of(path):
    package = path.relative_to(ROOT).parent.parts
    tree = parsed(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = {inner for function in functions for inner in ast.walk(function)}
    top_level = set(ast.walk(tree)) - late
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False, node in top_level
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module, False, node in top_level
            else:
                base = package[: len(package) - node.level + 1]
                name = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
                for alias in node.names:
                    yield f"{name}.{alias.name}" if name else alias.name, True, node in top_level


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    room, own = parts[0], parts[1] if len(parts) > 1 else ""
    for name, inside, _ in imports_of(path):
        first, second = (name.split(".") + [""])[:2]
        if inside and room in MAY_IMPORT:
            assert first in MAY_IMPORT[room], f"{path.name} imports {name}"
            if first == room == "motion" and second != own and own != "__init__":
                assert FLOOR[second] < FLOOR[own], f"motion/{own} ({path.name}) imports {name}"
        elif not inside and room in OUTSIDE:
            allowed = OUTSIDE[room] | set(sys.stdlib_module_names)
            assert first in allowed, f"{path.name} imports {name}"


def test_every_room_and_file_of_the_library_has_a_floor():
    entries = [path for path in (ROOT / "motion").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    found = {path.stem for path in entries}
    assert found - {"__init__"} == set(FLOOR)


def circles(arrows):
    """Modules that import one another in a circle, however long: [{names}, …]. arrows: {name: names it imports}."""
    reached = {name: set(arrows[name]) for name in arrows}
    for middle in arrows:
        for name in arrows:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    rings = {frozenset(other for other in reached[name] if name in reached[other]) for name in arrows}
    return [set(ring) for ring in rings if ring]


def test_no_modules_import_one_another_in_a_circle():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SHIPPED]
    modules = dict(zip(names, SHIPPED))
    arrows = {}
    for module, path in modules.items():
        inner = [name for name, inside, _ in imports_of(path) if inside]
        reached = {name if name in modules else name.rpartition(".")[0] for name in inner}
        arrows[module] = reached & set(modules) - {module}
    assert not circles(arrows)


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [{"a", "b", "c"}]


def test_recipes_reach_the_library_and_nobody_reaches_them():
    for path in sorted((ROOT / "recipes").glob("*.py")):
        reached = {name.split(".")[0] for name, inside, _ in imports_of(path) if inside}
        assert reached <= {"motion", "recipes"}, path
    for path in SHIPPED:
        assert not any(name.split(".")[0] == "recipes" for name, inside, _ in imports_of(path) if inside), path


def test_one_file_reaches_the_libraries_that_find_people():
    users = {path.relative_to(ROOT).as_posix() for path in SHIPPED for name, inside, _ in imports_of(path)
             if not inside and name.split(".")[0] in ("transformers", "controlnet_aux")}  # fmt: skip
    assert users == {"motion/data/pose_detectors.py"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_are_imported_late(path):
    for name, inside, top in imports_of(path):
        if not inside and top:
            heavy = {"cv2", "av", "diffusers", "triton", "accelerate", "controlnet_aux", "transformers", "yaml"}
            if path.parent.name == "_triton":
                heavy = heavy - {"triton"}
            assert name.split(".")[0] not in heavy, name
        elif inside and top and path.parent.name != "_triton":
            is_plan = name.rpartition(".")[0].endswith("_plan")  # how kernels are launched, which needs no Triton
            assert is_plan or not name.startswith("kernels._triton"), f"{path.name} imports {name} before its first use"


def ways_out(source):
    """The names of ONE_WAY_OUT that a source uses, called or handed on."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield from (node.attr, f"{getattr(node.value, 'id', '')}.{node.attr}")
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (item.name for item in node.names)


def test_foreign_text_reaches_page_console_and_log_by_one_way_each():
    found = {name: set() for name in ONE_WAY_OUT}
    for path in SHIPPED:
        for name in set(ways_out(path.read_text())) & set(ONE_WAY_OUT):
            found[name].add(path.relative_to(ROOT).as_posix())
    assert found == ONE_WAY_OUT


@pytest.mark.parametrize("source", [
    "server.send_progress_text(text, node_id)", "ui.PreviewText(text)", "from comfy_api.latest.ui import PreviewText",
    "print(text)", "run(on_text=print)", "import logging\nlogging.getLogger().warning(text)",
    "from logging import getLogger", "import logging\nlogging.warning(text)",
])  # fmt: skip
def test_a_second_way_out_is_seen(source):
    assert set(ways_out(source)) & set(ONE_WAY_OUT)


def test_the_hosts_slot_for_attention_is_filled_in_one_file():
    """Which hands on to whatever stands in it, so that no override of another pack is lost."""
    slot = "optimized_attention_override"
    assert {path.name for path in SHIPPED if slot in path.read_text()} == {"native_wan_attention.py"}


def test_cv2_lives_in_metrics_and_data_only():
    for path in SHIPPED:
        if any(name.split(".")[0] == "cv2" for name, inside, _ in imports_of(path) if not inside):
            assert path.relative_to(ROOT).parts[:2] in {("motion", "metrics"), ("motion", "data")}, path


def test_accelerate_is_imported_in_one_file_only():
    users = {path.name for path in SHIPPED for name, *_ in imports_of(path) if name.split(".")[0] == "accelerate"}
    assert users == {"distributed.py"}


@pytest.mark.slow
def test_library_runs_without_host_and_without_heavy_imports():
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest\n"
        "import pack.motion.models.linear_video.network, pack.motion.models.heads.flow_codec\n"
        "bad = {'comfy', 'folder_paths', 'diffusers', 'cv2', 'triton', 'av'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_opening_the_pack_imports_nothing():
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest\n"
        "assert 'torch' not in sys.modules and not any(m.startswith('pack.') for m in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def spoken(path):
    """Names that a file looks up or writes in a mapping as plain text: d["x"], d.get("x"), {"x": …}, "x" in d."""
    for node in ast.walk(parsed(path)):
        found = []
        if isinstance(node, ast.Subscript):
            found = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found = node.args[:1] if node.func.attr in ("get", "pop", "setdefault") else []
        elif isinstance(node, ast.Dict):
            found = node.keys
        elif isinstance(node, ast.Compare):
            found = [node.left, *node.comparators]
        yield from (part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_keys_of_a_conditioning_are_named_in_one_file():
    """Readers and writers of nodes/host/conditions.py serve all others, so that a key can be moved or joined there."""
    home = ROOT / "nodes" / "host" / "conditions.py"
    (record,) = [node for node in parsed(home).body if isinstance(node, ast.ClassDef) and node.name == "Told"]
    names = {item.target.id for item in record.body if isinstance(item, ast.AnnAssign)}
    assert {"first_latent", "motion_bucket_id", "longer", "words", "unread"} <= names
    keys = {f"motionblocks_{name}" for name in names} | names - {"words", "unread"}
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        if path != home:
            assert not keys & set(spoken(path)), path.name


def test_a_key_is_heard_however_it_is_spoken(tmp_path):
    for number, line in enumerate(('d["a"]', 'd.get("a")', 'd.pop("a", 0)', '{"a": 1}', '"a" in d')):
        path = tmp_path / f"{number}.py"
        path.write_text(line)
        assert set(spoken(path)) == {"a"}
