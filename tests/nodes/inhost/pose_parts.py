"""What tests of pose videos share: the small VAE, pictures, and Pose Video as its node is run."""

import functools

import tiny_native_wan as tiny
import torch
from pack.motion.io.networks.builtin_names import VAE
from pack.motion.io.vaes.small_vae import read_small_vae
from pack.nodes.vaes_on_socket.small import SmallMotionVAE

SIDE = 64  # px


@functools.cache
def vae():
    with torch.inference_mode(False):
        return SmallMotionVAE(read_small_vae(VAE))


def pictures(count, seed=0, side=SIDE):
    """IMAGE (count, side, side, 3)."""
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def pose_video(ours, model, frames=8, **changes):
    """Outputs of Pose Video by name."""
    given = {"model": model, "vae": vae(), "reference": pictures(1), "skeletons": pictures(frames, 1),
             "positive": tiny.prompt(1), "negative": tiny.prompt(2)}  # fmt: skip
    node = ours["PoseVideo"]
    names = [output.display_name for output in node.GET_SCHEMA().outputs]
    return dict(zip(names, node.execute(**{**given, **changes}).args))


def sampled(core, made, *, sampler="euler", steps=3, cfg=1.0, batch=1, seed=5, model=None):
    """LATENT of KSampler behind Pose Video."""
    latent = {**made["latent"], "samples": made["latent"]["samples"].repeat(batch, 1, 1, 1, 1)}
    return core("KSampler", model=model or made["model"], seed=seed, steps=steps, cfg=cfg, sampler_name=sampler,
                scheduler="simple", positive=made["positive"], negative=made["negative"], latent_image=latent,
                denoise=1.0)[0]  # fmt: skip

