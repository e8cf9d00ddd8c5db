"""The network inside a MODEL for a training: plain torch layers, float32, with every weight patch worked in.

The host's own layers cast and stream weights and its model may be shared with other graphs, so training never changes
them. A base that stays frozen may lie in the host's own tensors. Call these functions outside inference mode.
"""

import torch
from torch import Tensor

from ...motion.errors import ConfigError
from ...motion.models.model_spec import ModelSpec
from ...motion.models.module_weights import PLAIN_TENSORS

NETWORK = "diffusion_model."


def patched_weights(patcher, prefix: str = "", *, frozen: bool = False):
    """Yield (name without prefix, float32 tensor) for every weight, as the patcher would apply it.

    Weight patches (LoRA, merges) are computed in float32 on the CPU, as the host does when it loads the model; what
    the host keeps meanwhile is not changed. frozen: plain float32 weights without patches come as they lie, for
    somebody who never writes into them; else every tensor is a copy on the CPU.
    """
    with torch.no_grad():
        for key, chain in patcher.get_key_patches(prefix).items():
            (stored, _), *patches = chain
            as_it_is = frozen and not patches and _is_plain(stored)
            yield key.removeprefix(prefix), stored.detach() if as_it_is else worked_in(key, chain)


def _is_plain(stored: Tensor) -> bool:
    return type(stored) in PLAIN_TENSORS and stored.dtype == torch.float32 and not stored.is_inference()


def worked_in(key: str, chain: list) -> Tensor:
    """One weight of the host's get_key_patches, [(stored, conversion), patch, …], with its patches: float32, CPU."""
    from comfy.lora import calculate_weight

    (stored, convert), *patches = chain
    weight = convert(stored.detach().to("cpu", torch.float32, copy=True), inplace=True)
    weight = calculate_weight(patches, weight, key)
    return weight.clone() if weight.is_inference() else weight


def trainable_copy(model, spec: ModelSpec, device: torch.device, *, frozen: bool = False):
    """The network with the model's weights, float32, on the device. Raises ConfigError.

    frozen: for adapters beside it; its weights are then the host's own tensors where those fit, and not copies. It runs
    the backend of the operators that the MODEL was loaded with, where that works in float32 too.
    """
    from ...kernels.self_test import resolve_kernels
    from ...motion.io.networks.linear_video import fill_module
    from ..models.base import architecture_of

    refuse_what_is_no_weight(model)
    architecture = architecture_of(model)
    kernels = resolve_kernels(kernels_of(model), device, torch.float32, architecture.operators)
    network = architecture.network()(spec.config, kernels=kernels, dtype=torch.float32, device="meta")
    weights = dict(patched_weights(model, NETWORK, frozen=frozen))
    return fill_module(network, weights, dtype=torch.float32, device=device, copy=False)


def kernels_of(model) -> str:
    """The backend of the operators that one of our MODELs was loaded with: "auto", "torch" or "triton"."""
    return model.model.diffusion_model.kernels


def refuse_what_is_no_weight(model) -> None:
    """Refuse a MODEL that other nodes changed in ways that are not weights: the copy would lack them. ConfigError."""
    options = model.model_options.get("transformer_options", {})
    around = {**model.wrappers.get("diffusion_model", {}), **options.get("wrappers", {}).get("diffusion_model", {})}
    found = {
        "block patches": options.get("patches") or options.get("patches_replace"),
        "replaced parts": [name for name in model.object_patches if name.startswith(NETWORK)],
        "bypass adapters": getattr(model, "injections", None),
        "functions around weights": getattr(model, "weight_wrapper_patches", None),
        "functions around the network": [call for calls in around.values() for call in calls],
    }
    seen = [name for name, value in found.items() if value]
    if seen:
        raise ConfigError(
            f"the model carries {' and '.join(seen)} from another node, which cannot be trained through; connect the "
            "model from before that node and patch the trained model instead (LoRAs of the usual kind are fine)"
        )
