"""Wan weights from files in every layout: the same bits come out, one weight at a time, and one file of them."""

import json
import struct

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.networks.video_model import open_video_model
from pack.motion.io.networks.video_model_file import ROWS
from pack.motion.io.networks.wan import convert_wan, open_wan
from pack.motion.io.networks.wan_names import wan_shapes
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.shell import main
from safetensors.torch import save_file
from wan_files import CONFIGS, PREFIX, T2V, as_diffusers, diffusers_config, scaled, shards_of, tiny_wan_state

TYPES = (torch.float32, torch.float16, torch.float8_e4m3fn)
FORMS = ("older", "newer", "metadata")


def written(folder, layout, config, state):
    """The weights in one of the world's layouts; what to open."""
    single = folder / "wan.safetensors"
    if layout == "comfyui":
        save_file(state, single)
    elif layout == "prefixed":
        save_file({PREFIX + name: value for name, value in state.items()}, single)
    elif layout == "shards":
        return shards_of(folder / "wan", state, {"_class_name": "WanModel", "num_heads": 1, "in_dim": 16})
    elif layout == "index":
        return shards_of(folder / "wan", state) / "diffusion_pytorch_model.safetensors.index.json"
    else:
        shards_of(folder / "wan" / "transformer", as_diffusers(config, state), diffusers_config(config))
        (folder / "wan" / "model_index.json").write_text("{}")
        return folder / "wan" / ("transformer" if layout == "transformer" else "")
    return single


def same_bits(one, other):
    kinds, raw = ({name: (value.dtype, value.shape) for name, value in state.items()} for state in (one, other)), []
    assert next(kinds) == next(kinds)
    for state in (one, other):
        raw.append({name: value.reshape(-1).view(torch.uint8) for name, value in state.items()})
    return all(torch.equal(raw[0][name], raw[1][name]) for name in other)


LAYOUTS = ("comfyui", "prefixed", "shards", "index", "diffusers", "transformer")


@pytest.mark.parametrize(("layout", "dtype"), [
    *((layout, torch.bfloat16) for layout in LAYOUTS), *(("diffusers", dtype) for dtype in TYPES),
])  # fmt: skip
def test_no_bit_is_lost_from_any_layout_to_comfyuis_and_back_out(tmp_path, layout, dtype):
    state = tiny_wan_state(dtype=dtype)
    path = written(tmp_path, layout, T2V, state)
    opened = open_wan(path)
    assert opened.layout.config == T2V and same_bits(opened.state_dict(), state)
    done = convert_wan(path, tmp_path / "out.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "out.safetensors")
    assert same_bits(tensors, state) and metadata["converted"].startswith("by motionblocks")
    assert done.num_parameters == sum(value.numel() for value in state.values())
    again = open_wan(tmp_path / "out.safetensors")
    assert same_bits(again.state_dict(), state)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_is_read_from_diffusers_names(tmp_path, name):
    state = tiny_wan_state(CONFIGS[name], torch.bfloat16)
    save_file(as_diffusers(CONFIGS[name], state), tmp_path / "a.safetensors")
    assert open_wan(tmp_path / "a.safetensors").layout.config == CONFIGS[name]
    assert same_bits(open_wan(tmp_path / "a.safetensors").state_dict(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_type_asked_for_is_that_of_every_weight_and_rounds_once(tmp_path, dtype):
    state = tiny_wan_state()
    save_file(state, tmp_path / "a.safetensors")
    convert_wan(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=dtype)
    tensors, _ = read_safetensors(tmp_path / "b.safetensors")
    assert same_bits(tensors, {name: value.to(dtype) for name, value in state.items()})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["comfyui", "prefixed", "diffusers"])
def test_scaled_weights_are_the_stored_numbers_times_their_scale(tmp_path, form, layout):
    tensors, metadata, truth = scaled(tiny_wan_state(), form)
    save_scaled(tmp_path / "a.safetensors", tensors, metadata, layout)
    opened = open_wan(tmp_path / "a.safetensors")
    for dtype in (None, torch.float16):
        for name, value in opened.state_dict(dtype).items():
            kept = torch.bfloat16 if name in opened.layout.scales.scales else torch.float32
            assert value.dtype == (dtype or kept) and torch.equal(value, truth[name].float().to(value.dtype)), name


def save_scaled(path, tensors, metadata, layout):
    """In one of three layouts; the metadata names layers as the file does."""
    rename = {name: name for name in tensors}
    if layout == "prefixed":
        rename = {name: PREFIX + name for name in tensors}
    if layout == "diffusers":
        theirs = dict(zip(wan_shapes(T2V), wan_shapes(T2V, "diffusers")))
        for name in tensors:
            layer, _, leaf = name.rpartition(".")
            rename[name] = theirs.get(name) or theirs.get(f"{layer}.weight", f"{layer}.weight")[:-6] + leaf
        rename["scaled_fp8"] = "scaled_fp8"
    if metadata:
        layers = json.loads(metadata["_quantization_metadata"])["layers"]
        named = {rename[f"{layer}.weight"].removesuffix(".weight"): said for layer, said in layers.items()}
        metadata = {"_quantization_metadata": json.dumps({"layers": named})}
    save_file({rename[name]: value for name, value in tensors.items()}, path, metadata)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["comfyui", "prefixed", "diffusers"])
def test_a_scaled_file_keeps_its_numbers_scales_and_marks_when_converted(tmp_path, form, layout):
    state = tiny_wan_state()
    tensors, metadata, _ = scaled(state, form)
    save_scaled(tmp_path / "a.safetensors", tensors, metadata, layout)
    convert_wan(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    found, about = read_safetensors(tmp_path / "b.safetensors")
    truth = scaled(state, "newer")[0] if form == "metadata" else tensors
    assert same_bits(found, truth) and "_quantization_metadata" not in about


def test_a_scaled_file_without_its_marks_gets_them_when_converted(tmp_path):
    for form, mark in (("older", "scaled_fp8"), ("newer", ".comfy_quant")):
        tensors, _, _ = scaled(tiny_wan_state(), form)
        bare = {name: value for name, value in tensors.items() if not name.endswith(mark)}
        save_file(bare, tmp_path / "a.safetensors")
        convert_wan(tmp_path / "a.safetensors", tmp_path / f"{form}.safetensors")
        assert same_bits(read_safetensors(tmp_path / f"{form}.safetensors")[0], tensors)


def test_one_weight_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """Of all tensors that the reader made, no two live at once while a file is converted."""
    import weakref

    from pack.motion.io.files import safetensors as files

    tensors, _, _ = scaled(tiny_wan_state(), "newer")
    save_file(tensors, tmp_path / "a.safetensors")
    read, alive, most = files._read_tensor, weakref.WeakSet(), []

    def counted(*given):
        tensor = read(*given)
        most.append(sum(held.numel() > 4096 for held in alive) + (tensor.numel() > 4096))
        alive.add(tensor)
        return tensor

    monkeypatch.setattr(files, "_read_tensor", counted)
    convert_wan(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=torch.float32)
    assert len(most) == len(tensors) - len([name for name in tensors if name.endswith(".comfy_quant")]) + 20
    assert max(most) <= 2  # the one before it is still named while the next is read


@pytest.mark.parametrize(("text", "words"), [(b"{}", "quantised as 'None'"), (b"{", "is not JSON"),
                                             (b'{"format": "float8_e5m2"}', "said to be float8_e5m2")])  # fmt: skip
def test_a_layer_that_says_another_format_is_refused_when_read_and_nothing_is_written(tmp_path, text, words):
    tensors, _, _ = scaled(tiny_wan_state(), "newer")
    tensors["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=words):
        open_wan(tmp_path / "a.safetensors").state_dict()
    with pytest.raises(CheckpointError, match=words):
        convert_wan(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_weight_too_large_for_the_type_is_refused(tmp_path):
    state = tiny_wan_state()
    state["head.head.bias"][3] = 1e6
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="head.head.bias' does not fit torch.float16; use bfloat16 or float32"):
        open_wan(tmp_path / "a.safetensors").state_dict(torch.float16)
    with pytest.raises(ConfigError, match="dtype is torch.int8; float32, bfloat16 or float16 is needed"):
        open_wan(tmp_path / "a.safetensors").state_dict(torch.int8)


def test_bytes_read_are_told_and_stopping_there_stops(tmp_path):
    save_file(tiny_wan_state(), tmp_path / "a.safetensors")
    told = []
    open_wan(tmp_path / "a.safetensors").state_dict(on_bytes=told.append)
    assert sum(told) == open_wan(tmp_path / "a.safetensors").num_bytes

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_wan(tmp_path / "a.safetensors").state_dict(on_bytes=stop)


def test_a_file_of_another_family_is_refused_by_name(tmp_path):
    save_file({"double_blocks.0.a": torch.ones(1), "single_blocks.0.a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a.safetensors: this is a Flux image model .*Wan 2.1 or 2.2.*models.md"):
        open_wan(tmp_path / "a.safetensors")


def test_half_a_set_of_shards_is_refused_with_the_missing_file(tmp_path):
    folder = shards_of(tmp_path / "wan", tiny_wan_state())
    second = folder / "diffusion_pytorch_model-00002-of-00002.safetensors"
    with pytest.raises(CheckpointError, match="is one of several shards; choose their folder"):
        open_wan(second)
    second.unlink()
    with pytest.raises(CheckpointError, match="1 of 2 files that it names are missing .*00002-of-00002.*get them into"):
        open_wan(folder)


def test_a_cut_file_is_refused_and_one_cut_after_it_was_opened_as_well(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(tiny_wan_state(), path)
    opened, whole = open_wan(path), path.read_bytes()
    path.write_bytes(whole[:-100])
    for call in (lambda: open_wan(path), opened.state_dict):
        with pytest.raises(CheckpointError, match="a.safetensors: cut off: .*download or copy it again"):
            call()
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="became shorter while it was read"), opened.weights() as read:
        path.write_bytes(whole[:-100])
        for name in wan_shapes(T2V):
            read(name)


def test_nan_in_a_weight_is_refused_with_its_name(tmp_path):
    state = tiny_wan_state()
    state["blocks.1.norm3.bias"][5] = float("nan")
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="blocks.1.norm3.bias' holds NaN or Inf"):
        open_wan(tmp_path / "a.safetensors").state_dict()


@pytest.mark.parametrize("name", [*PUBLISHED])
def test_info_describes_published_sizes_by_their_headers(tmp_path, capsys, name):
    """Files of full size, without the bytes: the header is real, the rest a hole in the file."""
    path, entries, end = tmp_path / "wan.safetensors", {}, 0
    for key, shape in wan_shapes(PUBLISHED[name]).items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        entries[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    assert main.main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"{end // 2:,} parameters" in told and "bfloat16" in told and "row Wan 2." in told and "UMT5-XXL" in told
    assert open_wan(path).row in ROWS
    assert ("CLIP vision" in told) == PUBLISHED[name].image_tokens
    title = "T2V 14B" if name == "A14B T2V" else name
    assert f"Wan {title} (ComfyUI's names, 1 file, bfloat16)" in told
    assert ("either expert of Wan 2.2 A14B" in told) == (name in ("T2V 14B", "A14B T2V", "A14B I2V"))


def test_a_folder_with_two_experts_is_two_models_told_by_folder(tmp_path, capsys):
    state = tiny_wan_state(dtype=torch.bfloat16)
    for folder, value in (("transformer", 1.0), ("transformer_2", 2.0)):
        state["head.head.bias"] = torch.full_like(state["head.head.bias"], value)
        shards_of(tmp_path / "wan" / folder, as_diffusers(T2V, state), diffusers_config(T2V))
    (tmp_path / "wan" / "model_index.json").write_text("{}")
    for path, value in (("", 1.0), ("transformer", 1.0), ("transformer_2", 2.0)):
        expert = "low_noise" if value == 2 else "high_noise"
        opened = open_wan(tmp_path / "wan" / path)
        assert opened.layout.expert == expert and opened.state_dict()["head.head.bias"][0] == value
        assert main.main(["info", str(tmp_path / "wan" / path)]) == 0
        assert f"{expert.replace('_', '-')} expert" in capsys.readouterr().out


def test_the_shell_converts_a_folder_says_the_expert_and_keeps_it_in_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = tiny_wan_state(dtype=torch.bfloat16)
    shards_of(tmp_path / "wan", as_diffusers(T2V, state), diffusers_config(T2V))
    command = ["convert", "wan", "-o", "out.safetensors"]
    assert main.main([*command, "--expert", "low_noise"]) == 0
    count = sum(value.numel() for value in state.values())
    told = f"model: {tmp_path / 'out.safetensors'} ({count} parameters, Wan T2V of other sizes than the published"
    assert told in capsys.readouterr().out
    assert open_wan("out.safetensors").layout.expert == "low_noise"
    assert main.main(command) == 2 and "out.safetensors exists" in capsys.readouterr().err
    assert main.main([*command, "--overwrite", "--dtype", "float32"]) == 0
    assert open_wan("out.safetensors").dtypes["head.head.bias"] == torch.float32
    index = "wan/diffusion_pytorch_model.safetensors.index.json"
    assert main.main(["info", index]) == 0 and "diffusers' names, 2 files, bfloat16" in capsys.readouterr().out


def test_the_shell_refuses_what_it_cannot_convert_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.ones(1)}, "a.safetensors")
    (tmp_path / "empty").mkdir()
    for source, more, words in (
        ("a.safetensors", [], "not a model known here"), ("empty", [], "no .safetensors weights"),
        ("a.pth", ["--expert", "low_noise"], "--expert is for Wan weights"),
    ):  # fmt: skip
        assert main.main(["convert", source, "-o", "out.safetensors", *more]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1 and not (tmp_path / "out.safetensors").exists()


def test_gguf_is_refused_by_name_with_a_way_out(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(CheckpointError, match="a GGUF file, which this pack .*get the same model as .safetensors"):
        open_wan(tmp_path / "a.gguf")


def test_the_loader_of_motion_models_points_to_comfyuis_own(tmp_path):
    save_file(tiny_wan_state(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="Wan 2.1 or 2.2 video model.*ComfyUI's own Load Diffusion Model"):
        open_video_model(tmp_path / "a.safetensors").read()
