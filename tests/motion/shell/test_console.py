"""The shell on consoles that are not UTF-8, with names no console can write: the run goes on and nothing is obeyed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pack.motion.io.media.video import read_photo, write_video
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
PHOTO = ROOT / "assets" / "raccoon.jpg"
CONSOLES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}
NAMES = {"emoji": "🦝 été", "not utf-8": os.fsdecode(b"caf\xe9"), "controls": "a\x1b[2Jb",
         "bidi": "a\u202eb"}  # fmt: skip
SHORT = ["--model", "motionblocks-tiny", "--frames", "2", "--steps", "1", "--device", "cpu"]


def shell(console, folder, *words):
    """Run the pack's shell on one kind of console; bytes come back."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    environment = {**plain, "OMP_NUM_THREADS": "1", **CONSOLES[console]}
    return subprocess.run([sys.executable, ROOT, *words], capture_output=True, env=environment, cwd=folder)


def check(done, code=0):
    """Insist on the exit code, on no traceback, and on output that steers no terminal."""
    assert done.returncode == code, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    for letter in (b"\x1b[2J", "\u202e".encode()):
        assert letter not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("console", "kind"), [("ascii", "emoji"), ("C locale", "bidi")])
def test_a_video_is_made_whatever_the_console_can_write(tmp_path, console, kind):
    """Progress bar included. The folder's name stands in the last line."""
    folder = tmp_path / NAMES[kind]
    folder.mkdir()
    Image.open(PHOTO).resize((40, 30)).save(folder / "photo.png")
    out = check(shell(console, tmp_path, "animate", folder / "photo.png", *SHORT, "-o", folder / "out.gif"))
    assert out.splitlines()[-1].startswith(b"video: ") and (folder / "out.gif").is_file()


@pytest.mark.parametrize("kind", list(NAMES))
def test_a_refusal_is_one_line_whatever_the_name(tmp_path, kind):
    done = shell("ascii", tmp_path, "animate", f"{NAMES[kind]}.png", *SHORT, "-o", "out.gif")
    check(done, code=2)
    assert len(done.stderr.splitlines()) == 1 and b"cannot be opened" in done.stderr


@pytest.mark.parametrize(("console", "kind"), [("cp1252", "emoji"), ("utf-8", "not utf-8"), ("utf-8", "controls")])
def test_info_answers_for_files_of_any_name(tmp_path, console, kind):
    target = tmp_path / f"{NAMES[kind]}.safetensors"
    target.symlink_to(ROOT / "weights" / "motionblocks-tiny.safetensors")
    assert b"family: " in check(shell(console, tmp_path, "info", target))


@pytest.mark.parametrize("console", ["ascii"])
def test_training_says_which_clips_were_skipped(tmp_path, console):
    clips = tmp_path / "clips"
    clips.mkdir()
    frames = read_photo(PHOTO)[:, :64, :64].movedim(0, -1).expand(4, -1, -1, -1)
    write_video(clips / "good.mp4", frames, 8)
    (clips / "good.txt").write_text("still")
    for name in NAMES.values():
        (clips / f"{name}.mp4").write_bytes(b"no video")
    job = {
        "clips": str(clips), "fps": 8, "output": str(tmp_path / "out.safetensors"), "device": "cpu",
        "windows": {"num_frames": 3, "stride_min": 1, "stride_max": 1, "windows_per_clip": 1},
        "training": {"num_steps": 1, "rank": 2, "targets": ["ff"]},
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    out = check(shell(console, tmp_path, "train", "--config", "job.json"))
    assert b"skipped 4" in out and (tmp_path / "out.safetensors").is_file()
