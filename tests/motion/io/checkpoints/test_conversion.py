"""Torch checkpoints to .safetensors: round trips of names, what the loaders then read, and hostile or broken files."""

import ast
import collections
import io
import os
import pickle
import struct
import time
import zipfile
import zlib
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.checkpoints import torch_checkpoint, torch_pickle
from pack.motion.io.checkpoints.conversion import convert_checkpoint, diffusers_config
from pack.motion.io.networks import sana_layouts
from pack.motion.io.networks.linear_video import read_linear_video
from pack.motion.io.networks.sana import open_sana
from pack.motion.io.networks.sana_layouts import detect_sana, sana_shapes, to_nvlabs_names, to_our_names
from pack.motion.io.networks.video_model import read_video_model
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.sana_video.dims import SanaDims
from pack.motion.shell import main

ROOT = Path(__file__).resolve().parents[4]
IMAGE = SanaDims("sana", 32, (1, 1, 1), 2, 1, 32, 2, 6, 40, False)
VIDEO = SanaDims("sana_video", 16, (1, 2, 2), 2, 2, 8, 4, 6, 24, True)


@pytest.fixture(autouse=True)
def small_widths(monkeypatch):
    """Heads are told by the published widths; here also by those of the tiny networks."""
    monkeypatch.setitem(sana_layouts.VIDEO_HEADS, 16, (2, 8))
    monkeypatch.setitem(sana_layouts.CROSS_HEADS, 16, 4)
    monkeypatch.setitem(sana_layouts.CROSS_HEADS, 32, 2)


def nvlabs(dims, dtype=torch.float32):
    torch.manual_seed(0)
    return {name: torch.randn(shape).to(dtype) for name, shape in sana_shapes(dims, "nvlabs").items()}


def saved(path, content):
    torch.save(content, path)
    return path


def refusal(path, **options):
    """The text of a refusal, which leaves no output and no temporary file behind."""
    output = path.parent / "refused.safetensors"
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(path, output, **options)
    left = {entry.name for entry in path.parent.iterdir()} - {path.name}
    assert not left, left
    assert path.name in str(caught.value) and "docs/models.md" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrap", [
    lambda state: {"state_dict": state},
    lambda state: {"state_dict": collections.OrderedDict(state), "epoch": 3},
    lambda state: {"model": {"module." + name: tensor for name, tensor in state.items()}},
    lambda state: {"state_dict": {"model.diffusion_model." + name: tensor for name, tensor in state.items()}},
    lambda state: state,
], ids=["state_dict", "ordered", "module.", "prefix", "bare"])  # fmt: skip
@pytest.mark.parametrize("dims", [IMAGE, VIDEO], ids=["image", "video"])
def test_nvlabs_names_go_to_ours_and_back_unchanged(tmp_path, dims, wrap):
    given = nvlabs(dims)
    done = convert_checkpoint(saved(tmp_path / "SANA.pth", wrap(given)), tmp_path / "out.safetensors")
    source, layout = open_sana(done.path)
    assert layout.dims == dims and layout.naming == "diffusers" and not layout.dropped
    back = to_nvlabs_names(dims, to_our_names(layout, source.read()))
    assert back.keys() == given.keys() and all(torch.equal(back[name], given[name]) for name in given)
    assert done.num_parameters == sum(tensor.numel() for tensor in given.values())


def test_the_half_that_the_authors_read_is_taken_and_what_is_left_out_is_told(tmp_path):
    state, other = nvlabs(VIDEO), {name: torch.zeros_like(tensor) for name, tensor in nvlabs(VIDEO).items()}
    state["y_embedder.y_embedding"] = torch.zeros(300, 6)
    path = tmp_path / "a.pth"
    torch.save({"state_dict_ema": other, "state_dict": state, "epoch": 7, "optimizer": {"lr": 1.0}}, path)
    done = convert_checkpoint(path, tmp_path / "out.safetensors")
    assert done.half == "state_dict"
    assert set(done.left_out) == {"state_dict_ema", "epoch", "optimizer", "y_embedder.y_embedding"}
    assert read_video_model(done.path).state_dict["proj_out.weight"].abs().max() > 0
    done = convert_checkpoint(saved(path, {"model": other, "ema": state}), tmp_path / "out.safetensors")
    assert done.half == "ema"


def test_plain_values_that_a_trainer_keeps_beside_the_weights_are_left_out(tmp_path):
    beside = {"dtype": torch.bfloat16, "device": torch.device("cpu"), "seen": {1, 2}, "key": b"\x01\xff",
              "count": collections.Counter("aab"), "rng": torch.get_rng_state()}  # fmt: skip
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO), **beside})
    done = convert_checkpoint(path, tmp_path / "out.safetensors")
    assert set(done.left_out) == set(beside)


def test_metadata_lets_the_file_be_read_without_the_tables_of_widths(tmp_path, monkeypatch):
    done = convert_checkpoint(saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)}), tmp_path / "out.safetensors")
    monkeypatch.delitem(sana_layouts.VIDEO_HEADS, 16)
    monkeypatch.delitem(sana_layouts.CROSS_HEADS, 16)
    source, layout = open_sana(done.path)
    assert layout.dims == VIDEO
    assert "Open Model License" in source.metadata["license"] and "a.pth" in source.metadata["source"]


@pytest.mark.parametrize("dims", [IMAGE, VIDEO, SanaDims(num_layers=20, num_attention_heads=70, qk_norm=True,
                                                         num_cross_attention_heads=20, hidden_width=5600)])  # fmt: skip
def test_config_in_the_metadata_belongs_to_its_weights(dims):
    layout = detect_sana("x", sana_shapes(dims), diffusers_config(dims))
    assert layout.dims == dims


def test_the_number_type_is_kept_or_changed_as_asked(tmp_path):
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO, torch.float16)})
    for asked, kept in ((None, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)):
        done = convert_checkpoint(path, tmp_path / "out.safetensors", dtype=asked)
        assert {tensor.dtype for tensor in open_sana(done.path)[0].read().values()} == {kept}


def test_weights_too_large_for_float16_are_refused_by_name(tmp_path):
    state = nvlabs(VIDEO)
    state["final_layer.linear.bias"][3] = 1e6
    assert "'proj_out.bias' does not fit torch.float16" in refusal(
        saved(tmp_path / "a.pth", {"state_dict": state}), dtype=torch.float16
    )


def test_nan_in_the_weights_is_refused_by_name(tmp_path):
    state = nvlabs(VIDEO)
    state["final_layer.linear.bias"][3] = float("nan")
    assert "'proj_out.bias' holds NaN or Inf" in refusal(saved(tmp_path / "a.pth", {"state_dict": state}))


def test_a_miramo_checkpoint_becomes_a_motion_model_file(tmp_path):
    config = LinearVideoDiTConfig(num_layers=1, num_attention_heads=1, num_cross_attention_heads=2, caption_channels=6)
    state = LinearVideoDiT(config).state_dict()
    done = convert_checkpoint(saved(tmp_path / "miramo.pt", {"ema": state, "opt": {}}), tmp_path / "out.safetensors")
    file = read_linear_video(done.path)
    assert done.title == "MiraMo" and file.spec.config == config
    assert all(torch.equal(file.state_dict[name], state[name]) for name in state)


@pytest.mark.parametrize(("name", "shape", "words"), [
    ("patchify_proj.weight", (4, 4), "an LTX-Video model"),
    ("decoder.temporal_res_block.weight", (4,), "a temporal VAE"),
    ("something.weight", (4,), "not a model known here"),
])  # fmt: skip
def test_other_families_are_refused_by_their_name(tmp_path, name, shape, words):
    assert words in refusal(saved(tmp_path / "a.pth", {"state_dict": {name: torch.zeros(shape)}}))


class Runs:
    """Would make a file if its pickle were run."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused_before_anything_runs(tmp_path, monkeypatch, protocol):
    mark = tmp_path / "ran"
    path = tmp_path / "a.pth"
    torch.save({"state_dict": nvlabs(VIDEO), "x": Runs(mark)}, path, pickle_protocol=protocol)
    monkeypatch.setattr(torch_checkpoint.torch, "load", lambda *_, **__: pytest.fail("torch was asked to load it"))
    text = refusal(path)
    assert "can run code; nothing of it was run" in text and not mark.exists()
    assert protocol > 2 or "io.open" in text


def test_arguments_of_a_trainer_are_refused_with_the_way_out(tmp_path):
    text = refusal(saved(tmp_path / "a.pth", {"model": nvlabs(VIDEO), "args": Namespace(lr=1)}))
    assert "argparse.Namespace" in text
    assert "save its weights alone where it was trained, as {'state_dict': weights}" in text


@pytest.mark.parametrize("name", ["builtins bytearray", "torch load", "torch._utils _rebuild_sparse_tensor"])
def test_what_torch_itself_would_allow_but_weights_do_not_need_is_refused(tmp_path, name):
    module, kind = name.split()
    body = b"\x80\x02c" + f"{module}\n{kind}\n".encode() + b"J\xff\xff\xff\x7f\x85R."
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
    assert name.replace(" ", ".") in refusal(path)


def rezipped(path, change, compression=zipfile.ZIP_STORED):
    """The archive again, its entries as `change` gives them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path.unlink()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in change(entries):
            archive.writestr(name, data)
    return path


def test_archives_that_unpack_to_more_than_they_are_refused(tmp_path):
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)})
    assert "compressed" in refusal(rezipped(path, lambda entries: entries.items(), zipfile.ZIP_DEFLATED))
    path = saved(tmp_path / "a.pth", {"state_dict": {"x": torch.zeros(1).expand(2**40)}})
    assert f"unpack to {2**42} bytes" in refusal(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)})
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")  # of the directory: sizes of the first entry
    data[first + 20 : first + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data)
    assert "unpack to more" in refusal(path)


def test_an_archive_with_two_pickles_or_one_name_twice_is_refused(tmp_path):
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)})
    assert "2 data.pkl" in refusal(rezipped(path, lambda entries: [*entries.items(), ("b/data.pkl", b"\x80\x02}.")]))
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)})

    def twice(entries):
        pickled = next(name for name in entries if name.endswith("data.pkl"))
        return [*entries.items(), (pickled.upper(), b"\x80\x02}.")]

    assert "under one name" in refusal(rezipped(path, twice))


def test_a_torchscript_program_is_refused_as_such(tmp_path):
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)})
    rezipped(path, lambda entries: [*entries.items(), ("a/code/__torch__.py", b"def forward(self): pass")])
    assert "TorchScript program, which holds code" in refusal(path)


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.9999])
def test_a_cut_file_is_refused_with_what_to_do(tmp_path, part):
    path = saved(tmp_path / "a.pth", {"state_dict": nvlabs(VIDEO)})
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    assert "download or copy it again" in refusal(path)


@pytest.mark.parametrize(("data", "words"), [
    (b"", "empty file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
    (b"<!DOCTYPE html><html>", "HTML page"),
    (b"\0" * 4096, "zeros"),
    (b"GGUF" + b"\0" * 60, "GGUF"),
    (pickle.dumps({"a": 1}, protocol=2), "a bare pickle, which torch does not write"),
    (b"PK\x03\x04" + b"\0" * 100, "cut or damaged"),
    (os.urandom(300).replace(b"PK", b"xx"), "no zip archive"),
], ids=["empty", "lfs", "html", "zeros", "gguf", "pickle", "zip head", "noise"])  # fmt: skip
def test_files_of_another_kind_are_named(tmp_path, data, words):
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    assert words in refusal(path)


def test_a_missing_file_a_folder_and_safetensors_are_refused(tmp_path):
    assert "cannot be read" in str(caught(tmp_path / "none.pth", tmp_path))
    assert "cannot be read" in str(caught(tmp_path, tmp_path))
    assert "loaders read as it is" in str(caught(tmp_path / "a.safetensors", tmp_path))


def caught(path, folder):
    with pytest.raises(CheckpointError) as error:
        convert_checkpoint(path, folder / "out.safetensors")
    return error.value


@pytest.mark.parametrize("content", [
    torch.zeros(3), [torch.zeros(3)], {}, {"state_dict": {}}, {"epoch": 3}, {"state_dict": {1: torch.zeros(3)}},
], ids=["tensor", "list", "empty", "no weights", "numbers", "unnamed"])  # fmt: skip
def test_checkpoints_without_named_weights_are_refused(tmp_path, content):
    assert "is needed" in refusal(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize("make", [
    lambda: torch.zeros(3, 3).to_sparse(), lambda: torch.zeros(3, dtype=torch.complex64),
    lambda: torch.zeros(3, device="meta"), lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
], ids=["sparse", "complex", "meta", "quantized"])  # fmt: skip
def test_tensors_that_are_not_plain_are_refused(tmp_path, make):
    text = refusal(saved(tmp_path / "a.pth", {"state_dict": {**nvlabs(VIDEO), "extra": make()}}))
    assert "can run code" in text or "'extra' is no plain tensor" in text


def test_random_damage_gives_weights_or_a_refusal_and_never_another_error(tmp_path):
    whole = io.BytesIO()
    torch.save({"state_dict": nvlabs(VIDEO)}, whole)
    whole = whole.getvalue()
    generator = torch.Generator().manual_seed(0)
    places = [whole.index(b"data.pkl"), whole.rindex(b"PK\x01\x02")]
    (tmp_path / "whole.pth").write_bytes(whole)
    convert_checkpoint(tmp_path / "whole.pth", tmp_path / "whole.safetensors")
    refused = 0
    for attempt in range(120):
        data = bytearray(whole)
        start = places[attempt % 2] if attempt % 3 else 0
        for _ in range(1 + attempt % 4):
            spread = min(len(data) - start, 4000)
            at = start + int(torch.randint(spread, (1,), generator=generator))
            data[at] = int(torch.randint(256, (1,), generator=generator))
        path = tmp_path / f"{attempt}.pth"
        path.write_bytes(data)
        try:
            convert_checkpoint(path, tmp_path / "out.safetensors")
        except CheckpointError as error:
            refused += 1
            assert len(str(error)) > 40
    assert refused > 20


def test_impossible_types_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="float32, bfloat16 or float16"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.safetensors", dtype=torch.float8_e4m3fn)


def test_torch_load_is_called_once_with_weights_only_and_a_memory_map():
    calls = [node for node in ast.walk(ast.parse((ROOT / "motion/io/checkpoints/torch_checkpoint.py").read_text()))
             if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]  # fmt: skip
    (call,) = calls
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    assert given == {"map_location": "'cpu'", "weights_only": "True", "mmap": "True"}


def test_only_the_converter_and_the_shell_reach_torch_load():
    room = "motion/io/checkpoints"
    users = {"torch_checkpoint": {f"{room}/conversion.py", f"{room}/openpose_conversion.py"},
             "conversion": {"motion/shell/weights.py"}, "openpose_conversion": {"motion/shell/weights.py"},
             "main": {"__main__.py"}}  # fmt: skip
    paths = [ROOT / "__main__.py", ROOT / "__init__.py",
             *(path for room in ("nodes", "motion", "kernels") for path in (ROOT / room).rglob("*.py"))]  # fmt: skip
    found = {module: set() for module in users}
    for path in paths:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if any(module in text for module in users) else ():
            for module in users:
                if _names(node, module):
                    found[module].add(path.relative_to(ROOT).as_posix())
    assert found == users


def _names(node, module):
    """Whether a node imports the module, or spells its dotted name for an import by text."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value.split(".")[-1] == module and "." in node.value
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return False
    names = [getattr(node, "module", None) or "", *(item.name for item in node.names)]
    return module in {name.split(".")[-1] for name in names}


def test_the_shell_converts_says_what_it_left_out_and_never_overwrites_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "Sana.pth", {"state_dict": nvlabs(IMAGE), "epoch": 1})
    command = ["convert", "Sana.pth", "-o", "out.safetensors"]
    assert main.main(command) == 0
    told = capsys.readouterr().out
    assert "note: its weights 'state_dict' were taken" in told and "'epoch' is not used and was left out" in told
    assert f"model: {tmp_path / 'out.safetensors'} (" in told
    before = (tmp_path / "out.safetensors").read_bytes()
    assert main.main([*command, "--dtype", "bfloat16"]) == 2
    told = capsys.readouterr().err
    assert "out.safetensors exists" in told and told.count("\n") == 1
    assert (tmp_path / "out.safetensors").read_bytes() == before
    assert main.main([*command, "--overwrite", "--dtype", "bfloat16"]) == 0
    assert len((tmp_path / "out.safetensors").read_bytes()) < len(before)
    assert main.main(["convert", "Sana.pth", "-o", "out.pth"]) == 2
    assert "name of a .safetensors file is needed" in capsys.readouterr().err


def archive_of(pickled, storages=(b"\0" * 64,)):
    """A checkpoint around a hand-made pickle."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("a/version", "3\n")
        for key, data in enumerate(storages):
            archive.writestr(f"a/data/{key}", data)
    return stored.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


ENCODE, LATIN = b"c_codecs\nencode\n", text("latin1")
STORED = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
REBUILD, EMPTY = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n)R"
TENSOR = REBUILD + b"(" + STORED + b"K\0K\x04\x85K\x01\x85\x89" + EMPTY + b"tR"
DOUBLED = b")q\0" + b"h\0h\0\x86q\0" * 60 + b"h\0"  # a tuple of 2^60 empty ones
HOSTILE = {
    "a doubled tuple as a name": b"}" + DOUBLED + b"Ns",
    "a doubled tuple in a set": b"c__builtin__\nset\n](" + DOUBLED + b"e\x85R",
    "a doubled tuple as the word of a storage": b"(" + DOUBLED + b"NNNNtQ",
    "a doubled tuple as a shape": REBUILD + b"(" + STORED + b"K\0" + DOUBLED + b")\x89" + EMPTY + b"tR",
    "a doubled tuple for a device": b"ctorch\ndevice\n" + DOUBLED + b"\x85R",
    "a chain of encodings": text("x" * 1000) + b"".join(
        b"q\0" + ENCODE + b"h\0" + text("utf-16") + b"\x86R" for _ in range(60)),
    "encoding with another codec": ENCODE + text("x") + text("zip") + b"\x86R",
    "one text encoded again and again": text("x" * 2**20) + b"q\0" + (ENCODE + b"h\0" + LATIN + b"\x86R") * 400,
    "one list copied again and again": b"](" + b"K\1" * 50_000 + b"eq\0" + b"c__builtin__\nset\nh\0\x85R" * 5000,
    "a dictionary copied through a list of pairs": b"ccollections\nOrderedDict\n]\x85R",
    "numbers that collide": b"}(" + b"".join(
        b"\x8a\x0d" + (index * (2**61 - 1)).to_bytes(13, "little") + b"N" for index in range(30_000)) + b"u",
    "more steps than weights have": b"N" * 2_000_000,
    "deep brackets": b"(" * 2_000_000,
    "a class instead of a call": b"ctorch\nFloatStorage\n)R",
    "a state for a tensor": TENSOR + b"(tb",
    "metadata for a tensor": REBUILD + b"(" + STORED + b"K\0))\x89" + EMPTY + b"}tR",
    "an opcode that torch does not read": b"I" + b"9" * 100_000 + b"\n",
    "an object": b"ctorch\nFloatStorage\n)\x81",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=list(HOSTILE))
def test_a_pickle_that_would_never_end_or_double_itself_is_refused_in_a_moment(tmp_path, monkeypatch, pickled):
    path = tmp_path / "a.pth"
    path.write_bytes(archive_of(pickled))
    monkeypatch.setattr(torch_checkpoint.torch, "load", lambda *_, **__: pytest.fail("torch was asked to load it"))
    started = time.process_time()
    said = refusal(path)
    assert time.process_time() - started < 2 and "nothing of it was run" in said and len(said) < 500


@pytest.mark.parametrize(("pickled", "words"), [
    (b"h\5", "damaged"), (b"t", "damaged"), (b"K\1\x86", "damaged"), (b"X\xff\xff\xff\xff", "damaged"),
    (b"cabc", "damaged"), (STORED.replace(b"K\x04", b"M\x00\x01"), "not in the archive, or shorter there"),
    (STORED.replace(text("0"), text("../0")), "not in the archive"), (b"N.N", "bytes follow after its end"),
])  # fmt: skip
def test_a_damaged_pickle_is_refused_with_what_is_wrong(tmp_path, pickled, words):
    path = tmp_path / "a.pth"
    path.write_bytes(archive_of(pickled))
    assert words in refusal(path)


@pytest.mark.slow
def test_a_checkpoint_of_very_many_tensors_passes():
    tensor = b"h\0(" + STORED + b"K\0K\x04\x85K\x01\x85\x89h\1)RtR"
    body = b"".join(text(f"block.{index}.weight") + b"r" + struct.pack("<I", index + 2) + tensor
                    for index in range(100_000))  # fmt: skip
    pickled = b"\x80\x02" + REBUILD + b"q\0ccollections\nOrderedDict\nq\1}(" + body + b"u."
    started = time.process_time()
    torch_pickle.check_pickle(pickled, {str(key): 16 for key in range(100_000)})
    assert time.process_time() - started < 20


def records(entries):
    """Entries laid out by hand: local headers with data, and the directory that belongs to them."""
    body, directory = b"", b""
    for name, data in entries.items():
        fields = (0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0)
        directory += struct.pack("<4sH5H3L2H", b"PK\1\2", 0, 0, *fields) + struct.pack("<3H2L", 0, 0, 0, 0, len(body))
        directory += name.encode()
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 0, *fields) + name.encode() + data
    return body, directory


def end_of(directory, start, count):
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)


def weights_of(value):
    """Entries of a checkpoint {"x": four floats of this value}."""
    return {"a/data.pkl": b"\x80\x02}" + text("x") + TENSOR + b"s.", "a/version": b"3\n",
            "a/data/0": struct.pack("<4f", *[value] * 4)}  # fmt: skip


def two_directories():
    """An archive whose end names one directory, while another one lies directly before the end, which zipfile reads."""
    (told, first), (hidden, second) = records(weights_of(1.0)), records(weights_of(2.0))
    assert len(told) == len(hidden) and len(first) == len(second)
    return told + first + hidden + second + end_of(first, len(told), 3)


def test_an_archive_that_zipfile_and_torch_read_differently_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(two_directories())
    with zipfile.ZipFile(path) as archive:
        assert struct.unpack("<4f", archive.read("a/data/0"))[0] == 2.0
    assert torch.load(path, weights_only=True)["x"][0] == 1.0
    assert "its directory does not lie before its end" in refusal(path)


def plain_archive():
    body, directory = records(weights_of(1.0))
    return body + directory + end_of(directory, len(body), 3)


def moved(data, by):
    """The plain archive with `by` bytes before it, its places put right."""
    body, directory = records(weights_of(1.0))
    at = 0
    for name in weights_of(1.0):
        place = struct.unpack_from("<L", directory, at + 42)[0]
        directory = directory[: at + 42] + struct.pack("<L", place + by) + directory[at + 46 :]
        at += 46 + len(name)
    return b"PK\3\4" + b"x" * (by - 4) + body + directory + end_of(directory, len(body) + by, 3)


def second_end(**changes):
    """The plain archive with zip64 ends, which must say the same."""
    body, directory = records(weights_of(1.0))
    after = len(body) + len(directory)
    values = {"count": 3, "length": len(directory), "start": len(body), "place": after} | changes
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, values["count"], values["count"], values["length"],
                       values["start"])  # fmt: skip
    return body + directory + wide + struct.pack("<4sLQL", b"PK\6\7", 0, values["place"], 1) + end_of(
        directory, len(body), 3
    )


LAYOUTS = {
    "bytes before the first entry": lambda data: moved(data, 40),
    "bytes after the end": lambda data: data + b"\0" * 8,
    "a comment": lambda data: data[:-2] + b"\4\0PK\5\6",
    "an archive behind it": lambda data: data + data,
    "another name in the directory": lambda data: data.replace(b"a/version", b"a/VERSION", 1),
    "a pickle with another sum": lambda data: data.replace(b"K\0K\x04", b"K\0K\x03", 1),
    "a second end elsewhere": lambda data: second_end(place=0),
    "a second end of another count": lambda data: second_end(count=2),
    "a second end of another directory": lambda data: second_end(start=0),
    "fewer entries than its end says": lambda data: data[:-14] + struct.pack("<2H", 4, 4) + data[-10:],
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=list(LAYOUTS))
def test_archives_that_can_be_read_in_two_ways_are_refused(tmp_path, change):
    path = tmp_path / "a.pth"
    path.write_bytes(plain_archive())
    assert torch_checkpoint.open_checkpoint(path).tensors["x"].tolist() == [1.0] * 4
    path.write_bytes(second_end())
    assert torch_checkpoint.open_checkpoint(path).tensors["x"].tolist() == [1.0] * 4
    path.write_bytes(change(plain_archive()))
    assert "the archive is cut or damaged" in refusal(path)
