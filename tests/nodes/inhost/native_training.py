"""What tests of training beside the host's own Wan share: data, runs on our network and the host's, snapshots."""

from types import SimpleNamespace

import comfy.ldm.wan.model
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import tiny_native_wan as tiny
import torch
from pack.motion.data.latent_dataset import LatentDataset, SampleInfo, TextEntry
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trainees.wan import WanTrainee
from pack.motion.training.trainer import Trainer
from pack.nodes.models.native_wan import native_wan
from pack.nodes.training_run.native_trainee import NativeWanTrainee
from tiny_wan import fill

SHAPE = (16, 2, 4, 4)
CONFIG = TrainingConfig.of(num_steps=20, rank=2, alpha=2.0, learning_rate=1e-3, warmup_steps=0, batch_size=1, shift=5.0)


def dataset(kind="text", count=3, shape=SHAPE, words=6):
    """Random latents with random texts, and what a variant sees beside them."""
    draw = torch.Generator().manual_seed(7)
    tensors = [{"latents": torch.randn(shape, generator=draw)} for _ in range(count)]
    for sample in tensors:
        if kind != "text":
            sample["concat_latents"] = torch.randn(20, *shape[1:], generator=draw)
        if kind == "image":
            sample["image_tokens"] = torch.randn(257, 1280, generator=draw)
    samples = [SampleInfo(f"clip {n}", f"caption {n % 2}", 0, shape) for n in range(count)]
    texts = {name: TextEntry(torch.randn(words, tiny.TEXT, generator=draw)) for name in ("", "caption 0", "caption 1")}
    record = {"fingerprint": "toy", "clips": [], "windows": {}, "encoders": "toy", "latent": {}}
    load = lambda index: {name: value.clone() for name, value in tensors[index].items()}  # noqa: E731
    return LatentDataset(samples, texts, load, record, "toy")


def own_trainee(kind="text", **more):
    """Our own network with the weights of `tiny.native(kind)`."""
    with torch.inference_mode(False):
        network = WanDiT(tiny.config(kind))
        network.load_state_dict(tiny.weights(kind))
    return WanTrainee(network, WanSpec(tiny.config(kind)), **more)


def native_model(kind="text", **options):
    """A tiny MODEL that the host has loaded and put away once, which leaves marks of the host's own."""
    model = tiny.native(kind, **options)
    used(model)
    return model


def used(model):
    comfy.model_management.load_models_gpu([model])
    comfy.model_management.unload_all_models()


def native_trainee(model, **more):
    return NativeWanTrainee(native_wan(model), **more)


def trainer_of(trainee, kind="text", config=CONFIG, adapter=None, data=None, **more):
    """A trainer, ready to run; what was made under the host's inference mode is left out of it."""
    with torch.inference_mode(False):
        return Trainer(adapter_task(trainee, data or dataset(kind), config, adapter), config, **more)


def seen(model):
    """All that a training must leave as it was, as values to compare."""
    with torch.inference_mode(False):
        state = {name: ((value.dtype, value.requires_grad, value.is_inference()), value.detach().clone())
                 for name, value in model.model.named_parameters()}  # fmt: skip
    modules = dict(model.model.named_modules())
    return {
        "weights": state,
        "hooks": {name: (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
                  for name, module in modules.items()},
        "functions": {name: (list(getattr(module, "weight_function", ())), list(getattr(module, "bias_function", ())),
                             getattr(module, "comfy_cast_weights", None)) for name, module in modules.items()},
        "own": {name: sorted(set(vars(module)) - {"weight_function", "bias_function", "comfy_cast_weights"})
                for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "patcher": (model.object_patches.copy(), model.wrappers.copy(), dict(model.weight_wrapper_patches),
                    model.model_options, {key: list(map(str, value)) for key, value in model.patches.items()}),
        "backups": (dict(model.object_patches_backup), len(model.backup)),
        "in_training": getattr(comfy.model_management, "in_training", None),
        "rope": comfy.ldm.wan.model.apply_rope1, "sampling": model.model.model_sampling,
        "inference": torch.is_inference_mode_enabled(), "gradients": torch.is_grad_enabled(),
    }  # fmt: skip


def differences(before, after, *, sampled=False):
    """Names of what is not as it was. sampled: with a LoRA, after which some hosts put other Parameters back."""
    weights = [name for name, (kind, value) in before.pop("weights").items()
               if kind[0] != after["weights"][name][0][0] or not same_bits(value, after["weights"][name][1])
               or (kind != after["weights"][name][0] and not sampled)]  # fmt: skip
    return weights + [name for name, value in before.items() if value != after[name]]


def same_bits(one, two):
    as_bytes = (value.contiguous().reshape(-1).view(torch.uint8) for value in (one, two))
    return torch.equal(*as_bytes)


class TinyText:
    """Stands for CLIP of Wan: words as random rows of the true width."""

    patcher = None

    def tokenize(self, text, **more):
        return text

    def encode_from_tokens(self, tokens, return_pooled=False, return_dict=False, **more):
        draw = torch.Generator().manual_seed(len(tokens))
        cond = torch.randn(1, 512, tiny.TEXT, generator=draw)
        return {"cond": cond, "pooled_output": None} if return_dict else (cond, None)

    def encode_from_tokens_scheduled(self, tokens, **more):
        return [[self.encode_from_tokens(tokens)[0], {"pooled_output": None}]]


def tiny_vae():
    """The host's own VAE class around its Wan network of a small width."""
    from comfy.ldm.wan.vae import WanVAE

    vae = comfy.sd.VAE(sd={})
    sizes = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    vae.first_stage_model = fill(WanVAE(dim=8, z_dim=16, dropout=0.0, temperal_downsample=[False, True, True], **sizes))
    vae.latent_channels, vae.latent_dim, vae.output_channels, vae.not_video = 16, 3, 3, False
    vae.upscale_ratio, vae.upscale_index_formula = (lambda a: max(0, a * 4 - 3), 8, 8), (4, 8, 8)
    vae.downscale_ratio, vae.downscale_index_formula = (lambda a: max(0, (a + 3) // 4), 8, 8), (4, 8, 8)
    vae.working_dtypes = [torch.float32]
    vae.memory_used_encode = vae.memory_used_decode = lambda shape, dtype: 1
    vae.device = vae.output_device = torch.device("cpu")
    vae.vae_dtype, vae.size = torch.float32, None
    vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, vae.device, vae.device)
    return vae


class TinyVision:
    """Stands for CLIP_VISION: 257 tokens of a width, the picture's mean in them."""

    patcher = None

    def __init__(self, width=1280):
        self.width = width

    def encode_image(self, image, crop=True):
        return SimpleNamespace(penultimate_hidden_states=image.mean().expand(1, 257, self.width).clone())
