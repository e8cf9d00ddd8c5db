"""diffusers' two SANA-Video pipelines on tiny random weights of the published structure, and those weights as files."""

import json
from pathlib import Path

import diffusers
import torch
from pack.motion.io.networks.sana_layouts import detect_sana, to_nvlabs_names
from safetensors.torch import save_file

SEED, STEPS, CFG, SHIFT = 5, 10, 6.0, 8.0
FRAMES, HEIGHT, WIDTH = 9, 32, 64  # pixels; 3 latent frames of 4 x 8
CHANNELS, HEADS, HEAD_DIM, CROSS, TEXT, LAYERS = 16, 2, 14, 4, 10, 2


def network():
    torch.manual_seed(0)
    model = diffusers.SanaVideoTransformer3DModel(
        in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM,
        num_layers=LAYERS, num_cross_attention_heads=CROSS, cross_attention_head_dim=HEADS * HEAD_DIM // CROSS,
        cross_attention_dim=HEADS * HEAD_DIM, caption_channels=TEXT, mlp_ratio=3.0, patch_size=(1, 2, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:  # norms that do nothing would hide a missing one
                value.uniform_(0.5, 1.5)
    return model


def tiny_vae():
    torch.manual_seed(1)
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def sampled(kind, transformer, scheduler, **more):
    """Scaled latents of one pipeline. The prompts come last and first, so that they cannot be mixed up."""
    pipe = kind(tokenizer=None, text_encoder=None, vae=tiny_vae(), transformer=transformer, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt=None, negative_prompt=None, guidance_scale=CFG, height=HEIGHT, width=WIDTH, frames=FRAMES,
        num_inference_steps=STEPS, output_type="latent", use_resolution_binning=False, return_dict=False, **more,
    )[0]  # fmt: skip


@torch.no_grad()
def make(folder: Path) -> None:
    """Weights in three layouts, the noise that the host draws, prompts, and what the pipelines make of them."""
    transformer = network()
    transformer.save_pretrained(folder / "whole" / "transformer")
    transformer.save_pretrained(folder / "shards" / "transformer", max_shard_size="40KB")
    for name in ("whole", "shards"):
        (folder / name / "model_index.json").write_text("{}")
    state = transformer.state_dict()
    config = json.loads((folder / "whole" / "transformer" / "config.json").read_text())
    layout = detect_sana("tiny", {name: tuple(value.shape) for name, value in state.items()}, config)
    theirs = {name: value.contiguous() for name, value in to_nvlabs_names(layout.dims, state).items()}
    save_file(theirs, folder / "nvlabs.safetensors", {"config": json.dumps(config)})

    shape = (1, CHANNELS, (FRAMES - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8)
    noise = torch.randn(shape, generator=torch.manual_seed(SEED))
    given = torch.Generator().manual_seed(2)
    text, mask = torch.randn(2, 5, TEXT, generator=given), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    prompts = {
        "prompt_embeds": text[1:], "prompt_attention_mask": mask[1:], "negative_prompt_embeds": text[:1],
        "negative_prompt_attention_mask": mask[:1],
    }  # fmt: skip
    i2v = sampled(
        diffusers.SanaImageToVideoPipeline, transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        image=torch.rand(1, 3, HEIGHT, WIDTH, generator=given), latents=noise.clone(), **prompts,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=SHIFT,
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    start = noise * scheduler.sigmas[0]  # the host scales the noise by its first level, the pipeline does not
    t2v = sampled(diffusers.SanaVideoPipeline, transformer, scheduler, latents=start, **prompts)
    truth = {"noise": noise, "text": text, "mask": mask, "first": i2v[:, :, :1], "i2v": i2v, "t2v": t2v}
    truth["flow_dpm"] = scheduler.sigmas
    save_file({name: value.contiguous() for name, value in truth.items()}, folder / "truth.safetensors")
