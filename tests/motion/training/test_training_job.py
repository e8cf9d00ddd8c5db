"""Training from the shell: job files are strict, the result loads, Ctrl-C saves, the shipped example runs."""

import json
import signal
import time
from pathlib import Path

import av
import pytest
import torch
from pack.motion.adapters.lora import LoRA
from pack.motion.builtin_model import bundle, load_builtin
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.media.video import write_video
from pack.motion.io.networks.linear_video import read_linear_video
from pack.motion.io.training.states import list_states
from pack.motion.shell.main import main
from pack.motion.training.job import TrainingJob, read_job, run_job
from pack.motion.training.reports import Watcher
from pack.motion.training.trainer import Trainer

FIELD = Path(__file__).resolve().parents[2] / "field"
EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "training" / "pan_left.yaml"
DRAWN = {"num_clips": 2, "motions": ["pan left"], "num_frames": 3, "size": 64}
WINDOWS = {"num_frames": 3, "stride_min": 1, "stride_max": 1, "windows_per_clip": 1}
TRAINING = {"num_steps": 3, "rank": 2, "alpha": 2.0, "learning_rate": 1e-3, "targets": ["attn1", "ff"]}


def write_job(folder, name="job.json", **changes):
    training = TRAINING | changes.pop("training", {})
    values = {"generate": DRAWN, "output": str(folder / "out" / "a.safetensors"), "training": training,
              "windows": WINDOWS, "device": "cpu", **changes}  # fmt: skip
    path = folder / name
    path.write_text(json.dumps(values))
    return path


@pytest.mark.slow
def test_shipped_example_is_read_as_it_stands_and_trains_a_lora_that_loads(tmp_path):
    job = read_job(EXAMPLE)
    assert job.training.optimizer.learning_rate == 1e-3 and job.training.adapter.mode == "lora"
    assert job.model == "motionblocks-tiny"
    text = EXAMPLE.read_text().replace("num_clips: 24", "num_clips: 2").replace("num_steps: 200", "num_steps: 2")
    path = tmp_path / "short.yaml"
    path.write_text(text.replace("demo/", f"{tmp_path}/demo/").replace("num_frames: 16", "num_frames: 3"))
    assert main(["train", "--config", str(path), "--quiet"]) == 0
    model = load_builtin()
    lora = load_adapter(tmp_path / "demo" / "pan_left.safetensors", model.dit)
    assert {layer.rank for layer in lora.layers.values()} == {8}
    assert any(layer.up.abs().max() > 0 for layer in lora.layers.values())
    assert [state.name for state in list_states(tmp_path / "demo" / "pan_left.states")] == ["state-00000002"]


@pytest.mark.slow
def test_another_pyav_is_told_on_resume_and_does_not_stand_in_its_way(tmp_path, monkeypatch, caplog):
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        frames = torch.rand(6, 32, 48, 3, generator=torch.Generator().manual_seed(number))
        write_video(clips / f"{number}.mp4", frames, 24)
    common = {"generate": None, "clips": str(clips), "caption": "still"}

    class Stopping(Watcher):
        def step(self, report, losses):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(read_job(write_job(tmp_path, **common)), Stopping())
    (state,) = list_states(tmp_path / "out" / "a.states")
    assert json.loads((state / "state.json").read_text())["task"]["data"]["decoder"] == av.__version__
    real = av.__version__
    monkeypatch.setattr(av, "__version__", "99.1.0")
    done = run_job(read_job(write_job(tmp_path, resume="latest", **common)))
    assert done.training.step == 3 and f"read with PyAV {real}, now with 99.1.0" in caplog.text


def test_clips_of_a_job_may_be_cancelled_while_they_are_read(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "a.mp4", torch.rand(6, 32, 48, 3), 24)
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(read_job(write_job(tmp_path, generate=None, clips=str(clips), caption="still")), check=check)
    assert len(asked) == 3


@pytest.mark.slow
def test_shell_animates_with_a_lora_at_a_strength_and_says_what_its_file_leaves_open(tmp_path, capsys):
    dit = load_builtin().dit
    lora = LoRA(dit, targets=("ff",), rank=2, alpha=2.0)
    for layer in lora.layers.values():
        layer.up.data.fill_(0.05)
    tensors = {name: value for name, value in lora.tensors().items() if not name.endswith(".alpha")}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    photo = Path(__file__).resolve().parents[3] / "assets" / "raccoon.jpg"
    common = ["animate", str(photo), "--frames", "2", "--steps", "1", "--device", "cpu", "--quiet"]
    adapted = [*common, "--lora", str(tmp_path / "a.safetensors")]
    for name, command in (("none", common), ("off", [*adapted, "--lora-strength", "0"]), ("on", adapted)):
        assert main([*command, "-o", str(tmp_path / name)]) == 0
    none, off, on = (sorted((tmp_path / name).iterdir())[-1].read_bytes() for name in ("none", "off", "on"))
    assert none == off != on
    assert capsys.readouterr().out.count("note: the LoRA does not say its alpha; alpha = rank is used") == 2


@pytest.mark.slow
def test_full_training_writes_a_model_that_loads_with_its_text_encoder(tmp_path, capsys):
    path = write_job(tmp_path, training={"mode": "full", "ema_decay": 0.5, "num_steps": 2})
    assert main(["train", "--config", str(path), "--quiet"]) == 0
    assert "model: " in capsys.readouterr().out
    file, base = read_linear_video(tmp_path / "out" / "a.safetensors"), load_builtin()
    trained = bundle(file)
    assert file.spec == base.spec and file.metadata["base_model"] == "motionblocks-tiny"
    before, after = base.dit.state_dict(), trained.dit.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    words = base.text_encoder.state_dict()
    assert all(torch.equal(value, trained.text_encoder.state_dict()[name]) for name, value in words.items())
    again = write_job(tmp_path, "more.json", model=str(tmp_path / "out" / "a.safetensors"),
                      output=str(tmp_path / "b.safetensors"))  # fmt: skip
    assert main(["train", "--config", str(again), "--quiet"]) == 0


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_the_job_goes_on_to_the_same_end(tmp_path, monkeypatch, capsys):
    class Interrupted(Trainer):
        def _update(self, rate):
            super()._update(rate)
            if self.step == 2:
                signal.raise_signal(signal.SIGINT)

    path = write_job(tmp_path)
    monkeypatch.setattr("pack.motion.training.run.Trainer", Interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main(["train", "--config", str(path), "--quiet"]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    told = capsys.readouterr().err
    assert "cancelled; the state of step 2 is in" in told and "--resume goes on" in told
    monkeypatch.undo()
    assert main(["train", "--config", str(path), "--quiet"]) == 2
    assert "holds states of an earlier run" in capsys.readouterr().err
    assert main(["train", "--config", str(path), "--quiet", "--resume"]) == 0
    other = write_job(tmp_path, "other.json", output=str(tmp_path / "whole.safetensors"))
    assert main(["train", "--config", str(other), "--quiet"]) == 0
    dit = load_builtin().dit
    one, two = (load_adapter(tmp_path / name, dit).parameters() for name in ("out/a.safetensors", "whole.safetensors"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_existing_output_is_refused_before_anything_is_computed(tmp_path):
    path = write_job(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.safetensors").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists; choose another name, resume, or say overwrite: true"):
        run_job(read_job(path))
    assert (tmp_path / "out" / "a.safetensors").read_bytes() == b"mine" and len(list((tmp_path / "out").iterdir())) == 1


REFUSED = {
    "a misspelt name": ("outpt: a.safetensors\nclips: a", "does not know 'outpt'; did you mean output?"),
    "a misspelt setting": (
        "output: a.safetensors\ngenerate: {num_clips: 1}\ntraining: {lerning_rate: 1}", "did you mean learning_rate?"
    ),
    "two sources": ("output: a.safetensors\nclips: a\ngenerate: {num_clips: 1}", "either clips .* and not both"),
    "no source": ("output: a.safetensors", "either clips"),
    "a wrong type": ("output: a.safetensors\nclips: a\ntraining: {num_steps: many}", "is 'many'; it needs int"),
    "another suffix": ("output: a.pt\nclips: a", "must end with .safetensors"),
    "no output": ("clips: a", "output is missing"),
    "a name twice": ("output: a.safetensors\noutput: b.safetensors\nclips: a", "'output' appears twice"),
    "a list": ("- a\n- b", "the job is a list"),
    "nothing": ("", "the job is a NoneType"),
    "no YAML": ("output: [a", "not YAML"),
    "a Python object": ("output: !!python/object/apply:os.system [ls]", "not YAML: could not determine a constructor"),
    "an unknown drawing": ("output: a.safetensors\ngenerate: {num_clip: 1}", "did you mean num_clips?"),
    "an alias": ("output: &name a.safetensors\nclips: *name", "&name and .*name are not read here"),
    "laughs": ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]", "write the values out"),
    "an alias of itself": ("output: &a [*a]", "write the values out"),
    "deep brackets": ("output: " + "[" * 60_000, "nested deeper than 16 levels"),
    "deep brackets on many lines": ("output: " + "[\n" * 30_000, "nested deeper than 16 levels"),
    "deep dashes": ("- " * 30_000, "nested deeper than 16 levels"),
    "a character that YAML does not allow": ("output: \x01", "not YAML"),
    "no date": ("output: !!timestamp x", "not YAML"),
    "an empty number": ("output: !!int ''", "not YAML"),
    "a list as a name": ("? [a]\n: b", "not YAML"),
    "no truth value": ("output: !!bool maybe", "not YAML"),
    "half a character": ('output: "\\ud800"', "half a character"),
    "many unknown names": ("".join(f"a{i}: 1\n" for i in range(6000)), "does not know 'a4'"),
    "a huge number": (f"output: a.safetensors\nclips: a\nfps: {'9' * 60_000}", "."),
    "a motion that is no text": ("output: a.safetensors\ngenerate: {num_clips: 1, motions: [1]}", "'1' is no motion"),
    "motions that are no list": ("output: a.safetensors\ngenerate: {num_clips: 1, motions: left}", "motions is 'left'"),
    "a number that is text": ("output: a.safetensors\ngenerate: {num_clips: many}", "num_clips is 'many'; it needs"),
    "a section that is text": ("output: a.safetensors\nclips: a\nwindows: all", "windows is 'all'; names and values"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text, reason", REFUSED.values(), ids=list(REFUSED))
def test_job_files_are_refused_with_file_and_reason(tmp_path, text, reason):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError, match=reason) as caught:
        read_job(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert time.process_time() - started < 2


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize(("name", "text"), [("a.json", '{"clips": "ü", "output": "x.safetensors"}'),
                                            ("a.yaml", "clips: ü\noutput: x.safetensors\n")])  # fmt: skip
def test_jobs_are_read_in_the_codings_that_editors_save(tmp_path, coding, name, text):
    (tmp_path / name).write_bytes(text.encode(coding))
    assert read_job(tmp_path / name) == TrainingJob(output="x.safetensors", clips="ü")


def test_a_json_job_with_a_byte_order_mark_is_read():
    assert read_job(FIELD / "job_with_bom.json") == TrainingJob(output="x.safetensors", clips="clips")


def test_missing_large_and_binary_job_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_job(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**16 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_job(tmp_path / "large.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary.yaml"):
        read_job(tmp_path / "binary.yaml")


def test_numbers_like_1e_4_are_numbers_in_yaml_and_json_says_the_same(tmp_path):
    text = "output: a.safetensors\nclips: c\ntraining: {learning_rate: 1e-4, weight_decay: 0, targets: [ff]}"
    (tmp_path / "a.yaml").write_text(text)
    values = {"output": "a.safetensors", "clips": "c",
              "training": {"learning_rate": 1e-4, "weight_decay": 0, "targets": ["ff"]}}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert read_job(tmp_path / "a.yaml") == read_job(tmp_path / "a.json") == TrainingJob.from_dict(values)
    assert read_job(tmp_path / "a.yaml").training.optimizer.weight_decay == 0.0
