"""Tests bind: where a function refuses everything, its tests fail, those of properties included."""

import ast
import importlib
import inspect
from collections import Counter
from pathlib import Path

import pytest
from binding import name_of
from forked_tests import CAUGHT, SURVIVED, ask, started
from pack.motion.analysis.head_map import HeadWatch
from pack.motion.builtin_model import bundle
from pack.motion.conditioning.motion_bucket import motion_bucket
from pack.motion.conditioning.noise_init import dct_init
from pack.motion.data.clips import digest
from pack.motion.data.latent_dataset import build_latent_dataset
from pack.motion.data.sources.folder import open_clip_folder
from pack.motion.devices import pick_device
from pack.motion.foreign_json import parse_json
from pack.motion.io.adapters.adapter_file import load_adapter, read_adapter, save_adapter
from pack.motion.io.files.atomic import make_folder, new_output, write_json, write_safetensors
from pack.motion.io.files.kind import shown
from pack.motion.io.files.names import check_output_name
from pack.motion.io.files.safetensors import check_values, read_header, read_safetensors
from pack.motion.io.files.weight_folder import open_weights, pointing_to
from pack.motion.io.media.photo import read_photo
from pack.motion.io.media.video import check_fps, write_video
from pack.motion.io.networks.builtin_names import builtin_path, weights_path
from pack.motion.io.networks.families import detect_family, weights_family
from pack.motion.io.networks.linear_video import compare_shapes, read_linear_video, save_linear_video
from pack.motion.io.pose_files import read_pose_file, write_pose_file
from pack.motion.layers.block_dct import coefficients_to_pixels, pixels_to_coefficients
from pack.motion.layers.letterbox import fit_square
from pack.motion.layers.warp import resample_flow, warp
from pack.motion.metrics.colour import mean_colour_difference
from pack.motion.metrics.dynamics import dynamics_degree
from pack.motion.metrics.motion_track import shrink
from pack.motion.metrics.optical_flow import has_cv2, median_length
from pack.motion.models.heads.flow_codec import FlowCodec, check_photo_size
from pack.motion.models.heads.flow_head import compose_clean
from pack.motion.models.latent_spaces import LatentSpace
from pack.motion.models.module_weights import is_untouched
from pack.motion.pipeline import animate_frames
from pack.motion.pose.keypoints import read_poses
from pack.motion.pose.renderer import draw_people
from pack.motion.pose.retarget import retarget
from pack.motion.pose.smoothing import jitter
from pack.motion.records import check_fields
from pack.motion.sampling.clip_places import clip_places
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.draw import draw, make_noise
from pack.motion.sampling.schedules import flow_sigmas, shift_sigma, sigma_to_timestep
from pack.motion.sampling.solvers import flow_dpm_2m
from pack.motion.scene_model import load_scene_model
from pack.motion.shell.console import say
from pack.motion.text.encoder import MotionTextEncoder
from pack.motion.text.vocabulary import MotionVocabulary
from pack.motion.training.objectives.objective import sample_means
from pack.motion.training.tasks.adapter_task import adapter_task

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
OFTEN = 5  # imported by so many files, a function needs a row below
PROPERTIES = sorted(path.name for path in TESTS.rglob("test_properties_*.py"))
WHILE_COLLECTED = {has_cv2}  # a decorator of tests calls it
BOUND_BY = {
    shown: "test_weight_folder.py",
    check_values: "test_prompts_file.py",
    read_linear_video: "test_linear_video_file.py",
    save_linear_video: "test_linear_video_file.py",
    check_fields: "test_linear_video_file.py",
    parse_json: "test_foreign_json.py",
    digest: "test_latent_dataset.py",
    detect_family: "test_linear_video_file.py",
    weights_family: "test_linear_video_file.py",
    flow_dpm_2m: "test_sampling_solvers.py",
    sample_means: "test_flow.py",
    warp: "test_flow_codec.py",
    shrink: "test_point_tracks.py",
    read_safetensors: "test_hostile_safetensors.py",
    read_header: "test_hostile_safetensors.py",
    write_json: "test_atomic.py",
    write_safetensors: "test_atomic.py",
    new_output: "test_atomic.py",
    make_folder: "test_latent_dataset.py",
    flow_sigmas: "test_sampling_solvers.py",
    sigma_to_timestep: "test_wan_trainee.py",
    check_photo_size: "test_flow_codec.py",
    write_video: "test_media.py",
    read_photo: "test_media.py",
    check_output_name: "test_media.py",
    pixels_to_coefficients: "test_flow_codec.py",
    coefficients_to_pixels: "test_flow_codec.py",
    FlowCodec.encode: "test_flow_codec.py",
    fit_square: "test_flow_codec.py",
    resample_flow: "test_flow_codec.py",
    compose_clean: "test_clean_estimate.py",
    open_weights: "test_weight_folder.py",
    pointing_to: "test_vae_file.py",
    bundle: "test_pipeline.py",
    builtin_path: "test_file_motions.py",
    MotionDenoiser.__call__: "test_sampling_residual.py",
    dynamics_degree: "test_dynamics.py",
    median_length: "test_optical_flow.py",
    mean_colour_difference: "test_colour.py",
    dct_init: "test_noise_init.py",
    motion_bucket: "test_noise_init.py",
    clip_places: "test_clip_places.py",
    LatentSpace.check_size: "test_latent_spaces.py",
    load_adapter: "test_adapter_file.py",
    save_adapter: "test_adapter_file.py",
    HeadWatch.__call__: "test_head_map.py",
    pick_device: "test_pipeline.py",
    MotionVocabulary.tokenize: "test_vocabulary.py",
    MotionTextEncoder.forward: "test_vocabulary.py",
    open_clip_folder: "test_clip_folder.py",
    is_untouched: "test_wan_block_adapters.py",
    animate_frames: "test_pipeline.py",
    weights_path: "test_scenes.py",
    say: "test_scenes.py",
    compare_shapes: "test_small_vae_file.py",
    draw: "test_scene_model.py",
    read_pose_file: "test_pose_files.py",
    write_pose_file: "test_pose_files.py",
    read_poses: "test_keypoints.py",
    draw_people: "test_pose_renderer.py",
    retarget: "test_retarget.py",
    jitter: "test_smoothing.py",
    make_noise: "test_draw.py",
    shift_sigma: "test_schedules.py",
    build_latent_dataset: "test_latent_dataset.py",
    adapter_task: "test_adapter_task.py",
    read_adapter: "test_adapter_file.py",
    check_fps: "test_media.py",
    load_scene_model: "test_scene_model.py",
}


def path_of(name):
    """A file of tests by its name, in whichever room it lives."""
    (path,) = TESTS.rglob(name)
    return path


def those_on(function, path):
    """Arguments of pytest for the tests of a file that name a function, or for all of them where none does."""
    name = function.rpartition(":")[2].rpartition(".")[2]
    tests = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "").startswith("test_")]
    naming = [node.name for node in tests if name in {
        getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node)
    }]  # fmt: skip
    return " ".join(f"{path}::{test}" for test in naming) or str(path)


def imports_of(path):
    """(module inside the pack, name) of each thing that a file imports from the pack by name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = ("pack", *package[: len(package) - node.level + 1]) if node.level else ()
            module = ".".join((*base, *filter(None, (node.module,))))
            if module.startswith("pack.motion."):
                yield from ((module, alias.name) for alias in node.names)


def functions_of(path):
    """Functions of motion/ that a file imports; of a class its call."""
    for module, name in sorted(set(imports_of(path))):
        found = getattr(importlib.import_module(module), name, None)
        found = vars(found).get("__call__") if inspect.isclass(found) else found
        if inspect.isfunction(found) and found not in WHILE_COLLECTED:
            yield name_of(found)


@pytest.fixture(scope="module")
def server():
    """The process that has the pack loaded and forks a child a run."""
    with started(TESTS / "helpers" / "binding.py") as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("function", BOUND_BY, ids=name_of)
def test_a_function_that_refuses_everything_fails_its_tests(server, function, tmp_path):
    tests = those_on(name_of(function), path_of(BOUND_BY[function]))
    told, words = ask(server, name_of(function), tests, log=tmp_path / "log")
    assert told == CAUGHT and (tmp_path / "log.reached").exists(), words[-1500:]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_no_property_holds_for_functions_that_refuse_everything(server, name, tmp_path):
    functions = " ".join(functions_of(path_of(name)))
    told, words = ask(server, functions, f"{path_of(name)} -rA", log=tmp_path / "log")
    assert told == CAUGHT and "FAILED" in words
    assert not [line for line in words.splitlines() if line.startswith("PASSED")]


@pytest.mark.slow
@pytest.mark.parametrize("name, function", [(name, function) for name in PROPERTIES
                                            for function in functions_of(path_of(name))])  # fmt: skip
def test_each_function_of_a_property_test_must_succeed_somewhere(server, name, function, tmp_path):
    told, words = ask(server, function, those_on(function, path_of(name)), log=tmp_path / "log")
    assert told == CAUGHT and (tmp_path / "log.reached").exists(), words[-1500:]


@pytest.mark.slow
def test_every_function_that_many_files_import_has_a_row():
    files = [path for room in ("motion", "nodes", "tools", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    count = Counter(function for path in files for function in functions_of(path))
    often = {function for function, number in count.items() if number >= OFTEN}
    assert len(often) > 10
    missing = often - set(map(name_of, BOUND_BY))
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("body, told", [
    ("    try:\n        assert flow_sigmas(4)[-1] == 0\n    except ConfigError:\n        pass\n", SURVIVED),
    ("    assert flow_sigmas(4)[-1] == 0\n", CAUGHT),
])
def test_a_test_that_puts_up_with_refusals_is_found(server, body, told, tmp_path):
    head = "from pack.motion.errors import ConfigError\nfrom pack.motion.sampling.schedules import flow_sigmas\n\n\n"
    (tmp_path / "test_toy.py").write_text(f"{head}def test_toy():\n{body}")
    assert ask(server, name_of(flow_sigmas), tmp_path / "test_toy.py", log=tmp_path / "log")[0] == told
    assert ask(server, name_of(dct_init), tmp_path / "test_toy.py", log=tmp_path / "log")[0] == SURVIVED
