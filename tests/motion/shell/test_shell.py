"""The shell: what a user types, what comes out, one line for every refusal, and nothing left after Ctrl-C."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.motion import pipeline
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.builtin_model import bundle
from pack.motion.io.adapters.adapter_file import save_adapter
from pack.motion.io.media import video as media
from pack.motion.io.media.video import read_video
from pack.motion.io.networks.linear_video import read_linear_video, save_linear_video
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec, SamplingDefaults
from pack.motion.models.playback.photo_player import PhotoPlayer
from pack.motion.shell import main
from pack.motion.shell.adapters import adapter_and_weight
from pack.motion.text.encoder import MotionTextEncoder
from pack.motion.text.vocabulary import MotionVocabulary
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """An untrained model of the built-in kind."""
    config = LinearVideoDiTConfig(
        in_channels=200, num_layers=1, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
        caption_channels=8, flow_channels=8, concat_first_frame=True, frame_index_embedding=True,
        pooled_text_embedding=True, position_features=True, prediction="x0",
    )  # fmt: skip
    spec = LinearVideoSpec(
        config=config,
        sampling=SamplingDefaults(num_steps=2, guidance_scale=1.0),
        latent=LatentSpec("builtin", 200, 8, 1.0, 64),
    )
    torch.manual_seed(0)
    text = MotionTextEncoder(MotionVocabulary().size, 8).state_dict()
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_linear_video(path, spec, LinearVideoDiT(config).state_dict(), text, {"recipe": "none\x1b[31m"})
    return str(path)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with a 31x24 photo in it."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return tmp_path


def shell(*command, **options):
    """Run a command line to its end in a process of its own."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=ONE_THREAD, **options)


def test_animate_writes_the_video_and_the_last_line_says_where(desk, weights, capsys):
    code = main.main(["animate", "photo.png", "--model", weights, "--motion", "pan left", "--frames", "3", "--quiet",
                     "--device", "cpu"])  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0 and err == ""
    assert out.splitlines()[-1] == f"video: {desk / 'photo.mp4'} (3 frames, 32x24, 8 fps)"
    assert "31x24 px was padded to even sides, 32x24" in out
    assert read_video(desk / "photo.mp4")[0].shape == (3, 24, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["a.mp4", "a.webp", "a.gif", "frames"])
def test_every_kind_of_output_holds_the_frames_and_counts_on(desk, weights, capsys, output):
    for expected in (output, output.replace("a.", "a_2.").replace("frames", "frames_2")):
        arguments = ["animate", "photo.png", "--model", weights, "--frames", "2", "--fps", "10", "-o", output]
        assert main.main([*arguments, "--quiet"]) == 0
        assert read_video(desk / expected)[0].shape[0] == 2
        assert str(desk / expected) in capsys.readouterr().out


def test_overwrite_replaces_the_file(desk, weights):
    (desk / "a.gif").write_text("old")
    arguments = ["animate", "photo.png", "--model", weights, "--frames", "2", "-o", "a.gif", "--overwrite", "--quiet"]
    assert main.main(arguments) == 0
    assert sorted(os.listdir(desk)) == ["a.gif", "photo.png"] and read_video(desk / "a.gif")[0].shape[0] == 2


def test_overwrite_makes_a_folder_of_frames_that_is_not_there_and_replaces_none(desk, weights, capsys):
    arguments = ["animate", "photo.png", "--model", weights, "--frames", "2", "-o", "frames", "--overwrite", "--quiet"]
    assert main.main(arguments) == 0 and len(os.listdir(desk / "frames")) == 2
    assert main.main(arguments) == 2 and "never overwritten" in capsys.readouterr().err
    assert sorted(os.listdir(desk)) == ["frames", "photo.png"]


@pytest.mark.parametrize(("motion", "is_told"), [("", True), (" slowly, the camera", True), ("still", False)])
def test_a_prompt_that_names_no_motion_is_told_and_a_still_one_is_not(desk, weights, capsys, motion, is_told):
    arguments = ["animate", "photo.png", "--model", weights, "--frames", "2", "-o", "a.gif", "--quiet"]
    assert main.main([*arguments, "--motion", motion]) == 0
    assert ("note: no motion was named" in capsys.readouterr().out) == is_told


def test_motion_adapters_act_together_by_their_weights_and_a_loose_sum_is_told(desk, weights, capsys):
    dit = bundle(read_linear_video(weights), device=torch.device("cpu")).dit
    for name, seed in (("sway", 0), ("pulse", 1)):
        adapter = MIVA(dit, MIVAConfig(rank=2), seed=seed)
        with torch.no_grad():
            for value in adapter.parameters().values():
                value.normal_(generator=torch.Generator().manual_seed(seed))
        save_adapter(desk / f"{name}.safetensors", adapter)

    def video(*adapters):
        given = [part for text in adapters for part in ("--adapter", text)]
        arguments = ["animate", "photo.png", "--model", weights, "--frames", "3", "-o", "a", "--quiet", *given]
        assert main.main(arguments) == 0
        out = capsys.readouterr().out
        frames = read_video(out.splitlines()[-1].removeprefix("video: ").rpartition(" (")[0])[0]
        return frames, "1 is most stable" in out

    (plain, _), (one, told) = video("sway.safetensors:0"), video("sway.safetensors")
    halves = ("sway.safetensors:0.5", "pulse.safetensors:0.5")
    (both, of_both), (swapped, _) = video(*halves), video(*reversed(halves))
    (_, loose) = video("sway.safetensors", "pulse.safetensors")
    assert (told, of_both, loose) == (False, False, True)
    assert not torch.equal(plain, one) and not torch.equal(one, both)
    assert (both - swapped).abs().max() <= 1 / 255


def test_a_shipped_adapter_is_known_by_its_name(desk, capsys):
    outs = []
    for more in ([], ["--adapter", "jelly:0"], ["--adapter", "jelly"]):
        arguments = ["animate", "photo.png", "--motion", "", "--frames", "3", "--steps", "1", "--quiet"]
        assert main.main([*arguments, "-o", f"{len(outs)}", *more]) == 0
        outs.append(read_video(desk / f"{len(outs)}")[0])
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [("a.safetensors", "a.safetensors", 1.0), ("a:0.5", "a", 0.5), ("C:\\a.safetensors", "C:\\a.safetensors", 1.0),
     ("C:\\a:-.25", "C:\\a", -0.25), (":1", ":1", 1.0)],
)  # fmt: skip
def test_a_weight_stands_behind_the_last_colon(text, path, weight):
    assert adapter_and_weight(text) == (path, weight)


def test_progress_bar_counts_the_steps(desk, weights, capsys):
    assert main.main(["animate", "photo.png", "--model", weights, "--frames", "2", "--steps", "3", "-o", "a.gif"]) == 0
    assert "3/3" in capsys.readouterr().err


def test_same_seed_same_frames_and_narrow_types_run(desk, weights):
    for name, options in (("a", []), ("b", []), ("c", ["--seed", "7"]), ("d", ["--dtype", "bfloat16"])):
        arguments = ["animate", "photo.png", "--model", weights, "--frames", "3", "-o", name, "--quiet", *options]
        assert main.main(arguments) == 0
    videos = {name: read_video(desk / name)[0] for name in "abcd"}
    assert torch.equal(videos["a"], videos["b"]) and not torch.equal(videos["a"], videos["c"])
    assert torch.equal(videos["a"][0], videos["d"][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png"], "none.png: the photo cannot be opened"),
        (["photo.png", "--motion", "explode"], "unknown word 'explode'"),
        (["photo.png", "--dynamics", "20"], "dynamics is 20"),
        (["photo.png", "--dynamics", "many"], "argument --dynamics"),
        (["photo.png", "--frames", "1"], "num_frames is 1"),
        (["photo.png", "--frames", "0"], "num_frames is 0"),
        (["photo.png", "--steps", "0"], "--steps is 0; at least 1 is needed; leave it out for this model's own 2"),
        (["photo.png", "--fps", "0"], "fps is 0"),
        (["photo.png", "--fps", "nan"], "fps is nan"),
        (["photo.png", "--guidance", "nan"], "guidance_scale is nan"),
        (["photo.png", "--seed", "-1"], "seed is -1"),
        (["photo.png", "--device", "toaster"], "device 'toaster'"),
        (["photo.png", "--dtype", "int8"], "argument --dtype"),
        (["photo.png", "-o", "a.avi"], "ends in '.avi'"),
        (["photo.png", "-o", "no/a.mp4"], "does not exist; create it first"),
        (["photo.png", "-o", "x" * 300 + ".mp4"], "304 bytes long"),
        (["photo.png", "-o", ".."], "names no file"),
        (["photo.png", "-o", ".", "--overwrite"], "names no file"),
        (["photo.png", "--model", "nosuch"], "built-in are: motionblocks-tiny, motionblocks-small"),
        (["photo.png", "--model", "motionblocks-tiny", "--motion", "snowing"], "the model motionblocks-small knows it"),
        (["photo.png", "--model", "photo.png"], "a PNG picture"),
        (["photo.png", "--model", "model.ckpt"], "pickles"),
        (["photo.png", "--surprise"], "unrecognized arguments: --surprise"),
        ([], "photo"),
    ],
)
def test_every_refusal_is_one_line_with_code_2_and_writes_nothing(desk, weights, capsys, arguments, words):
    options = [] if "--model" in arguments else ["--model", weights]
    assert main.main(["animate", *arguments, *options, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("motionblocks: ") and err.count("\n") == 1 and words in err
    assert os.listdir(desk) == ["photo.png"]


@pytest.mark.slow
def test_guidance_that_the_model_was_not_made_for_is_obeyed_with_a_warning(desk, capsys):
    common = ["animate", "photo.png", "--frames", "2", "--steps", "1", "--device", "cpu", "--quiet"]
    for more, is_told in ((["--guidance", "3"], True), (["--guidance", "1"], False), ([], False)):
        assert main.main([*common, *more]) == 0
        assert ("guidance 3 is used as asked" in capsys.readouterr().out) == is_told


@pytest.mark.slow
def test_what_is_shown_otherwise_or_weakened_is_told(desk, capsys):
    common = ["animate", "photo.png", "--frames", "3", "--steps", "2", "--device", "cpu", "--quiet"]
    assert main.main([*common, "--motion", "pan left", "--dynamics", "19"]) == 0
    assert "note: the photo is enlarged 1." in capsys.readouterr().out
    assert main.main([*common, "--motion", "pan left", "--dynamics", "19", "--edges", "mirror"]) == 0
    assert "enlarged" not in capsys.readouterr().out
    assert main.main([*common, "--model", "motionblocks-small", "--motion", "swing"]) == 0
    assert "'swing' at dynamics 12 moves with strength 3" in capsys.readouterr().out


def test_a_region_must_have_the_photos_shape(desk, capsys):
    from PIL import Image

    Image.new("L", (62, 48), 255).save(desk / "mask.png")  # twice the photo's size
    Image.new("L", (24, 24), 255).save(desk / "square.png")
    common = ["animate", "photo.png", "--frames", "2", "--steps", "1", "--device", "cpu", "--quiet"]
    assert main.main([*common, "--region", "mask.png"]) == 0
    assert main.main([*common, "--region", "square.png"]) == 2
    assert "the mask is 24x24 px, the photo 31x24; one of the same shape is needed" in capsys.readouterr().err


def test_no_command_and_unknown_command_are_one_line_with_code_2(capsys):
    for arguments in ([], ["fly"]):
        assert main.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_output_folders_with_dots_lead_where_the_shell_says(desk, weights):
    (desk / "in").mkdir()
    assert main.main(["animate", "photo.png", "--model", weights, "--frames", "2", "-o", "in/../a.gif", "--quiet"]) == 0
    assert (desk / "a.gif").exists()


def test_cancel_while_sampling_or_encoding_leaves_no_file(desk, weights, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for module, name in ((pipeline, "animate_frames"), (media, "_encode_mp4"), (PhotoPlayer, "byte_frame")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            assert main.main(["animate", "photo.png", "--model", weights, "--frames", "2", "--quiet"]) == 130
        assert "cancelled" in capsys.readouterr().err and os.listdir(desk) == ["photo.png"]


def test_info_tells_family_config_and_recipe_of_our_file_without_raw_control_characters(weights, capsys):
    assert main.main(["info", weights]) == 0
    out = capsys.readouterr().out
    assert "family: linear_video_dit" in out and "num_layers 1" in out and "recipe: none" in out and "\x1b" not in out


def test_info_names_foreign_files_and_refuses_broken_ones(desk, capsys):
    from safetensors.torch import save_file

    save_file({"blocks.0.cross_attn.q.lora_A.weight": torch.zeros(1)}, "lora.safetensors")
    assert main.main(["info", "lora.safetensors"]) == 0
    assert "a LoRA for Wan" in capsys.readouterr().out
    assert main.main(["info", "photo.png"]) == 2
    assert "a PNG picture" in capsys.readouterr().err


@pytest.mark.parametrize("as_folder", [True, False])
def test_info_says_what_sana_weights_need_by_their_headers(desk, capsys, as_folder):
    from pack.motion.io.networks.sana_layouts import sana_shapes
    from pack.motion.models.sana_video.dims import SanaDims
    from safetensors.torch import save_file

    dims = SanaDims(num_layers=1, num_attention_heads=36, hidden_width=144, caption_channels=4)
    folder = desk / "Sana" / "transformer"
    folder.mkdir(parents=True)
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in sana_shapes(dims).items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text('{"_class_name": "SanaTransformer2DModel"}')
    given = desk / "Sana" if as_folder else folder / "diffusion_pytorch_model.safetensors"
    assert main.main(["info", str(given)]) == 0
    out = capsys.readouterr().out
    count = sum(tensor.numel() for tensor in tensors.values())
    assert f"{count:,} parameters" in out and "DC-AE f32c32 (row DC-AE)" in out and "untrained" in out


def test_motions_of_a_model_are_those_its_file_names(capsys):
    assert main.main(["motions", "--model", "motionblocks-small"]) == 0
    listed = set(capsys.readouterr().out.split("\n"))
    assert {"bounce", "clouds", "pan left"} < listed and not listed & {"spin", "waterfall"}, "read, but not proposed"


def test_motions_lists_the_vocabulary(capsys):
    assert main.main(["motions"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == list(MotionVocabulary().words)
    assert "motionblocks-small knows more" in err and "motions --model motionblocks-small" in err


def test_missing_package_is_one_line(capsys, monkeypatch):
    def run(options):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("pack.motion.shell.weights._motions", run)
    assert main.main(["motions"]) == 2
    assert "package 'torch' is missing" in capsys.readouterr().err


def test_help_comes_without_loading_torch(desk):
    code = f"import sys, runpy; sys.argv = ['x', '--help']; sys.path.insert(0, {str(ROOT)!r})\n"
    code += f"try: runpy.run_path({str(ROOT)!r}, run_name='__main__')\nexcept SystemExit: print('torch' in sys.modules)"
    done = shell(sys.executable, "-c", code)
    assert "animate" in done.stdout and done.stdout.endswith("False\n"), done.stderr


@pytest.mark.slow
def test_folder_runs_as_a_program_from_anywhere_and_loads_nothing_heavy(desk, weights):
    (desk / "nodes.py").write_text("raise SystemExit('a stranger was imported')")
    python = (sys.executable, "-X", "importtime")
    done = shell(*python, ROOT, "animate", "photo.png", "--model", weights, "--frames", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"video: {desk / 'photo.mp4'}")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "motionblocks_pack.motion.pipeline" in loaded
    assert not loaded & {"torch._dynamo", "sympy", "cv2", "diffusers", "triton", "nodes", "motion"}


def test_wrapper_finds_its_folder_through_links_and_spaces(desk):
    (desk / "my bin").mkdir()
    os.symlink(ROOT / "motionblocks", desk / "my bin" / "mb")
    done = shell("./mb", "motions", cwd=desk / "my bin")
    assert done.returncode == 0 and "zoom in" in done.stdout, done.stderr


def test_wrapper_takes_the_python_of_its_own_environment_else_python3(desk):
    pack = desk / "pack"
    pack.mkdir()
    shutil.copy(ROOT / "motionblocks", pack / "motionblocks")
    path = desk / "path"
    path.mkdir()
    for tool in ("dirname", "readlink"):
        os.symlink(shutil.which(tool), path / tool)
    run = [str(pack / "motionblocks"), "a b"]

    def fake(file, word):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\necho {word} "$@"\n')
        file.chmod(0o755)

    done = subprocess.run(run, env={"PATH": str(path)}, capture_output=True, text=True)
    assert done.returncode == 2 and "python3 is missing" in done.stderr
    fake(path / "python3", "system")
    assert subprocess.run(run, env={"PATH": str(path)}, capture_output=True, text=True).stdout == f"system {pack} a b\n"
    fake(pack / ".venv" / "bin" / "python", "own")
    assert subprocess.run(run, env={"PATH": str(path)}, capture_output=True, text=True).stdout == f"own {pack} a b\n"


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_with_one_line_and_no_file(desk, weights):
    command = [sys.executable, str(ROOT), "animate", "photo.png", "--model", weights, "--steps", "10000"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env=ONE_THREAD, cwd=desk,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in what they run behind
    )  # fmt: skip
    seen, start = b"", time.monotonic()
    while b"10000" not in seen and time.monotonic() - start < 60:
        seen += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and b"Traceback" not in rest
    assert rest.strip().endswith(b"motionblocks: cancelled; no video was written")
    assert os.listdir(desk) == ["photo.png"]


@pytest.mark.slow
def test_cold_run_at_512_px_takes_at_most_10_seconds_of_one_core(desk):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)).save("big.png")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = shell(sys.executable, ROOT, "animate", "big.png", "--device", "cpu", "-o", "out.mp4")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 10


PEAK = """
import runpy, sys
root, sys.argv = sys.argv[1], sys.argv[1:]
sys.path.insert(0, root)
try:
    runpy.run_path(root, run_name="__main__")
except SystemExit as done:
    kilobytes = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(done.code, kilobytes)
"""


def peak_of_shell(*arguments):
    """Bytes that a run of the shell held at most."""
    done = shell(sys.executable, "-c", PEAK, ROOT, *arguments)
    code, kilobytes = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    return int(kilobytes) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_of_a_large_video_does_not_grow_with_its_length(desk, weights):
    Image.fromarray(np.random.default_rng(0).integers(96, 160, (1400, 2100, 3), dtype=np.uint8)).save("big.png")
    base = ["animate", "big.png", "--model", weights, "--device", "cpu", "--quiet", "--frames"]
    short, long = (peak_of_shell(*base, frames) for frames in (28, 48))  # below 28 the allocator's arenas still fill
    assert long - short <= 50e6 and long <= 1e9, (short, long)
