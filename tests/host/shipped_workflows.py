"""What each shipped workflow promises: frames and size of its video; which need weights that are not shipped."""

import json
from contextlib import contextmanager

from host_server import ROOT, decode_video, saved_video

FOLDER = ROOT / "workflows"
RACCOON, CITY, PORTRAIT = (576, 768), (406, 720), (600, 512)
GAP = 8

# name: (num_frames, height, width)
PROMISES = {
    "animate_photo": (16, *RACCOON),
    "move_the_subject": (16, *PORTRAIT),
    "compare_dynamics": (16, 3 * CITY[0] + 2 * GAP, CITY[1]),
    "dctinit_versus_plain": (16, PORTRAIT[0], 2 * PORTRAIT[1] + GAP),
    "train_motion_lora": (8, PORTRAIT[0], 2 * PORTRAIT[1] + GAP),
    "fit_poses": (40, 480, 832),
    "follow_poses": (17, 384, 768),
    "train_motion_adapter": (8, PORTRAIT[0], 2 * PORTRAIT[1] + GAP),
    "motion_adapter": (8, *PORTRAIT),
    "two_motion_adapters": (8, *RACCOON),
    "words_to_video": (17, 384, 384),
    "drawing_to_video": (17, 384, 384),
    "wan_motion_adapter": (17, 256, 544),
    "motion_transfer": (17, 384, 816),
    "classify_heads": (17, 548, 324),
    "motion_reconstruction": (17, 680, 680),
}
CUT_DOWN = {  # trainings that would take a minute: a few steps say whether the graph runs
    "motion_transfer": {"MotionBlocksTrainMotionLoRA": {"spatial_steps": 3, "temporal_steps": 3, "sample_every": 0}},
    "motion_reconstruction": {"MotionBlocksTrainMotionLoRA": {"spatial_steps": 3, "temporal_steps": 3}},
    "wan_motion_adapter": {"MotionBlocksTrainAdapter": {"steps": 6, "batch_size": 2, "sample_every": 0}},
}
NEED_WEIGHTS = {  # as shipped; tests without the public weights cut sizes, frames and steps down
    "sana_video_text_to_video": (81, 480, 832),
    "sana_video_image_to_video": (81, 480, 832),
    "sana_inflate_train_animate": (16, 512, 512),
}
WAN_WEIGHTS = {  # test_wan_workflows_run.py
    "wan_train_animate": (17, 480, 832), "wan22_train_animate": (17, 576, 480), "wan22_motion_adapters": (17, 576, 480),
    "wan21_motion_transfer": (81, 480, 1672), "wan22_motion_transfer": (81, 480, 832),
}  # fmt: skip
NEWER_NODES = {"sdpose_to_poses": {"RTDETR_detect", "SDPoseKeypointExtractor"}}  # of ComfyUI 0.33.0; need weights too
FOLDERS = {"ckpt_name": "checkpoints", "unet_name": "diffusion_models", "clip_name": "text_encoders", "vae_name": "vae"}
INPUTS = {"LoadVideo": {"file": "../input"}, "LoadImage": {"image": "../input"}}  # beside models
ALL = sorted({**PROMISES, **NEED_WEIGHTS, **WAN_WEIGHTS, **NEWER_NODES})
FPS = {  # others: 8
    "train_motion_lora": 4.0, "train_motion_adapter": 4.0, "motion_adapter": 4.0, "two_motion_adapters": 4.0,
    "fit_poses": 16.0, "sana_video_text_to_video": 16.0, "sana_video_image_to_video": 16.0,
}  # fmt: skip


def api_graph(name):
    """Return a fresh copy of workflows/api/<name>.json."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text())


def page_graph(name):
    """Return the text of workflows/<name>.json."""
    return (FOLDER / f"{name}.json").read_text()


def video_of(host, graph):
    """Run a graph; return its video as (t, h, w, 3) uint8 and its rate."""
    return decode_video(host.download(saved_video(host.run(graph))))


def lacking(host, name):
    """Nodes of a shipped graph that this host does not have: those of NEWER_NODES on an old one."""
    return {kind for kind in NEWER_NODES.get(name, ()) if not host.get(f"/object_info/{kind}")}


@contextmanager
def files_listed(models):
    """Empty files under the names that graphs give to core's loaders, so that the page finds them listed."""
    made = []
    for graph in map(api_graph, (*WAN_WEIGHTS, *NEWER_NODES)):
        for node in graph.values():
            folders = FOLDERS | INPUTS.get(node["class_type"], {})
            for name, folder in folders.items():
                if name in node["inputs"] and not (path := models / folder / node["inputs"][name]).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    made.append(path)
    try:
        yield
    finally:
        for path in made:
            path.unlink()


def node_of(graph, class_type):
    """Return the inputs of the only node of a class, to be edited in place."""
    (node,) = (node for node in graph.values() if node["class_type"] == class_type)
    return node["inputs"]
