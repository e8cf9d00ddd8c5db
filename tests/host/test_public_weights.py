"""The workflows that need public weights, with tiny random ones of the true architectures under the same names.

Sizes, frames, steps and clips are cut down; node, input and file names are those that are shipped. The pictures are
noise, so what is checked is that every part fits the next one.
"""

import json
import struct

import numpy as np
import pytest
from host_page import open_page
from host_server import HostServer, decode_video, saved_video
from shipped_workflows import FPS, NEED_WEIGHTS, api_graph, node_of, page_graph

pytestmark = pytest.mark.host
SMALL = {  # name: (num_frames, height, width), {class: what is cut down}
    "sana_video_text_to_video": ((5, 32, 64), {
        "MotionBlocksEmptyLatent": {"width": 64, "height": 32, "num_frames": 5},
        "MotionBlocksFlowScheduler": {"num_steps": 3},
    }),
    "sana_video_image_to_video": ((5, 32, 64), {
        "ImageScale": {"width": 64, "height": 32}, "MotionBlocksImageToVideo": {"num_frames": 5},
        "KSampler": {"steps": 3},
    }),
    "sana_inflate_train_animate": ((4, 64, 64), {
        "MotionBlocksGenerateClips": {"num_clips": 2, "size": 64, "num_frames": 4},
        "ImageScale": {"width": 64, "height": 64}, "MotionBlocksImageToVideo": {"num_frames": 4},
        "MotionBlocksTrainMotionModel": {
            "steps": 3, "resolution": 64, "num_frames": 4, "sample_every": 0, "save_every": 0,
        },
        "MotionBlocksFlowScheduler": {"num_steps": 3},
    }),
}  # fmt: skip
LOADERS = {
    "MotionBlocksLoadModel": "model_name", "MotionBlocksInflateModel": "source_name",
    "MotionBlocksLoadVAE": "vae_name", "MotionBlocksLoadTextEncoder": "text_encoder_name",
}  # fmt: skip
I2V, T2V, TRAINED = "sana_video_image_to_video", "sana_video_text_to_video", "sana_inflate_train_animate"


def small(name):
    """A shipped graph, cut down."""
    graph = api_graph(name)
    for class_type, values in SMALL[name][1].items():
        assert values.keys() <= node_of(graph, class_type).keys()
        node_of(graph, class_type).update(values)
    return graph


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """One models/ tree for all hosts; it is only read."""
    pytest.importorskip("diffusers")
    pytest.importorskip("sentencepiece")
    from tiny_weights import write_models

    return write_models(tmp_path_factory.mktemp("weights") / "models")


@pytest.fixture(scope="module")
def stocked(host, models, tmp_path_factory):
    """A second server of the same host, with the weights among its models."""
    base = tmp_path_factory.mktemp("stocked") / "base"
    base.mkdir()
    (base / "models").symlink_to(models, target_is_directory=True)
    with HostServer(host.folder, base) as server:
        yield server


def run(server, graph):
    """Frames (t, h, w, 3) and rate of the video that a graph leaves."""
    return decode_video(server.download(saved_video(server.run(graph))))


def texts(server, graph):
    """What stands under the nodes, by class."""
    outputs = server.run(graph)
    return {graph[key]["class_type"]: node["text"][0] for key, node in outputs.items() if "text" in node}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_workflow_runs_from_the_loaders_to_the_video(stocked, name):
    graph = small(name)
    frames, fps = run(stocked, graph)
    assert frames.shape == (*SMALL[name][0], 3) and fps == FPS.get(name, 8.0)
    assert frames.std() > 5 and np.abs(np.diff(frames.astype(float), axis=0)).mean() > 0.5


@pytest.mark.parametrize("name", sorted(NEED_WEIGHTS))
def test_shipped_size_and_frames_are_what_their_vae_can_hold(name):
    from pack.motion.models.latent_spaces import SPACES

    graph = api_graph(name)
    space = SPACES["dcae" if name == TRAINED else "wan21"]
    sized = node_of(graph, "MotionBlocksEmptyLatent" if name == T2V else "ImageScale")
    counted = node_of(graph, "MotionBlocksEmptyLatent" if name == T2V else "MotionBlocksImageToVideo")
    assert (counted["num_frames"], sized["height"], sized["width"]) == NEED_WEIGHTS[name]
    space.check_size(sized["width"], sized["height"], name)
    assert space.latent_frames(counted["num_frames"]) > 1


def test_nodes_say_what_they_loaded_and_what_belongs_to_it(stocked):
    told = texts(stocked, small(I2V))
    for words in ("SANA-Video", "Wan 2.1 VAE", "Gemma-2", "50 steps", "cfg 6", "81 frames"):
        assert words in told["MotionBlocksLoadModel"]
    assert "4k + 1 frames" in told["MotionBlocksLoadVAE"]
    assert "tokenizer" in told["MotionBlocksLoadTextEncoder"]
    assert "motion score: 30" in told["MotionBlocksEncodePrompts"]


def test_another_seed_another_prompt_and_another_dynamics_change_the_video(stocked):
    graph = small(I2V)
    first, _ = run(stocked, graph)
    for class_type, changed in (
        ("KSampler", {"seed": 2}), ("MotionBlocksEncodePrompts", {"dynamics": 3}),
        ("MotionBlocksEncodePrompts", {"positive": "rain"}),
    ):  # fmt: skip
        graph = small(I2V)
        node_of(graph, class_type).update(changed)
        assert not np.array_equal(run(stocked, graph)[0], first), changed


def test_inflated_and_trained_files_are_listed_and_animate_without_a_second_training(stocked):
    stocked.run(small(TRAINED))
    model = max(stocked.get("/models/diffusion_models"), key=lambda name: ("sana_inflated" in name, name))
    lora = max(stocked.get("/models/loras"), key=lambda name: ("sana_motion" in name, name))
    with_license = stocked.base / "output" / "diffusion_models" / model
    assert "NSCL" in metadata_of(with_license)["license"]
    graph = small(TRAINED)
    for key in [k for k, node in graph.items() if "Inflate" in node["class_type"] or "Generate" in node["class_type"]]:
        del graph[key]
    trained = next(key for key, node in graph.items() if node["class_type"] == "MotionBlocksTrainMotionModel")
    graph["90"] = {"class_type": "MotionBlocksLoadModel", "inputs": {
        "model_name": model, "weight_dtype": "default", "kernels": "auto"}}  # fmt: skip
    graph[trained] = {"class_type": "LoraLoaderModelOnly", "inputs": {
        "model": ["90", 0], "lora_name": lora, "strength_model": 1.0}}  # fmt: skip
    assert run(stocked, graph)[0].shape == (*SMALL[TRAINED][0], 3)


def metadata_of(path):
    """Metadata of a safetensors file."""
    with open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        return json.loads(handle.read(length))["__metadata__"]


def test_parts_that_lie_apart_serve_as_well_as_those_of_the_whole_folder(stocked):
    from tiny_weights import DCAE, GEMMA

    graph = small(TRAINED)
    together, _ = run(stocked, graph)
    node_of(graph, "MotionBlocksLoadVAE")["vae_name"] = DCAE
    node_of(graph, "MotionBlocksLoadTextEncoder")["text_encoder_name"] = GEMMA
    apart, _ = run(stocked, graph)
    assert np.array_equal(apart, together)


def test_sana_image_weights_make_a_video_without_a_file_in_between_and_say_untrained(stocked):
    from tiny_weights import SANA

    graph = small(T2V)
    for class_type, widget in LOADERS.items():
        if class_type != "MotionBlocksInflateModel":
            node_of(graph, class_type)[widget] = SANA
    node_of(graph, "MotionBlocksEmptyLatent").update(height=64, num_frames=4)
    assert run(stocked, graph)[0].shape == (4, 64, 64, 3)
    node_of(graph, "RandomNoise")["noise_seed"] = 2
    node_of(graph, "MotionBlocksLoadModel")["weight_dtype"] = "fp32"
    assert "untrained" in texts(stocked, graph)["MotionBlocksLoadModel"]


def refusals():
    """name of a graph, what is changed in it, words of the message; the row of docs/models.md is among them."""
    from tiny_weights import DCAE, SANA, SANA_VIDEO

    yield I2V, "MotionBlocksLoadVAE", {"vae_name": DCAE}, ("Wan 2.1 VAE", "docs/models.md")
    yield T2V, "MotionBlocksLoadVAE", {"vae_name": DCAE}, ("(1, 16, 2, 4, 8)", "DC-AE", "docs/models.md")
    yield TRAINED, "MotionBlocksLoadVAE", {"vae_name": SANA_VIDEO}, ("DC-AE", "docs/models.md")
    yield I2V, "MotionBlocksLoadModel", {"model_name": SANA}, ("(1, 16, 2, 4, 8)", "DC-AE", "docs/models.md")
    yield I2V, "MotionBlocksImageToVideo", {"num_frames": 6}, ("num_frames is 6", "4k + 1", "5 or 9")
    yield I2V, "ImageScale", {"width": 72}, ("72x32", "multiples of 16", "64x32 or 80x32")
    yield T2V, "MotionBlocksEmptyLatent", {"num_frames": 8}, ("num_frames is 8", "4k + 1", "5 or 9")
    yield TRAINED, "MotionBlocksInflateModel", {"source_name": SANA_VIDEO}, ("video model already", "docs/models.md")
    yield T2V, "MotionBlocksLoadModel", {"model_name": "sana-video.pth"}, ("sana-video.pth", "docs/models.md")
    yield T2V, "MotionBlocksLoadVAE", {"vae_name": "wan.safetensors"}, ("docs/models.md", "Wan 2.1 VAE")
    yield I2V, "MotionBlocksEncodePrompts", {"dynamics": 20}, ("20", "19")


def test_what_does_not_fit_is_refused_with_value_need_and_row(stocked):
    for name, class_type, changed, words in refusals():
        graph = small(name)
        node_of(graph, class_type).update(changed)
        told = stocked.fail(graph)
        assert all(word in told for word in words), (changed, told)


def test_text_of_another_width_is_refused_with_the_row_of_the_text_encoder(stocked):
    graph = small(I2V)
    graph["90"] = {"class_type": "MotionBlocksLoadBuiltin", "inputs": {
        "model_name": "motionblocks-tiny", "kernels": "auto"}}  # fmt: skip
    node_of(graph, "MotionBlocksEncodePrompts").update(clip=["90", 1], positive="pan left", negative="")
    told = stocked.fail(graph)
    assert "64" in told and "24" in told and "Gemma-2" in told and "docs/models.md" in told


def test_a_folder_that_breaks_while_the_host_runs_is_refused_and_a_mended_one_runs(stocked, models):
    from tiny_weights import SANA_VIDEO, WEIGHTS

    weights = models / "diffusion_models" / SANA_VIDEO / "transformer" / WEIGHTS
    whole = weights.read_bytes()
    for broken, words in (
        (whole[: len(whole) // 2], "download"), (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs"),
    ):  # fmt: skip
        try:
            weights.write_bytes(broken)
            told = stocked.fail(small(T2V))
        finally:
            weights.write_bytes(whole)
        assert words in told and "SANA-Video 480p" in told and "docs/models.md" in told, told
    assert run(stocked, small(T2V))[0].shape == (*SMALL[T2V][0], 3)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_without_the_weights_a_workflow_says_which_row_to_get_and_runs_nothing(host, name):
    told = host.fail(api_graph(name))
    assert "docs/models.md" in told and ("SANA 0.6B" if name == TRAINED else "SANA-Video 480p") in told
    named = sum(inputs["inputs"].get(LOADERS.get(inputs["class_type"])) in told for inputs in api_graph(name).values()
                if inputs["class_type"] in LOADERS)  # fmt: skip
    assert named, told


CUT = """(cut) => { for (const node of app.graph._nodes)
  for (const [name, value] of Object.entries(cut[node.type] || {}))
    node.widgets.find((widget) => widget.name === name).value = value; }"""


@pytest.mark.browser
def test_opening_cutting_down_and_pressing_run_makes_the_videos_and_nothing_overlaps(stocked, browser):
    from test_page import BROKEN, OPEN, check_layout, wait_for_new_entry

    page, reported = open_page(browser, stocked)
    try:
        for name in sorted(SMALL):
            before = set(stocked.get("/history"))
            reported.clear()  # what an old page reports of its own start is not ours
            page.evaluate(OPEN, page_graph(name))
            page.wait_for_timeout(1000)
            page.evaluate(CUT, SMALL[name][1])
            page.get_by_role("button", name="Run").first.click()
            entry = wait_for_new_entry(page, stocked, before)
            assert entry["status"]["status_str"] == "success" and saved_video(entry["outputs"])
            page.wait_for_timeout(1500)
            assert page.evaluate(BROKEN) == [] and reported == []
            check_layout(page)
    finally:
        page.close()
