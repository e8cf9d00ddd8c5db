"""The workflows for the host's own Wan over HTTP, from core's loaders to the video, with tiny random weights.

Names of nodes, inputs and files are those that are shipped; sizes, frames and steps are cut down. The text encoder is
core's UMT5 with one layer in place of 24 (small_umt5); all other loaders are as they are.
"""

import copy

import numpy as np
import pytest
from host_server import HostServer
from shipped_workflows import api_graph, video_of

pytestmark = pytest.mark.host
T2V, I2V, PAIR = "wan_train_animate", "wan22_train_animate", "wan22_motion_adapters"
T2V_MOTION, PAIR_MOTION = "wan21_motion_transfer", "wan22_motion_transfer"
TRAINER, ADAPTER_TRAINER = "MotionBlocksTrainMotionModel", "MotionBlocksTrainAdapter"
MOTION_TRAINER = "MotionBlocksTrainMotionLoRA"
SHORT = {"steps": 2, "resolution": 16, "num_frames": 5, "windows_per_clip": 1, "rank": 2, "precision": "fp32",
         "learning_rate": 0.01, "save_every": 0}  # fmt: skip
CUT = {  # by class; a shipped graph trains for minutes on a card
    TRAINER: SHORT, ADAPTER_TRAINER: SHORT,
    MOTION_TRAINER: {"spatial_steps": 2, "temporal_steps": 2, "rank": 2, "batch_size": 1, "precision": "fp32",
                     "learning_rate": 0.01, "save_every": 0},
    "MotionBlocksPrepareMotionClip": {"num_frames": 9, "sparse_frames": 5, "resolution": 16},
    "MotionBlocksClassifyHeads": {"target_fraction": 0.5},  # heads of random weights are of one type
    "MotionBlocksEmptyLatent": {"width": 32, "height": 16, "num_frames": 5},
    "MotionBlocksImageToVideo": {"num_frames": 5}, "ImageScale": {"width": 32, "height": 16}, "KSampler": {"steps": 2},
}  # fmt: skip
HALVES = ({"steps": 2, "end_at_step": 1}, {"steps": 2, "start_at_step": 1})  # of two experts in a row
FILES = {T2V: ["wan_motion_"], I2V: ["wan22_motion_high_", "wan22_motion_low_"]}


def cut(name):
    """A shipped graph, cut down."""
    graph = api_graph(name)
    for node in graph.values():
        changed = CUT.get(node["class_type"], {})
        assert changed.keys() <= node["inputs"].keys()
        node["inputs"].update(changed)
    halves = [node["inputs"] for node in graph.values() if node["class_type"] == "KSamplerAdvanced"]
    for given, half in zip(sorted(halves, key=lambda given: given["start_at_step"]), HALVES):
        given.update(half)
    return graph


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """One models/ tree for all hosts; it is only read."""
    pytest.importorskip("sentencepiece")
    from wan_weights import write_models

    return write_models(tmp_path_factory.mktemp("wan") / "models")


@pytest.fixture(scope="module")
def stocked(host, models, tmp_path_factory):
    """A second server of the same host, with these weights and the small UMT5."""
    from wan_weights import SMALL_UMT5

    base = tmp_path_factory.mktemp("wan_host") / "base"
    base.mkdir()
    (base / "models").symlink_to(models, target_is_directory=True)
    with HostServer(host.folder, base, [SMALL_UMT5]) as server:
        yield server


def trainers_of(graph):
    return [key for key, node in graph.items() if node["class_type"] == TRAINER]


def untrained(graph, seed):
    """The same graph with the bases where the trained models were."""
    graph = copy.deepcopy(graph)
    bases = {key: graph.pop(key)["inputs"]["model"] for key in trainers_of(graph)}
    for given in (node["inputs"] for node in graph.values() if node["class_type"].startswith("KSampler")):
        given |= {"model": bases[given["model"][0]], "seed" if "seed" in given else "noise_seed": seed}
    return graph


@pytest.mark.parametrize("name", sorted(FILES))
def test_workflow_trains_and_animates_from_cores_loaders_to_the_video(stocked, name):
    graph = cut(name)
    before, _ = video_of(stocked, untrained(graph, 1))
    frames, fps = video_of(stocked, graph)
    assert frames.shape == (5, 16, 32, 3) and fps == 16.0 and not np.array_equal(frames, before)
    assert frames.std() > 5 and np.abs(np.diff(frames.astype(float), axis=0)).mean() > 0.5
    other, _ = video_of(stocked, untrained(graph, 2))  # else the host answers the next one from what it keeps
    assert np.array_equal(video_of(stocked, untrained(graph, 1))[0], before) and not np.array_equal(other, before)
    listed = [max(file for file in stocked.get("/models/loras") if file.startswith(start)) for start in FILES[name]]
    for key, file in zip(trainers_of(graph), listed):  # core's loader of LoRAs in their place
        graph[key] = {"class_type": "LoraLoaderModelOnly", "inputs": {
            "model": graph[key]["inputs"]["model"], "lora_name": file, "strength_model": 1.0}}  # fmt: skip
    assert np.array_equal(video_of(stocked, graph)[0], frames)


def test_a_pair_of_motion_adapters_is_trained_applied_and_loaded_again_from_its_files(stocked):
    graph = cut(PAIR)
    frames, fps = video_of(stocked, graph)
    assert frames.shape == (5, 16, 32, 3) and fps == 8.0 and frames.std() > 5
    trainers = [key for key, node in graph.items() if node["class_type"] == ADAPTER_TRAINER]
    told = stocked.get("/object_info/MotionBlocksLoadAdapter")["MotionBlocksLoadAdapter"]["input"]["required"]
    kind, *more = told["adapter_name"]
    listed = kind if isinstance(kind, list) else more[0]["options"]
    for key, part in zip(trainers, ("high", "low")):
        file = max(name for name in listed if name.startswith(f"wan22_motion_{part}_"))
        graph[key] = {"class_type": "MotionBlocksLoadAdapter", "inputs": {"adapter_name": file, "weight": 1.0}}
    assert np.array_equal(video_of(stocked, graph)[0], frames)
    for key in trainers:
        graph[key]["inputs"]["weight"] = 0.0
    without, _ = video_of(stocked, graph)
    assert not np.array_equal(without, frames)


@pytest.mark.parametrize("name, width, part", [(T2V_MOTION, 72, ""), (PAIR_MOTION, 32, "_high")])
def test_one_clips_motion_is_learned_measured_and_loaded_again_from_its_file(stocked, name, width, part):
    graph = cut(name)
    frames, fps = video_of(stocked, graph)
    assert frames.shape == (5, 16, width, 3) and fps == 16.0 and frames.std() > 5
    (trainer,) = (key for key, node in graph.items() if node["class_type"] == MOTION_TRAINER)
    start = f"{name.removesuffix('_transfer')}{part}_0"
    file = max(file for file in stocked.get("/models/loras") if file.startswith(start))
    spatial = f"{start.removesuffix('_0')}_spatial_0"
    assert any(file.startswith(spatial) for file in stocked.get("/models/loras"))
    base = graph[trainer]["inputs"]["model"]
    loaded = {"model": base, "lora_name": file, "strength_model": 0.5}  # as the preset has it
    graph[trainer] = {"class_type": "LoraLoaderModelOnly", "inputs": loaded}
    assert np.array_equal(video_of(stocked, graph)[0], frames)
    loaded["strength_model"] = 0.0
    assert not np.array_equal(video_of(stocked, graph)[0], frames)


def test_the_small_text_encoder_reads_words(stocked):
    """Another prompt is another video; the text comes from core's CLIPTextEncode."""
    graph = untrained(cut(T2V), 1)
    first, _ = video_of(stocked, graph)
    positive = next(node["inputs"] for node in graph.values() if node["class_type"] == "KSampler")["positive"][0]
    graph[positive]["inputs"]["text"] = "a busy street"
    assert not np.array_equal(video_of(stocked, graph)[0], first)
