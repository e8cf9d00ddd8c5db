"""`animate --prompt`: words in, a video on the disk, and one line for everything that cannot be."""

import os

import pytest
import torch
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import save_adapter
from pack.motion.io.networks.builtin_wan import save_builtin_wan
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.scene_model import load_scene_model
from pack.motion.shell import main
from pack.motion.shell.scenes import parse_size
from PIL import Image


def saved(folder, concat_channels, **more):
    spec = WanSpec(
        config=WanConfig(num_layers=1, num_attention_heads=1, hidden_width=16, caption_channels=64,
                         concat_channels=concat_channels),
        sampling=SamplingDefaults(num_steps=1, guidance_scale=1.0, num_frames=17, fps=8.0, integer_timesteps=False),
    )  # fmt: skip
    torch.manual_seed(0)
    path = folder / "scene.safetensors"
    save_builtin_wan(path, spec, WanDiT(spec.config).state_dict(), {"colour": ["red"], "shape": ["ball"], **more})
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights"), 0)


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("image"), 20)


@pytest.fixture
def drawing(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawing") / "house.png"
    Image.new("RGB", (300, 240), (200, 30, 30)).save(path)
    return str(path)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_prompt_becomes_a_video_of_the_models_own_length(desk, weights, capsys):
    given = ["animate", "--prompt", "red ball", "--model", weights, "--quiet", "--device", "cpu"]
    assert main.main(given) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"video: {desk / 'scene.mp4'} (17 frames, 64x64, 8 fps)"
    more = ["--size", "96x64", "--frames", "5", "--fps", "4", "-o", "a.gif", "--seed", "3", "--steps", "2"]
    assert main.main([*given, *more]) == 0
    assert "(5 frames, 96x64, 4 fps)" in capsys.readouterr().out
    assert sorted(os.listdir(desk)) == ["a.gif", "scene.mp4"]


def test_a_colour_that_cannot_be_seen_on_its_ground_is_told(desk, tmp_path_factory, capsys):
    words = {"colour": ["red", "green"], "ground": ["grass", "snow"]}
    given = ["animate", "--model", saved(tmp_path_factory.mktemp("faint"), 0, **words), "--quiet", "--overwrite",
             "--device", "cpu", "--frames", "5", "--prompt"]  # fmt: skip
    for prompt, told in (("green, on grass", True), ("green, on snow", False), ("red, on grass", False)):
        assert main.main([*given, prompt]) == 0
        assert ("note: green on grass was never drawn" in capsys.readouterr().out) == told


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--prompt", "blue ball"], "unknown word 'blue'"), (["--prompt", "red", "--frames", "16"], "use 13 or 17"),
        (["--prompt", "red", "--size", "64"], "WIDTHxHEIGHT"),
        (["--prompt", "red", "--size", "512x512"], "64 to 192"), (["DRAWING", "--prompt", "red"], "takes no picture"),
        (["--prompt", "red", "--edges", "mirror"], "--edges: for"),
        (["--prompt", "red", "--motion", "pan left", "--dynamics", "3"], "--motion, --dynamics: for models"),
        (["--prompt", "red", "--model", "motionblocks-tiny"], "a Wan 2.1 or 2.2 video model is needed"), ([], "photo"),
    ],
)  # fmt: skip
def test_every_refusal_is_one_line_with_code_2_and_writes_nothing(desk, weights, drawing, capsys, arguments, words):
    arguments = [drawing if argument == "DRAWING" else argument for argument in arguments]
    options = [] if "--model" in arguments else ["--model", weights]
    assert main.main(["animate", *arguments, *options, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("motionblocks: ") and err.count("\n") == 1 and words in err
    assert os.listdir(desk) == []


def test_a_picture_and_a_prompt_become_a_video_of_the_pictures_shape(desk, image_weights, drawing, capsys):
    given = ["animate", "--prompt", "red ball", "--model", image_weights, "--quiet", "--device", "cpu"]
    assert main.main([*given, drawing]) == 0
    note, line = capsys.readouterr().out.splitlines()[-2:]
    assert line == f"video: {desk / 'house.mp4'} (17 frames, 80x64, 8 fps)" and "other pictures dissolve" in note
    assert main.main([*given, drawing, "--size", "64x96", "-o", "tall.gif"]) == 0
    assert "(17 frames, 64x96, 8 fps)" in capsys.readouterr().out
    assert main.main(given) == 2
    assert "goes on from a picture; give one, or use --model motionblocks-wan" in capsys.readouterr().err
    assert sorted(os.listdir(desk)) == ["house.mp4", "tall.gif"]


def test_sizes_are_width_by_height():
    assert parse_size("96x64") == (96, 64)
    for text in ("", "64", "-64x64", "64x64x3", "1e2x64"):
        with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
            parse_size(text)


def test_without_a_model_the_shipped_ones_are_taken(desk, drawing, capsys):
    given = ["animate", "--prompt", "red ball, on sand, moves left", "--steps", "1", "--quiet", "--device", "cpu"]
    assert main.main(given) == 0 and main.main([*given, drawing]) == 0
    said = capsys.readouterr().out
    assert "scene.mp4 (17 frames, 64x64, 8 fps)" in said and "house.mp4 (17 frames, 80x64, 8 fps)" in said


@pytest.mark.parametrize("channels", [0, 20])
def test_a_motion_adapter_moves_a_picture_with_either_kind_of_model(desk, drawing, capsys, channels):
    weights, path = saved(desk, channels), str(desk / "wave.safetensors")
    dit = load_scene_model(weights).dit
    miva = MIVA(dit, MIVAConfig(rank=2))
    for number, value in enumerate(miva.parameters().values()):
        value.data.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(number)) / 4)
    save_adapter(path, miva)
    given = ["animate", drawing, "--prompt", "", "--model", weights, "--quiet", "--device", "cpu"]
    assert main.main([*given, "--adapter", path, "-o", "with.gif"]) == 0
    assert main.main([*given, "--adapter", f"{path}:0.5", "-o", "half.gif"]) == 0
    assert "come to 0.5; 1 is most stable" in capsys.readouterr().out
    assert (desk / "with.gif").read_bytes() != (desk / "half.gif").read_bytes()
    if not channels:
        without = [part for part in given if part != drawing]
        assert main.main([*without, "--adapter", path, "-o", "none.gif"]) == 2
        assert "these motion adapters begin with a picture, and none is given" in capsys.readouterr().err
    assert main.main([*given[:3], "", "--model", saved(desk, 20 - channels), "--adapter", path, "-o", "x.gif"]) == 2
    assert "made for " in capsys.readouterr().err and not (desk / "x.gif").exists()
