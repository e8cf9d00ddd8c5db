"""Pose workflows in the host: one needs nothing and runs; the other gets points as core's SDPose writes them."""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from pose_people import HEIGHT, WIDTH, one

WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"
COCO = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]


def run(name, ours, given):
    """Our nodes of a graph, in order; others answer with what is given by class. Gives outputs by node id."""
    graph = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    done = {}

    def value(key):
        if key not in done:
            node = graph[key]
            if node["class_type"] in given:
                done[key] = given[node["class_type"]](key)
            else:
                inputs = {name: value(entry[0])[entry[1]] if isinstance(entry, list) else entry
                          for name, entry in node["inputs"].items()}  # fmt: skip
                done[key] = ours[node["class_type"].removeprefix("MotionBlocks")].execute(**inputs).args
        return done[key]

    for key, node in graph.items():
        if node["class_type"].startswith("MotionBlocks"):
            value(key)
    return graph, done


def only(graph, done, kind):
    (key,) = (key for key, node in graph.items() if node["class_type"] == f"MotionBlocks{kind}")
    return done[key]


def test_the_shipped_graph_fits_the_walk_to_the_character(ours):
    graph, done = run("fit_poses", ours, {})
    frames = only(graph, done, "DrawPoses")[0]
    assert frames.shape == (40, HEIGHT, WIDTH, 3) and all(frame.any() for frame in frames)
    _, overlay, report = only(graph, done, "RetargetPoses")
    picture = ours["SamplePhoto"].execute("drawn_character.jpg").args[0]
    assert overlay.shape == (8, HEIGHT, WIDTH, 3) and torch.equal(overlay[:, 0, 0], picture[:, 0, 0].expand(8, 3))
    assert "calibrated at frame" in report and "note" not in report
    assert "px before" in only(graph, done, "PoseReport")[1]


if importlib.util.find_spec("comfy_extras.nodes_sdpose"):

    def test_points_as_cores_sdpose_gives_them_go_through_the_graph(ours):
        core = importlib.import_module("comfy_extras.nodes_sdpose")

        def keypoints(key):
            points = one(2, 30 if key == "6" else 1, (400, 240))
            order = np.concatenate((points[:, COCO], points[:, 130:], points[:, 18:86], points[:, 88:109],
                                    points[:, 109:130]), 1)  # fmt: skip
            people = [[frame[:, :2]] for frame in order]
            return (core._to_openpose_frames(people, [[np.full(133, 0.9)] for _ in people], HEIGHT, WIDTH),)

        photo = torch.full((1, HEIGHT, WIDTH, 3), 0.5)
        given = {"SDPoseKeypointExtractor": keypoints, "LoadImage": lambda key: (photo, None)}
        graph, done = run("sdpose_to_poses", ours, given)
        frames = only(graph, done, "DrawPoses")[0]
        assert frames.shape == (16, HEIGHT, WIDTH, 3) and all(frame.any() for frame in frames)
        saved = json.loads(Path(only(graph, done, "SavePoses")[0]).read_text())
        assert len(saved) == 16 and all(len(frame["people"]) == 1 for frame in saved)
