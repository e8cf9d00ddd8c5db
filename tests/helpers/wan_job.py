"""All that a job for a tiny random Wan needs, on the disk: network, VAE, prompts, a folder of clips, the job."""

import json

import torch
import torch.nn.functional as F
from pack.motion.io.media.video import write_video
from pack.motion.io.text_encoders.prompts_file import SavedPrompt, write_prompts
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.vae import WanVAE
from safetensors.torch import save_file
from tiny_wan import fill
from wan_files import T2V

CAPTIONS = ("it brightens", "a light goes on")


def save_prompts(path, texts=("", *CAPTIONS), width=T2V.caption_channels, encoder="umt5xxl"):
    """Random text of a few tokens behind which the encoder put zeros, up to 512."""
    draw = torch.Generator().manual_seed(5)
    made = {text: torch.cat((torch.randn(n + 1, width, generator=draw), torch.zeros(511 - n, width)))
            for n, text in enumerate(texts)}  # fmt: skip
    write_prompts(path, {text: SavedPrompt.of(values) for text, values in made.items()}, encoder)
    return made


def save_clips(folder, num_frames=20, side=32):
    """Two clips of 48x32 px, or 1.5 sides by a side, at 16 fps that grow brighter, with their captions beside them."""
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        small = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(number))
        picture = F.interpolate(small, (side, side * 3 // 2), mode="bicubic").clamp(0, 1)[0]
        frames = torch.stack([picture * n / num_frames for n in range(num_frames)])
        write_video(folder / f"{number}.mp4", frames.movedim(1, -1), 16)
        (folder / f"{number}.txt").write_text(caption)


def wan_job(folder, name="job.json", *, config=T2V, model="wan.safetensors", training=None, **changes):
    """Write what is not there yet, and the job; its path."""
    if not (folder / "clips").exists():
        save_clips(folder / "clips")
        torch.manual_seed(0)
        save_file(WanVAE(2).state_dict(), folder / "vae.safetensors")
        save_prompts(folder / "prompts.safetensors")
    if not (folder / model).exists():
        save_file(fill(WanDiT(config)).state_dict(), folder / model)
    values = {
        "model": str(folder / model), "clips": str(folder / "clips"), "output": str(folder / "lora.safetensors"),
        "vae": str(folder / "vae.safetensors"), "prompts": str(folder / "prompts.safetensors"), "device": "cpu",
        "training": {"num_steps": 4, "learning_rate": 1e-2, "rank": 2, "alpha": 2.0, "warmup_steps": 0,
                     **(training or {})},
        "windows": {"resolution": 32, "windows_per_clip": 1}, **changes,
    }  # fmt: skip
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder / name
