"""A whole diffusers folder of SANA-Video with tiny random weights, and what its image-to-video pipeline makes of a
prompt and a photo: latents after ten guided steps. The VAE is the one of oracle_wan_vae, at full width; the text
encoder that of oracle_gemma."""

import runpy
import shutil
from pathlib import Path

import tiny_gemma
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    SanaImageToVideoPipeline,
    SanaVideoTransformer3DModel,
)
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma2Model

SEED, STEPS, CFG, FRAMES, HEIGHT, WIDTH = 5, 10, 6.0, 9, 32, 64
POSITIVE = "A Busy City Street at dusk, glowing lamps. motion score: 30."
NEGATIVE = "flicker, Jump Cuts"


def make(folder: Path) -> None:
    parts = {name: _other(folder, name) for name in ("gemma", "wan_vae")}
    whole = folder / "SANA-Video_2B_480p_diffusers"
    torch.manual_seed(0)
    transformer = SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=14, num_layers=2,
        num_cross_attention_heads=4, cross_attention_head_dim=7, cross_attention_dim=28,
        caption_channels=tiny_gemma.HIDDEN, mlp_ratio=3.0, patch_size=(1, 2, 2),
    ).eval()  # fmt: skip
    transformer.save_pretrained(whole / "transformer")
    (whole / "model_index.json").write_text("{}")
    (whole / "vae").symlink_to(parts["wan_vae"] / "vae", target_is_directory=True)
    text = parts["gemma"] / "gemma-2-2b-it"
    for place, names in (("text_encoder", ("config.json", "model.safetensors")), ("tokenizer", ("tokenizer.model",))):
        (whole / place).mkdir()
        for name in names:
            shutil.copy(text / name, whole / place / name)
    pipe = SanaImageToVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(text),
        text_encoder=Gemma2Model.from_pretrained(text, dtype=torch.float32, attn_implementation="eager").eval(),
        vae=AutoencoderKLWan.from_pretrained(whole / "vae", torch_dtype=torch.float32).eval(),
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    photo = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    noise = torch.randn((1, 16, 3, HEIGHT // 8, WIDTH // 8), generator=torch.manual_seed(SEED))
    with torch.no_grad():
        latents = pipe(
            image=photo, prompt=POSITIVE, negative_prompt=NEGATIVE, guidance_scale=CFG, height=HEIGHT, width=WIDTH,
            frames=FRAMES, num_inference_steps=STEPS, latents=noise, output_type="latent", return_dict=False,
            use_resolution_binning=False,
        )[0]  # fmt: skip
    save_file({"photo": photo, "latents": latents.contiguous()}, folder / "truth.safetensors")


def _other(folder: Path, name: str) -> Path:
    """The folder of another oracle, which is made here when this one runs alone."""
    place = folder.parent / name
    if not place.exists():
        place.mkdir()
        runpy.run_path(str(Path(__file__).with_name(f"oracle_{name}.py")))["make"](place)
    return place
