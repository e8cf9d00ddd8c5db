"""Whole diffusers folders of SANA-Video, 480p and 720p, with tiny random weights, and what their image-to-video
pipeline makes of a prompt and a photo: latents after ten guided steps. The VAEs are those of oracle_wan_vae and
oracle_ltx2_vae, at full width; the text encoder that of oracle_gemma."""

import os
import runpy
import shutil
from pathlib import Path

import tiny_gemma
import torch
from diffusers import (
    AutoencoderKLLTX2Video,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    SanaImageToVideoPipeline,
    SanaVideoTransformer3DModel,
)
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma2Model

SEED, STEPS, CFG, FRAMES = 5, 10, 6.0, 9
KINDS = {  # folder: VAE and its oracle, latent channels, patch, height and width in px, latent shape
    "SANA-Video_2B_480p_diffusers": (AutoencoderKLWan, "wan_vae", 16, 2, (32, 64), (3, 4, 8)),
    "SANA-Video_2B_720p_diffusers": (AutoencoderKLLTX2Video, "ltx2_vae", 128, 1, (64, 96), (2, 2, 3)),
}
POSITIVE = "A Busy City Street at dusk, glowing lamps. motion score: 30."
NEGATIVE = "flicker, Jump Cuts"


def make(folder: Path) -> None:
    for name in KINDS:
        _make_kind(folder, name)


def _make_kind(folder: Path, name: str) -> None:
    kind, vae, channels, patch, (height, width), shape = KINDS[name]
    parts, whole = {part: _other(folder, part) for part in ("gemma", vae)}, folder / name
    torch.manual_seed(0)
    transformer = SanaVideoTransformer3DModel(
        in_channels=channels, out_channels=channels, num_attention_heads=2, attention_head_dim=14, num_layers=2,
        num_cross_attention_heads=4, cross_attention_head_dim=7, cross_attention_dim=28,
        caption_channels=tiny_gemma.HIDDEN, mlp_ratio=3.0, patch_size=(1, patch, patch),
    ).eval()  # fmt: skip
    transformer.save_pretrained(whole / "transformer")
    (whole / "model_index.json").write_text("{}")
    beside = os.path.relpath(parts[vae] / "vae", whole)  # the folder around them is still to be renamed
    (whole / "vae").symlink_to(beside, target_is_directory=True)
    text = parts["gemma"] / "gemma-2-2b-it"
    for place, names in (("text_encoder", ("config.json", "model.safetensors")), ("tokenizer", ("tokenizer.model",))):
        (whole / place).mkdir()
        for file in names:
            shutil.copy(text / file, whole / place / file)
    pipe = SanaImageToVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(text),
        text_encoder=Gemma2Model.from_pretrained(text, dtype=torch.float32, attn_implementation="eager").eval(),
        vae=kind.from_pretrained(whole / "vae", torch_dtype=torch.float32).eval(),
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    photo = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2))
    noise = torch.randn((1, channels, *shape), generator=torch.manual_seed(SEED))
    with torch.no_grad():
        latents = pipe(
            image=photo, prompt=POSITIVE, negative_prompt=NEGATIVE, guidance_scale=CFG, height=height, width=width,
            frames=FRAMES, num_inference_steps=STEPS, latents=noise, output_type="latent", return_dict=False,
            use_resolution_binning=False,
        )[0]  # fmt: skip
    save_file({"photo": photo, "latents": latents.contiguous()}, folder / f"{name}.safetensors")


def _other(folder: Path, name: str) -> Path:
    """The folder of another oracle, which is made here when this one runs alone."""
    place = folder.parent / name
    if not place.exists():
        place.mkdir()
        runpy.run_path(str(Path(__file__).with_name(f"oracle_{name}.py")))["make"](place)
    return place
