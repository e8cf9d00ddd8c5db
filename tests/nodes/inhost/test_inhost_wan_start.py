"""What image-to-video Wan is shown while our trainer teaches it is what the host's node and MODEL make of a photo."""

import asyncio
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import comfy.sd
import torch
from conftest import nodes_of
from pack.motion.data.encoders import TextEntry, wan_encoders
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.vae import WanVAE
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[2] / "helpers"))
import tiny_wan  # noqa: E402
import wan_files  # noqa: E402


class OnSocket:
    """Our VAE in the place of the host's, which gives the same latents (test_inhost_wan_vae.py)."""

    def __init__(self, vae):
        self.vae = vae

    def encode(self, pixels):
        return self.vae.encode(pixels.movedim(-1, 0).unsqueeze(0) * 2 - 1)


def test_the_start_of_a_clip_is_what_the_hosts_node_and_model_make_of_its_first_frame(tmp_path):
    config = replace(wan_files.CONFIGS["A14B I2V"], caption_channels=4096)
    with torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(0)
        vae = WanVAE(2)
        save_file(tiny_wan.fill(WanDiT(config)).state_dict(), tmp_path / "wan.safetensors")
        model = comfy.sd.load_diffusion_model(str(tmp_path / "wan.safetensors")).model
        frames = torch.rand(1, 3, 9, 32, 48)
        ours = wan_encoders(vae, lambda text: TextEntry(torch.zeros(1, 4096)), "none", with_start=True)
        found = ours.encode_beside(frames)["concat_latents"]
    (node,) = [kind for kind in asyncio.run(nodes_of(importlib.import_module("comfy_extras.nodes_wan")))
               if kind.GET_SCHEMA().node_id == "WanImageToVideo"]  # fmt: skip
    prompt, photo = [[torch.zeros(1, 4, 4096), {}]], frames[0, :, 0].movedim(0, -1).unsqueeze(0)
    positive, _, latent = node.execute(prompt, prompt, OnSocket(vae), 48, 32, 9, 1, start_image=photo).args
    told, noise = positive[0][1], torch.zeros_like(latent["samples"])
    truth = model.concat_cond(noise=noise, device=noise.device, **told)
    assert truth.shape == (1, 20, 3, 4, 6) == (1, *found.shape) and found[4:].std() > 0.05
    torch.testing.assert_close(found, truth[0].float(), atol=1e-5, rtol=1e-5)
