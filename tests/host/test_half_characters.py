"""Half a character (a lone surrogate) in any text or name a graph or a file brings: a message, and the host lives on.

The host writes an exception's text to its log as UTF-8; where that fails its prompt worker ends, and every later prompt
waits for ever.
"""

import json
import os
import struct
import uuid

import pytest
from host_server import ROOT, Refused
from shipped_workflows import api_graph, node_of

pytestmark = pytest.mark.host

HALF = "\ud800"
UNREADABLE = os.fsdecode(b"caf\xe9")  # as os.listdir gives a name that is no UTF-8
BUILTIN = {"class_type": "MotionBlocksLoadBuiltin", "inputs": {"model_name": "motionblocks-tiny"}}
CLIPS = {
    "class_type": "MotionBlocksGenerateClips",
    "inputs": {"motions": "pan left", "num_clips": 2, "num_frames": 3, "size": 64, "seed": 0},
}
TRAIN = {
    "model": ["b", 0], "clip": ["b", 1], "vae": ["b", 2], "clips": ["c", 0], "mode": "lora", "steps": 1,
    "batch_size": 1, "learning_rate": 1e-3, "rank": 2, "seed": 0, "file_prefix": "half", "resume_from": "new",
    "num_frames": 3, "stride_min": 1, "stride_max": 1, "windows_per_clip": 1, "targets": "ff",
}  # fmt: skip
NO_ERROR = object()


def one(class_type, **inputs):
    """A graph of a built-in model, generated clips, and one node with these inputs."""
    return {"b": BUILTIN, "c": CLIPS, "n": {"class_type": class_type, "inputs": inputs},
            "p": {"class_type": "PreviewAny", "inputs": {"source": ["n", 0]}}}  # fmt: skip


def prompt(text):
    """The shipped animate_photo with another motion text, which the core text encoder node reads."""
    graph = api_graph("animate_photo")
    graph[node_of(graph, "MotionBlocksImageToVideo")["positive"][0]]["inputs"]["text"] = text
    return graph


GRAPHS = {
    "prompt of the core text encoder": lambda half: prompt(f"zoom {half}"),
    "positive prompt": lambda half: one(
        "MotionBlocksEncodePrompts", clip=["b", 1], positive=half, negative="", dynamics=5, motion_score=False),
    "negative prompt": lambda half: one(
        "MotionBlocksEncodePrompts", clip=["b", 1], positive="", negative=half, dynamics=5, motion_score=False),
    "instruction": lambda half: one("MotionBlocksSetInstruction", clip=["b", 1], instruction=half),
    "motions": lambda half: one("MotionBlocksGenerateClips", **CLIPS["inputs"] | {"motions": f"pan {half}"}),
    "default caption": lambda half: one(
        "MotionBlocksLoadClips", folder="shipped: jelly", fps=8.0, default_caption=half, require_captions=False),
    "clip folder": lambda half: one("MotionBlocksLoadClips", folder=half, fps=8.0),
    "motion to measure": lambda half: one("MotionBlocksMeasureQuality", frames=["c", 1], motion=half),
    "builtin model": lambda half: one("MotionBlocksLoadBuiltin", model_name=half),
    "sample photo": lambda half: one("MotionBlocksSamplePhoto", photo=half),
    "model": lambda half: one("MotionBlocksLoadModel", model_name=f"{half}.safetensors", weight_dtype="default"),
    "adapter": lambda half: one("MotionBlocksLoadAdapter", adapter_name=half, weight=1.0),
    "adapter curve": lambda half: one(
        "MotionBlocksLoadAdapter", adapter_name="shipped: jelly", weight=1.0, step_curve=half),
    "vae": lambda half: one("MotionBlocksLoadVAE", vae_name=half, weight_dtype="default"),
    "text encoder": lambda half: one(
        "MotionBlocksLoadTextEncoder", text_encoder_name=half, instruction="video", weight_dtype="default"),
    "image model": lambda half: one(
        "MotionBlocksInflateModel", source_name=half, init="zero", objective="t2v", weight_dtype="default"),
    **{name: (lambda half, name=name: one("MotionBlocksTrainMotionModel", **TRAIN | {name: half}))
       for name in ("file_prefix", "resume_from", "sample_text", "targets", "more_settings", "mode")},
}  # fmt: skip


def told(host, graph):
    """What the user reads of a graph that must not succeed; NO_ERROR when it does. Never waits long."""
    try:
        answer = host.post("/prompt", {"prompt": graph, "client_id": uuid.uuid4().hex})
    except Refused as refused:
        return json.dumps(refused.body)
    entry = host.wait(answer["prompt_id"], timeout=90)
    errors = [data["exception_message"] for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    return errors[0] if errors else json.dumps(answer["node_errors"]) if answer["node_errors"] else NO_ERROR


def check_alive(host):
    """A good prompt still runs, not answered from the host's cache, and nothing broke the log."""
    check_alive.seed += 1
    graph = {"c": {"class_type": "MotionBlocksGenerateClips", "inputs": CLIPS["inputs"] | {"seed": check_alive.seed}}}
    entry = host.wait(host.queue(graph), timeout=60)
    assert entry["status"]["status_str"] == "success"


check_alive.seed = 1000


def test_a_label_of_half_a_character_is_written_out(host):
    graph = {"c": CLIPS, "n": {"class_type": "MotionBlocksCompareVideos", "inputs": {
        "video_a": ["c", 1], "video_b": ["c", 1], "label_a": HALF, "label_b": UNREADABLE}}}  # fmt: skip
    (table,) = host.run(graph)["n"]["text"]
    assert "\\ud800" in table and "caf\\udce9" in table
    check_alive(host)


def test_a_node_whose_id_is_half_a_character_runs(host):
    assert told(host, {HALF: CLIPS}) is NO_ERROR
    check_alive(host)


def test_a_clip_folder_with_names_that_are_not_utf_8_is_read_and_told(host):
    folder = host.base / "input" / UNREADABLE
    folder.mkdir(parents=True)
    (folder / f"{UNREADABLE}.mp4").symlink_to(next((ROOT / "assets" / "clips" / "jelly").glob("*.mp4")))
    (folder / f"no{UNREADABLE}.mp4").write_bytes(b"no video")
    told(host, {"n": {"class_type": "MotionBlocksLoadClips", "inputs": {"folder": UNREADABLE, "fps": 8.0}}})
    check_alive(host)


def test_a_weight_file_with_half_characters_in_its_names_is_refused(host):
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    header = {f"blocks.0.{HALF}": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
              "__metadata__": {"title": HALF, "format": "pt"}}  # fmt: skip
    text = json.dumps(header).encode()
    name = f"{UNREADABLE}.safetensors"
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    message = told(host, one("MotionBlocksLoadModel", model_name=name, weight_dtype="default"))
    assert message is not NO_ERROR and "\\ud800" in message
    check_alive(host)


@pytest.mark.parametrize("half", [HALF, "\udcff"], ids=ascii)
@pytest.mark.parametrize("name", list(GRAPHS))
def test_half_a_character_in_a_widget_is_a_message_and_the_host_lives_on(host, name, half):
    message = told(host, GRAPHS[name](half))
    assert message is not NO_ERROR and not any("\ud800" <= letter <= "\udfff" for letter in message)
    assert "codec can't encode" not in message
    check_alive(host)
