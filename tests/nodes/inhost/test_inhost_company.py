"""Our MODEL beside other parts of the host: its caches, previews, trainer and lazy weight loading."""

import asyncio
import importlib
import inspect
import logging
import os
import sys

import comfy.latent_formats
import latent_preview
import pytest
import tiny
import torch
from conftest import nodes_of


@pytest.fixture(scope="module")
def model(ours, models_folder):
    tiny.tiny_file(models_folder / "company.safetensors")
    return ours["LoadModel"].execute("company.safetensors", "fp32").args[0]


def ksampler(core, model, steps=6):
    first = tiny.first_latent()
    return core(
        "KSampler", model=model, seed=5, steps=steps, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=tiny.prompt(1, first=first), negative=tiny.prompt(2, first=first), denoise=1.0,
        latent_image=tiny.start(first=first),
    )[0]["samples"]  # fmt: skip


def extra_node(module, name):
    """Class of a node in the host's comfy_extras, whichever form it has."""
    module = importlib.import_module(f"comfy_extras.{module}")
    if name in getattr(module, "NODE_CLASS_MAPPINGS", {}):
        return module.NODE_CLASS_MAPPINGS[name]
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(nodes_of(module))}[name]


@pytest.mark.parametrize("name, pins", [("EasyCache", True), ("LazyCache", False)])
def test_step_caches_of_the_host_run(core, model, name, pins):
    """EasyCache works around the network and keeps frame 1; LazyCache guesses the finished estimate and does not."""
    (cached,) = extra_node("nodes_easycache", name).execute(model, 0.3, 0.15, 0.95, False).args
    plain, out = ksampler(core, model, 12), ksampler(core, cached, 12)
    first = tiny.first_latent()
    assert out.isfinite().all() and not torch.equal(out, plain)
    assert ((out[:, :, :1] - first).abs().max() <= 1e-5 * first.abs().max()) == pins
    assert torch.equal(ksampler(core, model, 12), plain)


def train_lora(model):
    """The LoRA that the host's own TrainLoraNode makes of two steps."""
    node, first = extra_node("nodes_train", "TrainLoraNode"), tiny.first_latent()
    given = {
        "model": model, "latents": [tiny.start(2, first)], "positive": [tiny.prompt(1, first=first)], "batch_size": 1,
        "steps": 2, "grad_accumulation_steps": 1, "learning_rate": 1e-3, "rank": 4, "optimizer": "AdamW",
        "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32", "algorithm": "LoRA",
        "gradient_checkpointing": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
        "quantized_backward": False, "checkpoint_depth": 1, "offloading": False,
    }  # fmt: skip
    is_new = hasattr(node, "GET_SCHEMA")
    call = node.execute if is_new else getattr(node(), node.FUNCTION)
    known = inspect.signature(call).parameters
    values = {key: value for key, value in given.items() if key in known}
    if not is_new:
        values |= {"latents": values["latents"][0], "positive": values["positive"][0]}
        return call(**values)[1]
    return call(**{key: value if isinstance(value, list) else [value] for key, value in values.items()}).args[0]


def test_the_hosts_own_trainer_trains_our_model(ours):
    (model,) = ours["LoadModel"].execute("company.safetensors", "fp32").args
    weights = train_lora(model)
    assert sum("transformer_blocks.1.attn_temporal.to_q" in name for name in weights) >= 2
    assert all(name.startswith("diffusion_model.") for name in weights)
    moved = [tensor for name, tensor in weights.items() if "lora_up" in name or "lora_B" in name]
    assert moved and sum(float(tensor.abs().sum()) for tensor in moved) > 0


def test_previews_show_the_builtin_latents_in_their_colours(ours):
    model = ours["LoadBuiltin"].execute("motionblocks-tiny").args[0]
    space = model.get_model_object("latent_format")
    assert isinstance(space, comfy.latent_formats.LatentFormat)
    previewer = latent_preview.Latent2RGBPreviewer(space.latent_rgb_factors, None)
    red = torch.zeros(1, 200, 3, 8, 8)
    red[:, 0], red[:, 64], red[:, 128] = 8.0, -8.0, -8.0
    picture = previewer.decode_latent_to_preview(red)
    assert picture.size == (8, 8) and picture.getpixel((3, 3))[0] > 250 and picture.getpixel((3, 3))[1] < 5


def test_weights_load_where_the_host_makes_its_layers_lazily(core, ours, model, monkeypatch):
    """Newer hosts leave layers empty until the weights are assigned when they stream weights to a GPU."""
    memory = importlib.import_module("comfy.memory_management") if _streams() else None
    if memory is not None:
        monkeypatch.setattr(memory, "aimdo_enabled", True)
    (lazy,) = ours["LoadModel"].execute("company.safetensors", "fp32").args
    tables = dict(lazy.model.diffusion_model.named_parameters())
    assert not any(table.is_meta for table in tables.values())
    assert set(tables) == set(dict(model.model.diffusion_model.named_parameters()))
    if memory is not None:
        monkeypatch.setattr(memory, "aimdo_enabled", False)
    assert torch.equal(ksampler(core, lazy), ksampler(core, model))


def _streams():
    return importlib.util.find_spec("comfy.memory_management") is not None


def surroundings():
    """What a node could change behind the host's back."""
    return {
        "random state": torch.get_rng_state().tolist(), "numbers": torch.get_default_dtype(), "path": list(sys.path),
        "environment": dict(os.environ), "threads": torch.get_num_threads(), "gradients": torch.is_grad_enabled(),
        "handlers": list(logging.getLogger().handlers), "folder": os.getcwd(), "hooks": len(_global_forward_hooks()),
    }  # fmt: skip


def _global_forward_hooks():
    return torch.nn.modules.module._global_forward_hooks


def test_nodes_leave_the_process_as_they_found_it(ours, models_folder):
    tiny.tiny_file(models_folder / "company.safetensors")
    image = torch.rand(1, 40, 48, 3)
    before = surroundings()
    model, _, vae = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    ours["LoadModel"].execute("company.safetensors", "fp16")
    ours["SamplePhoto"].execute("raccoon.jpg")
    *_, latent, bound, _ = ours["ImageToVideo"].execute([], [], vae, image, 4).args
    ours["DCTInit"].execute(model, latent, 3)
    ours["FlowScheduler"].execute(model, 3)
    ours["MeasureDynamics"].execute(bound.decode(latent["samples"])[0], 64)
    for bad in (lambda: ours["LoadModel"].execute("none", "fp16"), lambda: bound.decode(torch.zeros(1, 2, 3, 4, 5))):
        with pytest.raises(ValueError):
            bad()
    assert surroundings() == before
