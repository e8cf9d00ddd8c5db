"""Wrong values sent through the API come back as messages, and the host stays usable."""

import json
import time
import uuid

import numpy as np
import pytest
from host_server import decode_video, failure_text, saved_video
from shipped_workflows import api_graph, node_of

pytestmark = pytest.mark.host


def small_graph(**image_to_video):
    """Return animate_photo with changed inputs of its image-to-video node."""
    graph = api_graph("animate_photo")
    node_of(graph, "MotionBlocksImageToVideo").update(image_to_video)
    return graph


def with_text(text):
    """Return animate_photo with another motion text."""
    graph = api_graph("animate_photo")
    graph[node_of(graph, "MotionBlocksImageToVideo")["positive"][0]]["inputs"]["text"] = text
    return graph


@pytest.mark.parametrize("dynamics", [20, -1])
def test_dynamics_outside_the_slider_are_refused_with_both_numbers(host, dynamics):
    told = host.fail(small_graph(dynamics=dynamics))
    assert str(dynamics) in told and ("19" if dynamics > 0 else "0") in told


@pytest.mark.parametrize("num_frames", [0, -3])
def test_no_frames_are_refused(host, num_frames):
    assert str(num_frames) in host.fail(small_graph(num_frames=num_frames))


def test_unknown_word_is_refused_with_the_vocabulary(host):
    told = host.fail(with_text("zooom in"))
    assert "zooom" in told and "zoom" in told and "pan" in told


def test_weighted_word_is_refused(host):
    assert "1.2" in host.fail(with_text("(zoom:1.2) in"))


def test_unknown_photo_name_is_refused(host):
    graph = api_graph("animate_photo")
    node_of(graph, "MotionBlocksSamplePhoto")["photo"] = "../../etc/passwd"
    told = host.fail(graph)
    assert "passwd" in told and "raccoon.jpg" in told


def test_unknown_builtin_name_is_refused(host):
    graph = api_graph("animate_photo")
    inputs = node_of(graph, "MotionBlocksLoadBuiltin")
    (key,) = (key for key, value in inputs.items() if value == "motionblocks-tiny")
    inputs[key] = "../motionblocks-tiny"
    assert "../motionblocks-tiny" in host.fail(graph)


def test_zero_steps_end_with_a_message_not_a_crash(host):
    graph = api_graph("dctinit_versus_plain")
    node_of(graph, "MotionBlocksFlowScheduler")["num_steps"] = 0
    assert "num_steps" in host.fail(graph)
    assert host.run(api_graph("animate_photo"))


def test_one_bad_output_is_not_hidden_behind_a_good_one(host):
    graph = api_graph("animate_photo")
    graph["90"] = {"class_type": "PreviewAny", "inputs": {"source": ["91", 0]}}
    graph["91"] = {"class_type": "MotionBlocksMeasureDynamics", "inputs": {}}
    answer = host.post("/prompt", {"prompt": graph, "client_id": uuid.uuid4().hex})
    assert "91" in json.dumps(answer["node_errors"])
    host.wait(answer["prompt_id"])


@pytest.mark.parametrize("delay", [0.0, 0.4, 1.2])
def test_prompt_after_a_cancel_equals_a_fresh_run(host, delay):
    graph = api_graph("animate_photo")
    node_of(graph, "KSampler")["seed"] = 21
    fresh = decode_video(host.download(saved_video(host.run(graph))))[0]
    long_graph = api_graph("animate_photo")
    node_of(long_graph, "KSampler").update(seed=22, steps=400)
    prompt_id = host.queue(long_graph)
    time.sleep(0.3 + delay)
    host.post("/interrupt", {})
    assert failure_text(host.wait(prompt_id)) == "interrupted"
    node_of(graph, "KSampler")["denoise"] = 0.99999 + delay * 1e-6  # means 1.0, but the host's cache cannot answer
    after = decode_video(host.download(saved_video(host.run(graph))))[0]
    assert np.array_equal(after, fresh)
