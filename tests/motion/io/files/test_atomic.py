"""Files out: a save is whole or absent, whatever fails and whenever; old files survive byte for byte."""

import builtins
import contextlib
import os
import resource
import signal
import stat
import time

import pytest
import safetensors.torch
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files import atomic
from pack.motion.io.files.atomic import (
    atomic_path,
    new_output,
    sweep_stale,
    write_chunks,
    write_json,
    write_safetensors,
)
from pack.motion.io.files.safetensors import DTYPES, read_safetensors

CALLS = ("open", "close", "fsync", "chmod", "replace", "link", "rename", "mkdir", "scandir")


@pytest.fixture
def unprivileged():
    """A context without root's rights; as an ordinary user it changes nothing."""

    @contextlib.contextmanager
    def drop():
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return drop


def temps(folder):
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def in_child(action):
    """Run an action in a process of its own (a fork: nothing is imported again); returns its wait status."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # a fork has none of its parent's worker threads and would wait for them
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


class FailingCalls:
    """Stands for `os` (and `open`) inside the writer; call number `fail_at` raises ENOSPC, half-written for a write."""

    def __init__(self, fail_at):
        self.fail_at, self.count = fail_at, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        return self.counted(real) if name in CALLS else real

    def tick(self):
        self.count += 1
        if self.count == self.fail_at:
            raise OSError(28, "No space left on device")

    def counted(self, real):
        def call(*arguments, **options):
            self.tick()
            return real(*arguments, **options)

        return call

    def open_file(self, *arguments):
        self.tick()
        handle, calls = builtins.open(*arguments), self

        class Handle:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                handle.close()

            def write(self, chunk):
                handle.write(chunk[: len(chunk) // 2])
                calls.tick()
                handle.write(chunk[len(chunk) // 2 :])

        return Handle()


def outcomes_of_failing_each_call(monkeypatch, action):
    """Let call 1, 2, 3, … fail until the action succeeds; yields (N, failed)."""
    for fail_at in range(1, 60):
        calls = FailingCalls(fail_at)
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", calls)
            patch.setattr(atomic, "open", calls.open_file, raising=False)
            try:
                action()
                failed = False
            except CheckpointError as error:
                assert "No space left on device" in str(error)
                failed = True
        yield fail_at, failed
        if calls.count < fail_at:
            return
    pytest.fail("the action never ran through")


def test_failing_any_single_call_leaves_the_old_or_the_new_file_whole_and_nothing_behind(tmp_path, monkeypatch):
    target, failures = tmp_path / "model.safetensors", 0
    target.write_bytes(b"old")
    for _, failed in outcomes_of_failing_each_call(monkeypatch, lambda: write_chunks(target, [b"new", b"er"])):
        assert target.read_bytes() in ((b"old",) if failed else (b"newer",))
        assert os.listdir(tmp_path) == ["model.safetensors"]
        failures += failed
        target.write_bytes(b"old")
    assert failures >= 7


@pytest.mark.parametrize("folder", [False, True])
def test_failing_any_single_call_never_touches_an_existing_output(tmp_path, monkeypatch, folder):
    taken, fresh = tmp_path / "clip.mp4", tmp_path / "clip_2.mp4"
    taken.write_bytes(b"mine")

    def save():
        with new_output(taken, folder=folder) as output:
            (output.temp / "0.png" if folder else output.temp).write_bytes(b"video")

    failures = 0
    for _, failed in outcomes_of_failing_each_call(monkeypatch, save):
        assert taken.read_bytes() == b"mine" and temps(tmp_path) == []
        assert failed != fresh.exists()
        failures += failed
        if fresh.exists():
            (fresh / "0.png").unlink() if folder else fresh.unlink()
            fresh.rmdir() if folder else None
    assert failures >= 4


def test_full_disk_keeps_the_old_file_and_names_the_reason(tmp_path):
    target, message = tmp_path / "model.safetensors", tmp_path / "message"
    target.write_bytes(b"old")

    def save_on_a_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_safetensors(target, {"a": torch.zeros(1_000_000)})
        except CheckpointError as error:
            message.write_text(str(error))

    assert in_child(save_on_a_full_disk) == 0
    assert "File too large" in message.read_text() and "nothing that was there has changed" in message.read_text()
    assert target.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["message", "model.safetensors"]


def test_kill_in_the_middle_keeps_the_old_file_and_the_leftover_is_swept(tmp_path):
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")

    def chunks():
        yield b"x" * 100_000
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(lambda: write_chunks(target, chunks()))) == signal.SIGKILL
    assert target.read_bytes() == b"old" and len(temps(tmp_path)) == 1
    assert sweep_stale(tmp_path) == 0  # young: another writer may be at work
    os.utime(tmp_path / temps(tmp_path)[0], (1, 1))
    write_chunks(target, [b"new"])
    assert os.listdir(tmp_path) == ["model.safetensors"] and target.read_bytes() == b"new"


def test_sweep_removes_only_our_own_stale_names(tmp_path):
    ours = [".motionblocks-12-0a1b2c3d.tmp", ".motionblocks-12-ffffffff.tmp"]
    others = ["a.tmp", ".motionblocks-x-0a1b2c3d.tmp", ".motionblocks-12-0a1b2c3d.tmp.bak", "model.safetensors"]
    for name in [ours[0], *others]:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ours[1]).mkdir()
    (tmp_path / ours[1] / "0.png").write_bytes(b"")
    os.utime(tmp_path / ours[1], (1, 1))
    assert sweep_stale(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_sweep_keeps_files_dated_in_the_future(tmp_path):
    path = tmp_path / ".motionblocks-12-0a1b2c3d.tmp"
    path.write_bytes(b"")
    os.utime(path, (time.time() + 1e6,) * 2)
    assert sweep_stale(tmp_path) == 0


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_new_file_gets_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
        with new_output(tmp_path / "b.mp4"):
            pass
    finally:
        os.umask(before)
    for name in ("a.safetensors", "b.mp4"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_replaced_file_keeps_its_mode(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("{}")
    target.chmod(0o640)
    write_json(target, {"a": 1})
    assert stat.S_IMODE(target.stat().st_mode) == 0o640 and target.read_text() == '{\n  "a": 1\n}\n'


def test_symlinked_file_and_folder_are_followed_and_kept(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "model.json").write_text("old")
    os.symlink(real, tmp_path / "folder")
    os.symlink(real / "model.json", tmp_path / "link.json")
    write_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink() and (real / "model.json").read_text() == "1\n"
    write_json(tmp_path / "folder" / "model.json", 2)
    assert (tmp_path / "folder").is_symlink() and (real / "model.json").read_text() == "2\n"
    assert os.listdir(real) == ["model.json"]


def test_error_in_the_block_passes_unchanged_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temp:
        temp.write_bytes(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old" and temps(tmp_path) == []


def test_missing_folder_and_folder_as_target_are_refused_before_any_work(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist; create it"), atomic_path(tmp_path / "no" / "a"):
        pytest.fail("the block ran")
    with pytest.raises(CheckpointError, match="it is a folder"), atomic_path(tmp_path):
        pytest.fail("the block ran")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_folder_without_permission_is_refused_before_any_work(tmp_path, unprivileged):
    tmp_path.chmod(0o500)
    for writer in (atomic_path, new_output):
        with unprivileged(), pytest.raises(CheckpointError, match="Permission denied"), writer(tmp_path / "a"):
            pytest.fail("the block ran")
    tmp_path.chmod(0o700)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_at_random_moments_always_leave_a_whole_file(tmp_path):
    target, generator = tmp_path / "model.safetensors", torch.Generator().manual_seed(0)
    write_safetensors(target, {"a": torch.zeros(100_000)})
    seen = set()
    for turn in range(1, 26):
        child = os.fork()
        if not child:  # save for ever until killed
            try:
                torch.set_num_threads(1)
                for count in range(1_000):
                    write_safetensors(target, {"a": torch.full((100_000,), turn + count / 1024)})
            finally:
                os._exit(0)
        time.sleep(0.002 + 0.06 * torch.rand(1, generator=generator).item())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        values = read_safetensors(target)[0]["a"].unique()
        assert len(values) == 1  # of one save, not of two
        seen.add(values.item())
    assert len(seen) > 2  # saves did happen
    for name in temps(tmp_path):
        os.utime(tmp_path / name, (1, 1))
    sweep_stale(tmp_path)
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_existing_names_are_never_taken_and_counting_goes_on(tmp_path):
    for text in ("one", "two", "three"):
        with new_output(tmp_path / "clip.mp4") as output:
            output.temp.write_text(text)
    assert output.path == tmp_path / "clip_3.mp4"
    texts = [(tmp_path / name).read_text() for name in ("clip.mp4", "clip_2.mp4", "clip_3.mp4")]
    assert texts == ["one", "two", "three"]


def test_output_name_held_by_a_dangling_link_is_not_taken(tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "clip.mp4")
    with new_output(tmp_path / "clip.mp4") as output:
        output.temp.write_text("x")
    assert output.path.name == "clip_2.mp4" and not (tmp_path / "gone").exists()


def test_disk_without_hard_links_still_never_overwrites(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(atomic.os, "link", refuse)
    for text in ("one", "two"):
        with new_output(tmp_path / "clip.mp4") as output:
            output.temp.write_text(text)
    assert (tmp_path / "clip.mp4").read_text() == "one" and output.path.read_text() == "two"
    assert temps(tmp_path) == []


def test_two_writers_at_once_both_get_a_whole_file_of_their_own(tmp_path):
    with new_output(tmp_path / "clip.mp4") as first, new_output(tmp_path / "clip.mp4") as second:
        first.temp.write_text("first")
        second.temp.write_text("second")
    assert {first.path.read_text(), second.path.read_text()} == {"first", "second"}
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "clip_2.mp4"]


@pytest.mark.parametrize("name", ["ünï 日本 🎞.mp4", "‮abc.mp4", "a" * 240 + ".mp4"])
def test_unicode_and_long_names_round_trip(tmp_path, name):
    with new_output(tmp_path / name) as output:
        output.temp.write_text("x")
    assert os.listdir(tmp_path) == [name] and output.path.name == name


def test_every_type_and_layout_is_read_back_by_the_safetensors_library(tmp_path):
    base = torch.arange(12).reshape(3, 4)
    tensors = {str(dtype): base.float().to(dtype).t() for dtype in DTYPES.values()}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 2), "ünï": base[:, 1]}
    path = tmp_path / "all.safetensors"
    write_safetensors(path, tensors, {"note": "é"})
    truth, (ours, metadata) = safetensors.torch.load_file(path), read_safetensors(path)
    assert truth.keys() == tensors.keys() == ours.keys() and metadata == {"note": "é"}
    for name, tensor in tensors.items():
        for found in (truth[name], ours[name]):
            assert found.shape == tensor.shape and torch.equal(found.float(), tensor.float())


def test_equal_input_gives_equal_bytes_and_inputs_stay_as_they_were(tmp_path):
    tensors = {"b": torch.ones(3, dtype=torch.float16), "a": torch.arange(4)}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "1", tensors, {"x": "1", "y": "2"})
    write_safetensors(tmp_path / "2", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert all(torch.equal(tensors[name], copies[name]) for name in copies)


def test_what_the_format_cannot_hold_is_refused_and_nothing_written(tmp_path):
    unusable = {"cannot be saved": ({"a": torch.zeros(1, dtype=torch.complex64)}, {}), "not text": ({}, {"step": 3})}
    for words, (tensors, metadata) in unusable.items():
        with pytest.raises(ConfigError, match=words):
            write_safetensors(tmp_path / "a", tensors, metadata)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert os.listdir(tmp_path) == []


def test_saving_over_the_file_just_read_gives_the_same_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": torch.arange(5.0)})
    tensors, metadata = read_safetensors(path)
    write_safetensors(path, tensors, metadata)
    assert read_safetensors(path)[0]["a"].tolist() == [0, 1, 2, 3, 4]
