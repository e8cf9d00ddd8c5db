"""The shipped workflows that train beside the host's own Wan and animate with it, on tiny random weights."""

import json
from pathlib import Path

import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from native_training import TinyText, differences, seen, tiny_vae, used
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.latent_spaces import SPACES

WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"
SMALL = {  # inputs by their names, wherever they stand; a shipped graph is trained for minutes at 480 px
    "resolution": 32, "steps": 2, "windows_per_clip": 1, "rank": 2, "precision": "fp32", "save_every": 0, "width": 48,
    "height": 32, "num_frames": 5,
}  # fmt: skip
PATH_OUTPUTS = {"MotionBlocksTrainMotionModel": 5, "MotionBlocksTrainAdapter": 4}  # of trainers: slot of the path
HALF = 10  # of the 20 steps that two experts share


def shipped(name):
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())


class Graph:
    """A graph in the API's form, its nodes called in order; loaders give stand-ins, which the files would be."""

    def __init__(self, graph, core, ours, models):
        self.graph, self.core, self.ours, self.models, self.done = graph, core, ours, models, {}

    def value(self, key, slot):
        if key not in self.done:
            node = self.graph[key]
            given = {name: self.value(*value) if isinstance(value, list) else value
                     for name, value in node["inputs"].items() if "." not in name}  # fmt: skip
            self.done[key] = self.call(node["class_type"], given)
        return self.done[key][slot]

    def call(self, kind, given):
        models = self.models
        stand_in = {"UNETLoader": lambda: models[given["unet_name"]], "CLIPLoader": TinyText, "VAELoader": tiny_vae}
        if kind in stand_in:
            return (stand_in[kind](),)
        given = {**given, **{name: least for name, least in SMALL.items() if isinstance(given.get(name), str)}}
        given |= {name: min(given[name], least) for name, least in SMALL.items() if type(given.get(name)) is int}
        given |= {name: 1 for name in ("start_at_step", "end_at_step") if given.get(name) == HALF}
        if kind.startswith("MotionBlocks"):
            return self.ours[kind.removeprefix("MotionBlocks")].execute(**given).args
        return self.core(kind, **given)


@pytest.mark.parametrize("name, experts, files", [
    ("wan_train_animate", {"wan2.1_t2v_1.3B_bf16.safetensors": ("text", 0)}, ["wan_motion_0"]),
    ("wan22_train_animate", {"wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": ("expert", 0),
                             "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": ("expert", 1)},
     ["wan22_motion_high_0", "wan22_motion_low_0"]),
    ("wan22_motion_adapters", {"wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": ("expert", 0),
                               "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": ("expert", 1)},
     ["wan22_motion_high_0", "wan22_motion_low_0"]),
])  # fmt: skip
def test_the_graph_trains_and_animates_and_leaves_the_bases_as_they_were(core, ours, name, experts, files):
    models = {file: tiny.native(kind, seed=seed) for file, (kind, seed) in experts.items()}
    for model in models.values():
        used(model)
    before = {file: seen(model) for file, model in models.items()}
    graph = shipped(name)
    trainers = [key for key, node in graph.items() if node["class_type"] in PATH_OUTPUTS]
    run = Graph(graph, core, ours, models)
    last = next(key for key, node in graph.items() if node["class_type"] == "VAEDecode")
    frames = run.value(last, 0)
    assert frames.shape[0] == 5 and frames.isfinite().all() and frames.std() > 0
    paths = sorted(Path(run.value(key, PATH_OUTPUTS[graph[key]["class_type"]])) for key in trainers)
    assert [path.stem[: len(file)] for path, file in zip(paths, files)] == files
    assert all(any(value.abs().max() > 0 for key, value in read_safetensors(path)[0].items() if "up" in key)
               for path in paths)  # fmt: skip
    comfy.model_management.unload_all_models()
    for file, model in models.items():
        assert differences(before[file], seen(model), sampled=True) == []


@pytest.mark.parametrize("name", ["wan_train_animate", "wan22_train_animate", "wan22_motion_adapters"])
def test_sizes_and_frames_as_shipped_are_what_wan_can_hold(name):
    space, graph = SPACES["wan21"], shipped(name)
    given = [node["inputs"] for node in graph.values()]
    assert all(space.holds(part["num_frames"]) for part in given if part.get("num_frames"))
    assert all(side % space.multiple == 0 for part in given for side in (part.get("width", 0), part.get("height", 0)))
    assert {part.get("expert") for part in given} >= ({"high noise", "low noise"} if "22" in name else {"wan2.1"})
    assert torch.tensor([part["resolution"] for part in given if "resolution" in part]).min() == 480
