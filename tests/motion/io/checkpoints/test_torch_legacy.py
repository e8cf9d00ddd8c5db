"""Checkpoints of torch before 1.6: the tensors torch itself reads, without torch.load; nothing else passes."""

import collections
import os
import pickle
import pickletools
import struct
import time

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.checkpoints.torch_checkpoint import open_checkpoint
from pack.motion.io.checkpoints.torch_legacy import MAGIC, read_legacy


def saved(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def weights():
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(40, generator=draw)
    return {
        "a.weight": torch.randn(3, 4, 2, 2, generator=draw), "a.bias": torch.randn(3, generator=draw).half(),
        "b.weight": whole[4:28].view(4, 6).t(), "c": torch.tensor(7), "d": torch.zeros(0, 5), "e": whole[10:],
        "f": torch.randn(5, generator=draw).bfloat16(), "g": torch.tensor([True, False]),
    }  # fmt: skip


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"state_dict": collections.OrderedDict(state), "epoch": 3},
    lambda state: {name: torch.nn.Parameter(tensor, requires_grad=False) for name, tensor in state.items()},
], ids=["bare", "state_dict", "parameters"])  # fmt: skip
def test_tensors_are_those_that_torch_reads(tmp_path, wrap):
    path = saved(tmp_path / "a.pth", wrap(weights()))
    assert path.read_bytes().startswith(MAGIC)
    truth = torch.load(path, weights_only=True)
    truth = truth.get("state_dict", truth)
    found = open_checkpoint(path).tensors
    assert list(found) == list(truth)
    for name, tensor in truth.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_a_module_of_torch_is_read_by_its_names(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1))
    found = open_checkpoint(saved(tmp_path / "a.pth", module.state_dict())).tensors
    assert set(found) == set(module.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())


def test_no_pickle_is_run_and_torch_load_is_not_asked(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pth", weights())

    def never(*arguments, **keywords):
        raise AssertionError("torch.load or an unpickler was asked")

    for place, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(place, name, never)
    assert len(open_checkpoint(path).tensors) == 8


class Runs:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("content", [Runs(), {"a": torch.zeros(2), "b": Runs()}, torch.nn.Linear(2, 2)],
                         ids=["code", "code beside weights", "module"])  # fmt: skip
def test_what_would_run_code_is_refused_by_name(tmp_path, content):
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        open_checkpoint(saved(tmp_path / "a.pth", content))


def changed(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(("change", "words"), [
    (lambda data: data + b"x", "bytes follow"), (lambda data: data[:-1], "ends too early"),
    (lambda data: data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), "orders bytes the other way"),
    (lambda data: data[: len(MAGIC)], "cut or damaged"), (lambda data: data[:-100], "ends too early"),
    (lambda data: data.replace(struct.pack("<q", 40), struct.pack("<q", 41)), "40 values has 41"),
], ids=["longer", "shorter", "big endian", "only magic", "cut", "other count"])  # fmt: skip
def test_files_that_do_not_add_up_are_refused(tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(changed(saved(tmp_path / "a.pth", weights()), change))


def written(path, content: bytes, keys=(), storages=b""):
    """A file of a pickled content, made by hand."""
    machine = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    path.write_bytes(MAGIC + machine + content + pickle.dumps(list(keys), 2) + storages)
    return path


def tensor_pickle(size, stride, offset=0, numel=4):
    """{"a": tensor} over storage "0" of so many float32."""
    parts = [b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(",
             b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu",
             _number(numel), b"NtQ", _number(offset),
             *(_tuple(axis) for axis in (size, stride)), b"\x89ccollections\nOrderedDict\n)RtRs."]  # fmt: skip
    return b"".join(parts)


def _tuple(values):
    return b"(" + b"".join(map(_number, values)) + b"t"


def _number(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)


def test_a_file_made_by_hand_is_read_so_that_the_refusals_below_mean_something(tmp_path):
    path = written(tmp_path / "a.pth", tensor_pickle((2, 2), (2, 1)), ["0"], FOUR)
    assert read_legacy(path)["a"].tolist() == [[1, 2], [3, 4]]
    list(pickletools.genops(tensor_pickle((2, 2), (2, 1))))


@pytest.mark.parametrize(("size", "stride", "offset"), [
    ((2, 3), (2, 1), 0), ((4,), (1,), 1), ((2,), (4,), 0), ((2,), (-1,), 1), ((2,), (1, 1), 0), ((1,), (1,), -1),
    ((2**70,), (0,), 0), ((2**40, 2**40), (0, 0), 0), ((0, 2**70), (0, 0), 0), ((1,), (2**70,), 0), ((0,), (1,), 2**70),
], ids=["large", "offset", "stride", "back", "axes", "before", "side", "sides", "empty", "step", "place"])  # fmt: skip
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, size, stride, offset):
    path = written(tmp_path / "a.pth", tensor_pickle(size, stride, offset), ["0"], FOUR)
    with pytest.raises(CheckpointError, match="a tensor of"):
        read_legacy(path)


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "0"], ["0", "1"], [0]])
def test_storages_that_belong_to_no_tensor_or_are_missing_are_refused(tmp_path, keys):
    path = written(tmp_path / "a.pth", tensor_pickle((4,), (1,)), keys, FOUR * max(1, len(keys)))
    with pytest.raises(CheckpointError, match="not those that its tensors lie in"):
        read_legacy(path)


@pytest.mark.parametrize("numel", [2**62, 2**50])
def test_a_storage_that_claims_more_than_the_file_has_is_refused_before_it_is_read(tmp_path, numel):
    content = tensor_pickle((4,), (1,), numel=numel)
    with pytest.raises(CheckpointError, match="ends too early"):
        read_legacy(written(tmp_path / "a.pth", content, ["0"], struct.pack("<q", numel) + FOUR[8:]))


@pytest.mark.parametrize("machine", [[True], None, 1001, ("little_endian", True)])
def test_what_describes_no_machine_is_refused(tmp_path, machine):
    path = written(tmp_path / "a.pth", tensor_pickle((4,), (1,)), ["0"], FOUR)
    usual = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    path.write_bytes(path.read_bytes().replace(usual, pickle.dumps(machine, 2)))
    with pytest.raises(CheckpointError, match="orders bytes the other way"):
        read_legacy(path)


def test_keys_that_double_themselves_are_refused_in_a_moment(tmp_path):
    double = ("0",)
    for _ in range(60):
        double = (double, double)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="not those that its tensors lie in"):
        read_legacy(written(tmp_path / "a.pth", tensor_pickle((4,), (1,)), [double], FOUR))
    assert time.process_time() - started < 1


def test_a_dictionary_that_holds_itself_and_others_many_times_ends_in_a_moment(tmp_path):
    loop = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."
    assert read_legacy(written(tmp_path / "a.pth", loop)) == {"a": None}
    level = {"t": None}
    for _ in range(40):
        level = {"a": level, "b": level}
    started = time.process_time()
    read_legacy(written(tmp_path / "b.pth", pickle.dumps(level, 2)))
    assert time.process_time() - started < 1


def test_a_tensor_that_repeats_few_numbers_often_is_refused(tmp_path):
    path = written(tmp_path / "a.pth", tensor_pickle((2000, 2000), (0, 0)), ["0"], FOUR)
    with pytest.raises(CheckpointError, match="unpack to 16000000 bytes"):
        open_checkpoint(path)


def test_random_damage_gives_tensors_or_a_refusal_and_never_another_error(tmp_path):
    whole = saved(tmp_path / "whole.pth", weights()).read_bytes()
    draw, refused, path = torch.Generator().manual_seed(0), 0, tmp_path / "a.pth"
    for attempt in range(400):
        data = bytearray(whole)
        for _ in range(1 + attempt % 3):
            place = len(MAGIC) + int(torch.randint(len(data) - len(MAGIC), (1,), generator=draw))
            data[place] = int(torch.randint(256, (1,), generator=draw))
        path.write_bytes(data)
        try:
            open_checkpoint(path)
        except CheckpointError as error:
            refused += 1
            assert "a.pth: " in str(error)
    assert refused > 60


def test_a_name_that_weights_do_not_need_is_refused_even_if_nothing_calls_it(tmp_path):
    with pytest.raises(CheckpointError, match="it asks for os.system, .* nothing of it was run"):
        read_legacy(written(tmp_path / "a.pth", b"\x80\x02}X\x01\x00\x00\x00acos\nsystem\ns."))
