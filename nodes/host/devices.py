"""The host's devices: where and in which number type things are computed, and room in memory."""

from collections.abc import Iterable

import comfy.model_management as memory
import comfy.model_patcher
import torch
from torch import Tensor

from ...motion.errors import ShapeError

WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
COMPUTE_DTYPES = (torch.bfloat16, torch.float32)  # float16 overflows in the linear attention of large clips


def inference_dtypes(weights: dict[str, Tensor], wanted: torch.dtype | None, supported=COMPUTE_DTYPES):
    """Types to store and to compute in, as the host's settings and device ask: (stored, compute or None if equal)."""
    device, supported = memory.get_torch_device(), list(supported)
    if wanted is None:
        count = sum(tensor.numel() for tensor in weights.values())
        kinds = [tensor.dtype for tensor in weights.values()]
        common = max(set(kinds), key=kinds.count)
        wanted = memory.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=common)
    return wanted, memory.unet_manual_cast(wanted, device, supported)


def new_patcher(model: torch.nn.Module, *, disable_dynamic: bool = False):
    """The host's patcher around a model. Its class is read now, since the host's start-up may rebind it."""
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return kind(model, load_device=memory.get_torch_device(), offload_device=memory.unet_offload_device())


def adapter_patcher(weights: torch.nn.Module, model):
    """The host's patcher around small weights that go where a MODEL's go, whole and with it."""
    kind = comfy.model_patcher.ModelPatcher
    return kind(weights, load_device=model.load_device, offload_device=model.offload_device)


def bring(weights: Iterable[torch.nn.Parameter], device: torch.device) -> None:
    """Move those that are elsewhere: the host may have put away weights that two MODELs share, for one of them."""
    for weight in weights:
        if weight.device != device:
            weight.data = weight.data.to(device)


def is_dynamic(patcher) -> bool:
    """Whether the host streams this model's weights (newer hosts, GPU only)."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def vae_device() -> torch.device:
    return memory.vae_device()


def output_device() -> torch.device:
    return memory.intermediate_device()


def compute_device() -> torch.device:
    return memory.get_torch_device()


def total_memory(device: torch.device) -> int:
    """Bytes of a device's memory, free or not; for the CPU those of the machine."""
    return memory.get_total_memory(device)


def can_cast(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device can hold numbers of a type and convert them."""
    return memory.supports_cast(device, dtype)


def make_room(num_bytes: int, device: torch.device) -> None:
    """Ask the host to move other models out of the way."""
    memory.free_memory(num_bytes, device)


def unload_models() -> None:
    """Move every model of the host off the device; it loads them again when they are wanted."""
    memory.unload_all_models()
    memory.soft_empty_cache()


def release_memory() -> None:
    """Give freed memory back to the device's driver."""
    memory.soft_empty_cache()


def check_fits(what: str, num_bytes: int) -> None:
    """Refuse results that exceed this machine's memory before they are computed. Raises ShapeError."""
    total = memory.get_total_memory(torch.device("cpu"))
    if num_bytes > total:
        raise ShapeError(
            f"{what} needs {num_bytes / 2**30:.1f} GiB; this machine has {total / 2**30:.1f} GiB; use a smaller photo, "
            "fewer frames or a smaller batch"
        )
