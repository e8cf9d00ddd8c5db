"""A tiny linear video model as MODEL and as a network of ours, and MIVA adapters for it."""

import hashlib

import tiny
import torch
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.io.networks.linear_video import read_linear_video
from pack.motion.models.linear_video.network import LinearVideoDiT
from pack.nodes.models.linear_video import load_motion_model


def model_at(path, **kind):
    """A fresh MODEL and the same network without a host."""
    tiny.tiny_file(path, **kind)
    file = read_linear_video(path)
    with torch.inference_mode(False):
        own = LinearVideoDiT(file.spec.config)
        own.load_state_dict(file.state_dict)
    return load_motion_model(str(path)), own.eval().requires_grad_(False)


def drawn(network, seed=0, size=0.2, **settings):
    """A trained-looking adapter."""
    adapter = MIVA(network, MIVAConfig(rank=3, **settings), seed=seed)
    for number, value in enumerate(adapter.parameters().values()):
        value.data.add_(tiny.randn(*value.shape, seed=100 * seed + number) * size)
    return adapter


def stack(*adapters, form="delta", **entry):
    return AdapterStack(tuple(StackEntry(adapter, **entry) for adapter in adapters), form=form)


def sample(core, model, *, sampler="euler", steps=2, cfg=1.0, latent=None, first=None):
    first = tiny.first_latent() if first is None else first
    positive, negative = (tiny.prompt(seed, first=first) for seed in (1, 2))
    return core(
        "KSampler", model=model, seed=5, steps=steps, cfg=cfg, sampler_name=sampler, scheduler="simple", denoise=1.0,
        positive=positive, negative=negative, latent_image=tiny.start() if latent is None else latent,
    )[0]["samples"]  # fmt: skip


def by_value(patcher):
    """All that a run could leave on a MODEL and on the network in it."""
    network = patcher.model.diffusion_model
    values = {name: hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
              for name, value in patcher.model.state_dict().items()}  # fmt: skip
    hooks = {(name, kind): len(getattr(module, kind)) for name, module in network.named_modules()
             for kind in ("_forward_hooks", "_forward_pre_hooks") if getattr(module, kind)}  # fmt: skip
    options = repr((patcher.model_options, patcher.wrappers, patcher.object_patches, sorted(patcher.patches),
                    patcher.attachments, patcher.additional_models, patcher.injections))  # fmt: skip
    return values, hooks, options
