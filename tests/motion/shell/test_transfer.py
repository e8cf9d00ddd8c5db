"""`prepare-motion-clip`, `classify-heads` and `train-motion-lora` as users type them, and `animate` with the LoRA."""

import json
import os

import pytest
import torch
from causal_clips import same_weights
from pack.motion.analysis.head_map import HeadMap
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.media.video import write_picture, write_video
from pack.motion.io.networks.builtin_wan import save_builtin_wan
from pack.motion.io.training.states import list_states
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.shell import main, train
from tiny_wan import fill

QUICK = ["--spatial-steps", "2", "--temporal-steps", "2", "--rank", "2", "--batch-size", "1", "--save-every", "1",
         "--quiet", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small Wan with words, two blocks of two heads."""
    spec = WanSpec(
        config=WanConfig(num_layers=2, num_attention_heads=2, hidden_width=16, caption_channels=64),
        sampling=SamplingDefaults(num_steps=1, guidance_scale=1.0, num_frames=17, fps=8.0, integer_timesteps=False),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "scene.safetensors"
    words = {"colour": ["red", "blue"], "shape": ["ball"]}
    save_builtin_wan(path, spec, fill(WanDiT(spec.config)).state_dict(), words)
    return str(path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "arc.mp4"
    picture = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(2))
    write_video(path, torch.stack([picture * n / 20 for n in range(20)]), 16)
    path.with_suffix(".txt").write_text("red ball")
    return str(path)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def head_map(desk, clip, weights):
    assert main.main(["classify-heads", clip, "--model", weights, "--device", "cpu", "--target-fraction", "0.5",
                      "-o", "half.json"]) == 0  # fmt: skip
    return "half.json"


def test_the_plan_of_a_clip_is_shown_with_its_caption_and_written_as_a_video(desk, clip, weights, capsys):
    assert main.main(["prepare-motion-clip", clip, "--model", weights, "-o", "few.gif", "--sparse-frames", "9"]) == 0
    said = capsys.readouterr().out
    assert "arc.mp4: 96x64 px, 20 frames at 16 fps" in said and "caption: red ball" in said
    assert "9 of them are trained, 3 latent frames: 0 2 4 6 8 10 12 14 16" in said
    assert f"video: {desk / 'few.gif'} (9 frames, 8 fps)" in said
    assert main.main(["prepare-motion-clip", os.path.dirname(clip), "--caption", "", "--start", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "caption: (none): name what is seen" in said and "17 frames at 16 fps, 1.00 s, 5 latent frames: 2 3" in said


def test_heads_are_written_as_json_and_a_picture_and_judged_again_without_a_look(desk, head_map, clip, capsys):
    found = HeadMap.from_json((desk / head_map).read_text())
    assert found.temporal.sum() == 2 and (desk / "half.png").read_bytes().startswith(b"\x89PNG")
    again = ["classify-heads", head_map, "--target-fraction", "0.25", "-o", "quarter.json"]
    assert main.main(again) == 0
    said = capsys.readouterr().out
    assert "1 of 4 heads are temporal" in said and f"picture: {desk / 'quarter.png'}" in said
    other = HeadMap.from_json((desk / "quarter.json").read_text())
    assert other.temporal.sum() == 1 and torch.equal(other.space, found.space)
    assert main.main(again) == 2 and "quarter.json exists; choose another output" in capsys.readouterr().err
    assert main.main([*again, "--overwrite"]) == 0


def test_one_clip_becomes_two_loras_and_animate_draws_with_the_one_of_the_motion(desk, head_map, clip, weights, capsys):
    given = ["train-motion-lora", clip, "--model", weights, "-o", "arc.safetensors", "--head-map", head_map, *QUICK]
    assert main.main(given) == 0
    said = capsys.readouterr().out
    assert f"motion LoRA: {desk / 'arc.safetensors'} (4 steps, last loss" in said
    assert "animate --prompt … --lora arc.safetensors --lora-strength 1" in said
    told = [read_safetensors(desk / name)[1] for name in ("arc.safetensors", "arc_spatial.safetensors")]
    assert [part["stage"] for part in told] == ["temporal", "spatial"]
    wanted = {"caption": "red ball", "rank": "2", "frame_places": "stride", "license": "Apache-2.0",
              "base_model": "scene.safetensors", "input_channels": "16",
              "frames": json.dumps(list(range(17)))}  # fmt: skip
    assert all(part[name] == value for part in told for name, value in wanted.items())
    assert HeadMap.from_json(told[0]["head_map"]).fingerprint == told[0]["head_map_fingerprint"]
    draw = ["animate", "--prompt", "blue ball", "--model", weights, "--quiet", "--device", "cpu", "--frames", "9"]
    for name, more in (("base", []), ("moved", ["--lora", "arc.safetensors"]),
                       ("none", ["--lora", "arc.safetensors", "--lora-strength", "0"]),
                       ("strong", ["--lora", "arc.safetensors", "--lora-strength", "30"])):  # fmt: skip
        assert main.main([*draw, *more, "-o", f"{name}.gif"]) == 0
    base, none, strong = ((desk / f"{name}.gif").read_bytes() for name in ("base", "none", "strong"))
    assert base == none != strong
    assert main.main(given) == 2 and "arc.safetensors exists" in capsys.readouterr().err


def test_a_model_that_animates_photos_learns_one_clips_motion_by_its_layers_for_time(desk, clip, capsys, monkeypatch):
    given = ["train-motion-lora", clip, "--model", "motionblocks-tiny", "--caption", "pan left", "--num-frames", "5",
             "--sparse-frames", "3", *QUICK]  # fmt: skip
    assert main.main([*given, "-o", "pan.safetensors", "--temporal-steps", "3"]) == 0
    told = read_safetensors(desk / "pan.safetensors")[1]
    wanted = {"stage": "temporal", "heads": "temporal", "base_model": "motionblocks-tiny", "license": "Apache-2.0",
              "trained_size": "64x64 px, 3 of 5 frames", "frames": "[0, 4, 8]", "training_steps": "3"}  # fmt: skip
    assert {name: told[name] for name in wanted} == wanted and not (desk / "pan_spatial.safetensors").exists()
    said = capsys.readouterr().out
    assert f'animate PHOTO --motion "pan left" --dynamics {told["dynamics"]} --lora pan.safetensors' in said
    picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(5))
    write_picture(desk / "photo.png", picture)
    draw = ["animate", "photo.png", "--motion", "pan left", "--quiet", "--device", "cpu", "--frames", "3",
            "--steps", "1"]  # fmt: skip
    for name, more in (("base", []), ("none", ["--lora", "pan.safetensors", "--lora-strength", "0"]),
                       ("strong", ["--lora", "pan.safetensors", "--lora-strength", "30"])):  # fmt: skip
        assert main.main([*draw, *more, "-o", f"{name}.gif"]) == 0
    base, none, strong = ((desk / f"{name}.gif").read_bytes() for name in ("base", "none", "strong"))
    assert base == none != strong
    original = train.Terminal.step

    def press(terminal, report, losses):
        original(terminal, report, losses)
        if report.step == 2:
            raise KeyboardInterrupt("the state of step 2 is saved")

    with monkeypatch.context() as held:
        held.setattr(train.Terminal, "step", press)
        assert main.main([*given, "-o", "cut.safetensors", "--temporal-steps", "3"]) == 130
    assert main.main([*given, "-o", "cut.safetensors", "--temporal-steps", "3", "--resume"]) == 0
    assert same_weights(desk / "pan.safetensors", desk / "cut.safetensors")


def test_ctrl_c_saves_and_resume_goes_on_to_the_same_bits(desk, head_map, clip, weights, capsys, monkeypatch):
    given = ["train-motion-lora", clip, "--model", weights, "--head-map", head_map, *QUICK]
    assert main.main([*given, "-o", "whole.safetensors"]) == 0
    original = train.Terminal.step

    def press(terminal, report, losses):
        original(terminal, report, losses)
        if report.step == 2:
            raise KeyboardInterrupt("the state of step 2 is saved")

    with monkeypatch.context() as held:
        held.setattr(train.Terminal, "step", press)
        assert main.main([*given, "-o", "cut.safetensors"]) == 130
    assert "cancelled; the state of step 2" in capsys.readouterr().err and not (desk / "cut.safetensors").exists()
    assert list_states(desk / "cut.states")[0].name == "state-00000002"
    assert main.main([*given, "-o", "cut.safetensors", "--resume", "--heads", "temporal"]) == 2
    assert "heads was all, is temporal" in capsys.readouterr().err
    assert main.main([*given, "-o", "cut.safetensors", "--resume"]) == 0
    assert same_weights(desk / "whole.safetensors", desk / "cut.safetensors")


@pytest.mark.parametrize("arguments, words", [
    (["prepare-motion-clip", "nothing.mp4"], "nothing.mp4: cannot be opened"),
    (["prepare-motion-clip", "CLIP", "--num-frames", "16"], "num_frames is 16; Wan holds 4k + 1"),
    (["classify-heads", "CLIP", "--sigmas", "much"], "--sigmas is 'much'; numbers with commas"),
    (["classify-heads", "CLIP", "--seeds", "0"], "--seeds is 0"),
    (["classify-heads", "CLIP", "-o", "map.png"], "output map.png must end with .json"),
    (["classify-heads", "CLIP", "--model", "motionblocks-tiny"], "(attn_temporal) are apart already"),
    (["train-motion-lora", "CLIP", "--model", "motionblocks-tiny", "--head-map", "none.json"], "none.json: cannot be"),
    (["train-motion-lora", "CLIP", "--model", "motionblocks-tiny", "--stage", "spatial"], "it has no spatial stage"),
    (["train-motion-lora", "CLIP", "--model", "motionblocks-tiny", "--vae", "x"], "holds its own VAE"),
    (["train-motion-lora", "CLIP", "--model", "motionblocks-tiny", "--caption", "red ball"], "unknown word"),
    (["train-motion-lora", "CLIP", "--caption", "green ball"], "unknown word 'green'"),
    (["train-motion-lora", "CLIP", "--head-map", "none.json"], "none.json: cannot be read"),
    (["train-motion-lora", "CLIP", "--vae", "x"], "vae: "), (["train-motion-lora", "CLIP", "-o", "a.mp4"], "must end"),
])  # fmt: skip
def test_every_refusal_is_one_line_with_code_2_and_writes_no_file(desk, clip, weights, capsys, arguments, words):
    arguments = [clip if argument == "CLIP" else argument for argument in arguments]
    assert main.main([*arguments, *([] if "--model" in arguments else ["--model", weights])]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("motionblocks: ") and err.count("\n") == 1 and words in err
    assert not [name for name in os.listdir(desk) if os.path.isfile(name)]
