"""SANA made a video model: every frame equals diffusers' image model, the file loads, and training moves it."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.networks.linear_video import (
    build_linear_video,
    network_shapes,
    read_linear_video,
    save_linear_video,
)
from pack.motion.io.networks.sana import inflate_sana, inflated_file, open_sana, row_of
from pack.motion.io.networks.sana_layouts import sana_shapes, to_nvlabs_names
from pack.motion.io.networks.video_model_file import ROWS
from pack.motion.models.conditions import Conditions
from pack.motion.models.inflation import inflate, inflated_config
from pack.motion.models.linear_video.network import LinearVideoDiT
from pack.motion.models.sana_video.dims import SanaDims
from pack.motion.shell import main

TINY = SanaDims("sana", 32, (1, 1, 1), 2, 2, 8, 4, 6, 40, False)
TINY_1_5 = dataclasses.replace(TINY, qk_norm=True)
CONFIG = {
    "_class_name": "SanaTransformer2DModel", "in_channels": 32, "out_channels": 32, "num_attention_heads": 2,
    "attention_head_dim": 8, "num_layers": 2, "num_cross_attention_heads": 4, "cross_attention_head_dim": 4,
    "cross_attention_dim": 16, "caption_channels": 6, "mlp_ratio": 2.5, "sample_size": 4, "patch_size": 1,
    "interpolation_scale": None,
}  # fmt: skip


def random_state(dims):
    """Image weights whose every part matters: norms near 1, all else of unit size over the square root of the width."""
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=draw) for name, shape in sana_shapes(dims).items()}
    return {n: 1 + 0.1 * t if "norm" in n else t / max(1, t[0].numel()) ** 0.5 for n, t in state.items()}


def inputs(frames=5):
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 7)
    mask[0, 3:] = 0
    return (
        torch.randn(2, 32, frames, 4, 6, generator=draw), torch.tensor([731.0, 12.0]),
        torch.randn(2, 7, 6, generator=draw), mask,
    )  # fmt: skip


def video_model(dims, state, **options):
    config = inflated_config(dims)
    model = LinearVideoDiT(config)
    model.load_state_dict(inflate(state, config, **options))
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """A diffusers folder with tiny random SANA weights."""
    inner = tmp_path / "Sana_tiny" / "transformer"
    inner.mkdir(parents=True)
    safetensors.torch.save_file(random_state(TINY), inner / "diffusion_pytorch_model.safetensors")
    (inner / "config.json").write_text(json.dumps(CONFIG))
    (inner.parent / "model_index.json").write_text("{}")
    return inner.parent


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("dims", [TINY, TINY_1_5], ids=["SANA", "SANA-1.5"])
def test_every_frame_of_the_inflated_model_equals_diffusers_image_model(dims):
    diffusers = pytest.importorskip("diffusers")
    norm = "rms_norm_across_heads" if dims.qk_norm else None
    image = diffusers.SanaTransformer2DModel(**{k: v for k, v in CONFIG.items() if k[0] != "_"}, qk_norm=norm).eval()
    state = random_state(dims)
    assert {name: tuple(t.shape) for name, t in image.state_dict().items()} == sana_shapes(dims)
    image.load_state_dict(state)
    latents, timestep, text, mask = inputs()
    model = video_model(dims, state)
    with torch.no_grad():
        truth = [image(frame, text, timestep, encoder_attention_mask=mask).sample for frame in latents.unbind(2)]
        for bucket in (0, 19):
            told = Conditions(text, mask, motion_bucket_id=torch.full((2,), bucket))
            video = model(latents, timestep, told)
            assert (video - torch.stack(truth, 2)).abs().max() <= 1e-5 * torch.stack(truth).abs().max().clamp_min(1)


def test_copy_init_mixes_frames_and_zero_init_does_not():
    latents, timestep, text, mask = inputs()
    other = latents.clone()
    other[:, :, 3] += 1
    for init, mixes in (("zero", False), ("copy", True)):
        model = video_model(TINY, random_state(TINY), init=init)
        with torch.no_grad():
            first, second = (model(x, timestep, Conditions(text, mask))[:, :, 0] for x in (latents, other))
        assert torch.equal(first, second) != mixes


def test_inflation_writes_into_nothing_and_new_weights_share_no_memory():
    state = random_state(TINY_1_5)
    before = {name: tensor.clone() for name, tensor in state.items()}
    new = inflate(state, inflated_config(TINY_1_5), init="copy")
    places = [tensor.data_ptr() for tensor in new.values()]
    assert len(set(places)) == len(places)
    assert all(torch.equal(state[name], before[name]) for name in before) and state.keys() == before.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "numbers"), [
    (SanaDims(), 746_100_000), (SanaDims("sana", 32, (1, 1, 1), 20, 70, 32, 20, 2304, 5600, False), None),
    (SanaDims("sana", 32, (1, 1, 1), 20, 70, 32, 20, 2304, 5600, True), None),
], ids=["0.6B", "1.6B", "1.5"])  # fmt: skip
def test_public_sizes_inflate_on_shapes_alone_to_the_networks_weights(dims, numbers):
    state = {name: torch.empty(shape, device="meta") for name, shape in sana_shapes(dims).items()}
    config = inflated_config(dims)
    new = inflate(state, config)
    assert {name: tuple(tensor.shape) for name, tensor in new.items()} == network_shapes(config)
    assert config.hidden_width == dims.hidden_width
    if numbers:  # the published count, given to four figures
        assert abs(sum(tensor.numel() for tensor in new.values()) - numbers) < 50_000


def test_paper_config_is_what_the_public_0_6b_inflates_to():
    assert inflated_config(SanaDims()) == type(inflated_config(SanaDims()))()


def test_inflated_folder_loads_keeps_its_licence_and_trains_a_step(folder, tmp_path, capsys):
    output = tmp_path / "video.safetensors"
    assert main.main(["inflate", str(folder), "-o", str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"model: {output} (")
    file = read_linear_video(output)
    assert "NSCL" in file.metadata["license"] and file.metadata["source"] == "SANA (Sana_tiny)"
    assert file.spec.objective == "t2v" and file.spec.latent.kind == "dcae"
    model = build_linear_video(file).train()
    latents, timestep, text, mask = inputs(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(latents, timestep, Conditions(text, mask)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    out = model.transformer_blocks[0].attn_temporal.to_out[0].weight
    assert losses[1] < losses[0] and out.abs().max() > 0


def test_image_weights_in_the_place_of_a_video_model_point_to_inflation(folder):
    with pytest.raises(CheckpointError, match="SANA image model.*motionblocks inflate"):
        read_linear_video(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def test_nvlabs_file_inflates_to_the_same_bits_as_the_diffusers_folder(folder, tmp_path):
    state = to_nvlabs_names(TINY, random_state(TINY)) | {"y_embedder.y_embedding": torch.zeros(300, 6)}
    single = tmp_path / "single" / "sana.safetensors"
    single.parent.mkdir()
    config = json.dumps(CONFIG)
    metadata = {"config": config, "license": "a licence"}
    safetensors.torch.save_file({"model." + n: t for n, t in state.items()}, single, metadata)
    done = inflate_sana(single, tmp_path / "a.safetensors")
    inflate_sana(folder, tmp_path / "b.safetensors")
    a, b = (read_linear_video(tmp_path / f"{name}.safetensors") for name in "ab")
    assert done.dropped == ("model.y_embedder.y_embedding",) and a.metadata["license"] == "a licence"
    assert all(torch.equal(a.state_dict[name], b.state_dict[name]) for name in b.state_dict)


def test_existing_output_and_other_refusals_write_nothing(folder, tmp_path, capsys):
    output = tmp_path / "video.safetensors"
    output.write_bytes(b"mine")
    assert main.main(["inflate", str(folder), "-o", str(output)]) == 2 and output.read_bytes() == b"mine"
    assert "--overwrite" in capsys.readouterr().err
    assert main.main(["inflate", str(folder), "-o", str(tmp_path / "a.pth")]) == 2
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert main.main(["inflate", str(folder), "-o", str(tmp_path / "b.safetensors")]) == 2
    assert "docs/models.md, SANA" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists() and not (tmp_path / "a.pth").exists()


def test_weights_are_written_in_the_type_asked_for_and_narrow_ones_need_one(folder, tmp_path):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    safetensors.torch.save_file({n: t.to(torch.float8_e4m3fn) for n, t in random_state(TINY).items()}, path)
    with pytest.raises(CheckpointError, match="float8_e4m3fn.*give a dtype"):
        inflate_sana(folder, tmp_path / "a.safetensors")
    inflate_sana(folder, tmp_path / "a.safetensors", dtype=torch.bfloat16)
    assert {t.dtype for t in read_linear_video(tmp_path / "a.safetensors").state_dict.values()} == {torch.bfloat16}
    with pytest.raises(ConfigError, match="float32, bfloat16 or float16"):
        inflate_sana(folder, tmp_path / "b.safetensors", dtype=torch.int8)


def test_what_cannot_be_inflated_is_refused(tmp_path):
    config = inflated_config(TINY)
    with pytest.raises(ConfigError, match="init is 'random'"):
        inflate(random_state(TINY), config, init="random")
    with pytest.raises(ShapeError, match=r"\(96, 16\) is needed"):
        inflate({}, config)
    video = SanaDims("sana_video", 16, (1, 2, 2), 2, 2, 8, 4, 6, 40, True)
    with pytest.raises(ConfigError, match="video model already"):
        inflated_config(video)
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_cross_attention_heads": 4}
    for dims, words in ((video, "video model already"), (dataclasses.replace(TINY, in_channels=16), "DC-AE f32c32")):
        path = tmp_path / "m.safetensors"
        safetensors.torch.save_file(random_state(dims), path, {"config": json.dumps(heads)})
        with pytest.raises(CheckpointError, match=words):
            inflate_sana(path, tmp_path / "a.safetensors")


def test_row_of_the_table_is_told_by_the_sizes():
    video = SanaDims("sana_video", 16, (1, 2, 2), 20, 20, 112, 20, 2304, 6720, True)
    assert row_of(video) == "SANA-Video 480p"
    assert row_of(dataclasses.replace(video, in_channels=128, patch_size=(1, 1, 1))) == "SANA-Video 720p"
    assert row_of(SanaDims()) == "SANA 0.6B" and row_of(TINY) == "SANA" and row_of(TINY_1_5) == "SANA-1.5"


def test_every_row_that_messages_name_stands_in_the_table_of_models():
    page = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert set(ROWS) <= rows and {"DC-AE", "Gemma-2"} <= rows


def test_bytes_read_and_written_are_told_and_stopping_there_leaves_no_file(folder, tmp_path):
    source, layout = open_sana(folder)
    read = []
    file = inflated_file(source, layout, on_bytes=read.append)
    assert sum(read) == source.num_bytes == 4 * sum(t.numel() for t in random_state(TINY).values())
    told = []
    save_linear_video(tmp_path / "a.safetensors", file.spec, file.state_dict, on_bytes=told.append)
    assert sum(told) == (tmp_path / "a.safetensors").stat().st_size

    def stop(num_bytes):
        told.append(num_bytes)
        if len(told) > 30:
            raise KeyboardInterrupt

    told.clear()
    with pytest.raises(KeyboardInterrupt):
        save_linear_video(tmp_path / "b.safetensors", file.spec, file.state_dict, on_bytes=stop)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["a.safetensors"]
    assert not list(tmp_path.glob(".motionblocks-*"))
