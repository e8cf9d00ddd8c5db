"""A models/ tree of tiny random weights of the true architectures, under the very names the shipped workflows use.

Widths, layers and vocabulary are cut; tensor names, files, folders and config.json are those of the public folders. The
Wan VAE has its full width, since the oldest host knows no other. Nothing here is trained: the videos are noise.
"""

import json
import math
import runpy
import sys
from pathlib import Path

import torch
from host_server import ROOT
from safetensors.torch import save_file

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
import tiny_gemma  # noqa: E402

SANA_VIDEO, SANA = "SANA-Video_2B_480p_diffusers", "Sana_600M_512px_diffusers"
DCAE, GEMMA = "dc-ae-f32c32-sana-1.1-diffusers", "gemma-2-2b-it"
WEIGHTS = "diffusion_pytorch_model.safetensors"
HEADS, HEAD_DIM, LAYERS, TEXT = 2, 16, 2, tiny_gemma.HIDDEN
WIDTH = HEADS * HEAD_DIM
WIDTHS = [32, 32, 64, 64, 64, 64]
COMMON = {
    "num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM, "num_layers": LAYERS, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": WIDTH // 2, "cross_attention_dim": WIDTH, "caption_channels": TEXT,
    "attention_bias": False, "norm_elementwise_affine": False, "norm_eps": 1e-6, "dropout": 0.0,
}  # fmt: skip
VIDEO_CONFIG = COMMON | {
    "_class_name": "SanaVideoTransformer3DModel", "in_channels": 16, "out_channels": 16, "mlp_ratio": 3.0,
    "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024, "sample_size": 30,
}  # fmt: skip
IMAGE_CONFIG = COMMON | {
    "_class_name": "SanaTransformer2DModel", "in_channels": 32, "out_channels": 32, "mlp_ratio": 2.5, "patch_size": 1,
    "sample_size": 16, "interpolation_scale": None,
}  # fmt: skip
DCAE_CONFIG = {
    "_class_name": "AutoencoderDC", "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32,
    "decoder_act_fns": "silu", "decoder_norm_types": "rms_norm", "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv", "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3, "encoder_block_out_channels": WIDTHS,
    "decoder_block_out_channels": WIDTHS, "encoder_layers_per_block": [1] * 6, "decoder_layers_per_block": [1] * 6,
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]], "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "scaling_factor": 0.41407,
}  # fmt: skip


def write_models(models: Path) -> Path:
    """Fill models/ with whole diffusers folders, and with a VAE and a text encoder that lie apart."""
    networks = models / "diffusion_models"
    video, image = networks / SANA_VIDEO, networks / SANA
    _write_network(video, VIDEO_CONFIG, "sana_video")
    _write_network(image, IMAGE_CONFIG, "sana")
    _write_wan(video / "vae")
    _write_dcae(image / "vae")
    for folder in (video, image):
        _write_text(folder)
    _write_dcae(models / "vae" / DCAE)
    tiny_gemma.write_folder(models / "text_encoders" / GEMMA)
    return models


def seeded(shapes: dict[str, tuple[int, ...]], *, dtype=torch.float32, seed=0) -> dict[str, torch.Tensor]:
    """Random weights that keep the size of what passes through them: norms near 1, the rest by the width they sum.

    Drawn from one short row over and over, which is quick.
    """
    row, state = torch.randn(65521, generator=torch.Generator().manual_seed(seed)), {}
    for index, (name, shape) in enumerate(shapes.items()):
        count = math.prod(shape)
        values = row.roll(index).repeat(count // len(row) + 1)[:count].reshape(shape)
        near_one = "norm" in name or "gamma" in name
        state[name] = (1 + 0.1 * values if near_one else values / max(1, values[0].numel()) ** 0.5).to(dtype)
    return state


def _write_network(folder: Path, config: dict, family: str) -> None:
    """transformer/ and the files of a diffusers folder that say what it is."""
    if "pack" not in sys.modules:
        runpy.run_path(str(ROOT / "tests" / "conftest.py"))  # mounts it; pytest has done so before
    from pack.motion.io.networks.sana_layouts import sana_shapes
    from pack.motion.models.sana_video.dims import SanaDims

    video = family == "sana_video"
    dims = SanaDims(
        family, config["in_channels"], (1, 2, 2) if video else (1, 1, 1), LAYERS, HEADS, HEAD_DIM, 2, TEXT,
        int(WIDTH * config["mlp_ratio"]), video,
    )  # fmt: skip
    _write_part(folder / "transformer", WEIGHTS, seeded(sana_shapes(dims)), config)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))


def _write_text(folder: Path) -> None:
    """text_encoder/ and tokenizer/ side by side, as diffusers keeps them."""
    part = tiny_gemma.write_folder(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    (part / "tokenizer.model").rename(folder / "tokenizer" / "tokenizer.model")


def _write_wan(folder: Path) -> None:
    """The Wan 2.1 VAE in the names of diffusers: 254 MB of float16."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        network = AutoencoderKLWan()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    config = {"_class_name": "AutoencoderKLWan", **{k: v for k, v in network.config.items() if k[0] != "_"}}
    _write_part(folder, WEIGHTS, seeded(shapes, dtype=torch.float16), config)


def _write_dcae(folder: Path) -> None:
    from diffusers import AutoencoderDC

    with torch.device("meta"):
        network = AutoencoderDC(**{name: value for name, value in DCAE_CONFIG.items() if name[0] != "_"})
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _write_part(folder, WEIGHTS, seeded(shapes), DCAE_CONFIG)


def _write_part(folder: Path, name: str, state: dict[str, torch.Tensor], config: dict) -> None:
    folder.mkdir(parents=True)
    save_file(state, folder / name, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
