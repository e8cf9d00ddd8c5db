"""Weights in a file, in shards or in a diffusers folder: found, read whole, and every broken download told apart."""

import json

import pytest
import safetensors.torch
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files.safetensors import safetensors_chunks, streamed_chunks
from pack.motion.io.files.weight_folder import open_weights, read_json

NAME = "diffusion_pytorch_model"
TENSORS = {"a": torch.arange(4.0), "b": torch.ones(2, 3), "c": torch.zeros(5, dtype=torch.bfloat16)}


def write(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.fixture
def shards(tmp_path):
    """A folder with two shards, their index and a config."""
    folder = tmp_path / "transformer"
    first, second = (f"{NAME}-0000{i}-of-00002.safetensors" for i in (1, 2))
    write(folder / first, {"a": TENSORS["a"], "b": TENSORS["b"]})
    write(folder / second, {"c": TENSORS["c"]})
    write_json(folder / f"{NAME}.safetensors.index.json", {"weight_map": {"a": first, "b": first, "c": second}})
    write_json(folder / "config.json", {"_class_name": "X"})
    return folder


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        open_weights(path, row="SANA 0.6B", **options)
    text = str(caught.value)
    assert "docs/models.md, SANA 0.6B" in text and text.count("docs/models.md") == 1
    return text


def same(found, truth):
    return found.keys() == truth.keys() and all(torch.equal(found[name], truth[name]) for name in truth)


def test_single_file_reads_whole_with_the_config_beside_it(tmp_path):
    path = write(tmp_path / "m.safetensors", TENSORS, {"license": "x"})
    source = open_weights(path)
    assert same(source.read(), TENSORS) and source.config is None and source.metadata == {"license": "x"}
    assert source.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    write_json(tmp_path / "config.json", {"_class_name": "X"})
    assert open_weights(path).config == {"_class_name": "X"}
    write_json(tmp_path / "config.json", {"of": "another program"})
    assert open_weights(path).config is None


def test_config_in_the_metadata_goes_before_the_one_beside_the_file(tmp_path):
    write_json(tmp_path / "config.json", {"_class_name": "X"})
    path = write(tmp_path / "m.safetensors", TENSORS, {"config": '{"_class_name": "Y"}'})
    assert open_weights(path).config == {"_class_name": "Y"}


def test_shards_read_as_one_from_their_folder_their_index_and_the_whole_diffusers_folder(shards):
    write_json(shards.parent / "model_index.json", {})
    for path in (shards, shards / f"{NAME}.safetensors.index.json", shards.parent):
        source = open_weights(path)
        assert same(source.read(), TENSORS) and source.config == {"_class_name": "X"}


def test_index_with_a_variant_in_its_name_is_found(shards):
    (shards / f"{NAME}.safetensors.index.json").rename(shards / f"{NAME}.safetensors.index.fp16.json")
    assert same(open_weights(shards).read(), TENSORS)


def test_weights_without_variant_are_taken_and_two_variants_ask(tmp_path):
    write(tmp_path / f"{NAME}.fp16.safetensors", {"a": TENSORS["a"].half()})
    assert open_weights(tmp_path).read()["a"].dtype == torch.float16
    write(tmp_path / f"{NAME}.bf16.safetensors", {"a": TENSORS["a"].bfloat16()})
    assert "2 sets of weights" in refusal(tmp_path)
    write(tmp_path / f"{NAME}.safetensors", {"a": TENSORS["a"]})
    assert open_weights(tmp_path).read()["a"].dtype == torch.float32


def test_missing_shard_is_named(shards):
    (shards / f"{NAME}-00002-of-00002.safetensors").unlink()
    text = refusal(shards)
    assert "1 of 2 files" in text and f"{NAME}-00002-of-00002.safetensors" in text and str(shards) in text


def test_one_shard_alone_points_to_its_folder(shards):
    assert "one of several shards" in refusal(shards / f"{NAME}-00001-of-00002.safetensors")
    (shards / f"{NAME}.safetensors.index.json").unlink()
    assert "without their index" in refusal(shards)


def test_index_and_shards_that_disagree_are_refused_by_tensor_name(shards):
    index = shards / f"{NAME}.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    write_json(index, {"weight_map": where | {"ghost": where["a"]}})
    assert "ghost" in refusal(shards)
    write_json(index, {"weight_map": {name: where[name] for name in ("a", "c")}})
    assert "not in the index (b)" in refusal(shards)


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/passwd", "c:\\m.safetensors", "m.bin", "x\0.safetensors"])
def test_index_that_names_a_file_elsewhere_is_refused(shards, name):
    write(shards.parent / "m.safetensors", TENSORS)
    write_json(shards / f"{NAME}.safetensors.index.json", {"weight_map": {"a": name}})
    assert "no .safetensors beside it" in refusal(shards)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 99999,
                                  '{"weight_map": {"a": "m.safetensors", "a": "m.safetensors"}}'],
                         ids=range(8))  # fmt: skip
def test_index_that_is_not_one_is_refused(shards, text):
    write_json(shards / f"{NAME}.safetensors.index.json", text)
    assert "index.json" in refusal(shards)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
PAGE = "<!DOCTYPE html><html><title>Sign in</title></html>"


@pytest.mark.parametrize(("content", "words"), [(POINTER, "git-lfs pointer"), (PAGE, "HTML page")])
@pytest.mark.parametrize("place", [f"{NAME}-00002-of-00002.safetensors", f"{NAME}.safetensors.index.json",
                                   "config.json"])  # fmt: skip
def test_pointer_or_page_in_place_of_any_file_is_told(shards, content, words, place):
    (shards / place).write_text(content)
    text = refusal(shards)
    assert words in text and place in text


def test_half_downloaded_shard_is_told_and_nothing_is_read(shards):
    path = shards / f"{NAME}-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert "cut off" in refusal(shards)


@pytest.mark.parametrize(("name", "words"), [
    (f"{NAME}.safetensors.incomplete", "download that did not end"), (f"{NAME}.bin", "pickled"),
    ("model.pth", "pickled"),
    ("README.md", "no .safetensors weights in it (README.md)"), (None, "it is empty"),
])  # fmt: skip
def test_folder_without_weights_says_what_it_has(tmp_path, name, words):
    if name:
        (tmp_path / name).write_bytes(b"\x80\x02.")
    assert words in refusal(tmp_path)


def test_pickled_file_and_absent_file_are_refused_by_name(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"\x80\x02.")
    assert "never opened" in refusal(tmp_path / "model.pth")
    assert "cannot be opened" in refusal(tmp_path / "none.safetensors")


def test_weights_that_are_not_finite_or_change_under_us_give_nothing(tmp_path):
    path = write(tmp_path / "m.safetensors", {"a": torch.tensor([1.0, float("nan")])})
    with pytest.raises(CheckpointError, match="NaN.*docs/models.md, SANA"):
        open_weights(path, row="SANA").read()
    source = open_weights(write(path, TENSORS))
    write(path, {"a": torch.ones(3)})
    with pytest.raises(CheckpointError, match="changed while it was read"):
        source.read()


def test_weights_are_read_one_by_one_in_any_order_with_the_same_checks(shards):
    source = open_weights(shards)
    with source.opened() as read:
        assert same({name: read(name) for name in ("c", "a", "b", "a")}, TENSORS)
    assert source.dtypes == {name: value.dtype for name, value in TENSORS.items()}
    second = shards / f"{NAME}-00002-of-00002.safetensors"
    write(second, {"c": torch.full((5,), torch.nan, dtype=torch.bfloat16)})
    with open_weights(shards, row="SANA").opened() as read:
        with pytest.raises(CheckpointError, match="NaN.*docs/models.md, SANA"):
            read("c")
    write(second, {"c": torch.ones(5)})
    with pytest.raises(CheckpointError, match="00002.safetensors: changed while it was read"), source.opened():
        pass


def test_a_file_written_a_tensor_at_a_time_is_that_of_all_at_once():
    kinds, asked = {name: (value.dtype, tuple(value.shape)) for name, value in TENSORS.items()}, []
    chunks = streamed_chunks(kinds, lambda name: asked.append(name) or TENSORS[name], {"a": "b"})
    for number, (one, other) in enumerate(zip(chunks, safetensors_chunks(TENSORS, {"a": "b"}), strict=True)):
        assert one == other and asked == ["a", "b", "c"][:number]
    with pytest.raises(ConfigError, match="'z' .*complex64. cannot be saved"):
        list(streamed_chunks({"z": (torch.complex64, (1,))}, TENSORS.__getitem__, {}))


def test_json_that_is_missing_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(CheckpointError, match="is missing; get it.*docs/models.md"):
        read_json(tmp_path / "config.json")
