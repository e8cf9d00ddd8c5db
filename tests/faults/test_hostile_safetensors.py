"""Files in: every broken or hostile weight file is refused with what it is and a way out; none is half read."""

import contextlib
import os
import resource
import struct
import time

import hostile_bytes as hostile
import pytest
import safetensors.torch
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.files import safetensors as safetensors_file
from pack.motion.io.files.safetensors import read_header, read_safetensors


@pytest.fixture
def refused(tmp_path):
    """Write bytes to a file, read it, return the message; the file's name must stand in it."""

    def read(data, *, name="model.safetensors", **options):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            read_safetensors(path, **options)
        assert name in str(caught.value)
        return str(caught.value)

    return read


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


def test_a_good_file_is_read_as_the_safetensors_library_reads_it(tmp_path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(hostile.good())
    tensors, metadata = read_safetensors(path)
    truth = safetensors.torch.load_file(path)
    assert metadata == {} and tensors.keys() == truth.keys()
    assert all(torch.equal(tensors[name], truth[name]) for name in truth)


@pytest.mark.parametrize("dtype", list(safetensors_file.DTYPES.values()), ids=str)
def test_every_type_written_by_the_safetensors_library_comes_back_bit_for_bit(tmp_path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(torch.float32).to(dtype)
    path = tmp_path / "one.safetensors"
    safetensors.torch.save_file({"a": tensor, "s": tensor[0, 0].clone()}, path, {"note": "é\n"})
    tensors, metadata = read_safetensors(path)
    assert tensors["a"].dtype == dtype and tensors["s"].shape == () and metadata == {"note": "é\n"}
    assert torch.equal(tensors["a"].view(torch.uint8), tensor.view(torch.uint8))


def test_cut_in_data_names_size_found_and_size_asked(refused):
    text = refused(hostile.cut_in_data())
    assert str(len(hostile.good())) in text and str(len(hostile.cut_in_data())) in text and "again" in text


def test_cut_in_header_names_size_found_and_size_asked(refused):
    text = refused(hostile.cut_in_header())
    assert "cut off inside its header: 40 bytes" in text and "again" in text


@pytest.mark.parametrize("size", range(0, 160, 7))
def test_a_file_cut_anywhere_is_refused(refused, size):
    whole = hostile.good()
    refused(whole[: min(size, len(whole) - 1)])


def test_empty_file_is_named_as_empty(refused):
    assert "empty file" in refused(b"")


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        (hostile.git_lfs_pointer, "git lfs pull"),
        (hostile.html_page, "HTML page"),
        (hostile.pickle_bytes, "pickle"),
        (hostile.zip_pickle, "zip archive"),
        (hostile.gguf, "GGUF"),
    ],
)
def test_other_kinds_of_file_are_named_by_their_first_bytes(refused, maker, words):
    assert words in refused(maker())


def test_renamed_pickle_is_not_run_and_conversion_is_explained(refused, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("the pickle was run"))
    assert "convert" in refused(hostile.pickle_bytes())


def test_header_bomb_of_empty_tensors_is_refused_before_it_is_parsed(refused):
    data, start = hostile.header_bomb(), time.perf_counter()
    assert "more than 100000 tensors" in refused(data)
    assert time.perf_counter() - start < 1.0


def test_header_length_over_the_cap_is_refused_without_reading_it(refused):
    assert str(90 * 2**20) in refused(hostile.long_header_claim())


def test_header_nested_deep_is_refused(refused):
    assert "header is not usable" in refused(hostile.deep_header())


@pytest.mark.parametrize(
    "shape", [[0, 2**40], [2**31, 2**31, 2**31], [-1], [1.0], [True], "4", [1] * 17, [10**30]], ids=str
)
def test_absurd_shape_is_refused_before_memory_is_taken(refused, shape):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    assert "shape" in refused(hostile.one_record(entry))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_shape_that_does_not_fill_its_bytes_is_refused(refused):
    assert "needs 16 bytes, its record gives 4" in refused(hostile.one_record(hostile.record((2, 2), 0, 4), b"1234"))


@pytest.mark.parametrize("dtype", ["F4", "C64", "", None, 3, "f32"], ids=str)
def test_unknown_type_is_refused_and_readable_ones_listed(refused, dtype):
    assert "BF16" in refused(hostile.one_record({**hostile.record((1,), 0, 4), "dtype": dtype}, b"1234"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_nan_or_inf_in_weights_names_the_tensor(refused, value):
    text = refused(hostile.with_value(value))
    assert "'blocks.0.weight'" in text and "element 1 of 3" in text


def test_nan_is_found_in_every_float_type(refused):
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = torch.tensor([1.0, float("nan")]).to(dtype)
        assert "NaN" in refused(safetensors.torch.save({"w": tensor}))


def test_finite_scan_can_be_left_out(tmp_path):
    path = tmp_path / "nan.safetensors"
    path.write_bytes(hostile.with_value(float("nan")))
    assert torch.isnan(read_safetensors(path, check_finite=False)[0]["blocks.0.weight"]).sum() == 1


def test_duplicate_keys_are_refused(refused):
    assert "'a' appears twice" in refused(hostile.duplicate_keys())


def test_hole_overlap_and_trailing_bytes_are_refused(refused):
    assert "hole" in refused(hostile.hole())
    assert "overlap" in refused(hostile.overlap())
    assert "3 bytes follow" in refused(hostile.trailing())


def test_metadata_that_is_not_text_is_refused(refused):
    assert "metadata is not text" in refused(hostile.metadata_number())
    assert "metadata is not text" in refused(hostile.safetensors_bytes({"__metadata__": []}))


def test_nan_literal_and_endless_digits_in_the_header_are_refused(refused):
    assert "NaN" in refused(hostile.safetensors_bytes(b'{"a":NaN}'))
    refused(hostile.safetensors_bytes(b'{"a":' + b"9" * 10_000 + b"}"))


def test_long_and_control_character_names_are_cut_and_escaped_in_messages(refused):
    text = refused(hostile.safetensors_bytes({"\x1b[31m" + "x" * 5000: {}}))
    assert "\x1b" not in text and len(text) < 500


def test_bool_bytes_other_than_0_and_1_are_refused(refused):
    assert "BOOL" in refused(hostile.one_record(hostile.record((2,), 0, 2, "BOOL"), b"\x01\x07"))


def test_missing_file_folder_and_dangling_link_are_named(tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "link.safetensors")
    for name, words in (("none.safetensors", "No such file"), ("link.safetensors", "a link to"), (".", "a folder")):
        with pytest.raises(CheckpointError, match=words):
            read_safetensors(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_file_without_permission_is_refused_with_the_reason(tmp_path, unprivileged):
    path = tmp_path / "secret.safetensors"
    path.write_bytes(hostile.good())
    path.chmod(0)
    with unprivileged(), pytest.raises(CheckpointError, match="Permission denied"):
        read_safetensors(path)


def test_file_that_shrinks_while_it_is_read_is_an_error_and_not_zeros(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(hostile.good())
    checked = safetensors_file._checked_header

    def check_then_shrink(handle, *rest):
        header = checked(handle, *rest)
        os.truncate(path, header.data_start + 2)
        return header

    monkeypatch.setattr(safetensors_file, "_checked_header", check_then_shrink)
    with pytest.raises(CheckpointError, match="became shorter"):
        read_safetensors(path)


def test_drive_that_drops_while_reading_is_a_checkpoint_error(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(hostile.good())

    def drop(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(safetensors_file, "_read_tensor", drop)
    with pytest.raises(CheckpointError, match="Input/output error"):
        read_safetensors(path)


def test_read_tensors_do_not_share_memory_with_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(hostile.good())
    tensors, _ = read_safetensors(path)
    path.write_bytes(b"\xff" * len(hostile.good()))
    assert tensors["a"].tolist() == [[0, 1], [2, 3]]


def test_header_alone_gives_shapes_without_reading_data(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(hostile.with_value(float("nan")))
    assert read_header(path).shapes == {"blocks.0.weight": (3,)}


@pytest.mark.slow
def test_random_byte_flips_give_tensors_or_our_error_and_nothing_else(tmp_path):
    generator = torch.Generator().manual_seed(0)
    whole, path = bytearray(hostile.good()), tmp_path / "flip.safetensors"
    outcomes = set()
    for _ in range(2000):
        data = bytearray(whole)
        for place in torch.randint(len(whole), (3,), generator=generator).tolist():
            data[place] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(data)
        try:
            read_safetensors(path)
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_struct_of_the_hostile_maker_is_what_the_format_says():
    assert struct.unpack("<Q", hostile.good()[:8])[0] == hostile.good().rindex(b"}") + 1 - 8
