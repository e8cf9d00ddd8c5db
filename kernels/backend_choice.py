"""What all operators share: which backend may run where, and how an operator is registered with torch.

Every operator has two backends, torch and Triton. Its `kernels` argument names one: "torch", "triton", or "auto",
which takes Triton for float32, float16 and bfloat16 on devices where `triton_problem` knows no objection.
"""

import functools
import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import ConfigError, ShapeError

KERNELS = ("auto", "torch", "triton")
LOWEST_TRITON = (3, 3)
LOWEST_CAPABILITY = (8, 0)  # Turing has no bfloat16 tensor cores: compiled there, kernels spill 1.5 KB
STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOAT16_MAX = 65504.0
WIDEST_TOKEN = 6144  # channels: a wider token does not fit into the registers of one program
MAX_PROGRAMS = 2**31 - 1  # of a grid's x axis; y and z end at 65,535, so grids are flat


def interpreting() -> bool:
    """Whether Triton's CPU interpreter is on. It is read when a kernel is decorated, so set it before the start."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def triton_problem(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on a device, as half a sentence; None when they can."""
    if device.type == "cpu":
        if not interpreting():
            return "the device is a CPU"
    elif device.type != "cuda":
        return f"the device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    import triton

    version = tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:2])
    if version < LOWEST_TRITON:
        return f"Triton is {triton.__version__}, at least {'.'.join(map(str, LOWEST_TRITON))} is needed"
    if device.type == "cuda":
        if torch.version.hip:
            return "the device is an AMD card"
        capability = torch.cuda.get_device_capability(device)
        if capability < LOWEST_CAPABILITY:
            return f"the card's compute capability is {capability[0]}.{capability[1]}, 8.0 is needed"
    return None


def use_triton(kernels: str, *tensors: Tensor | None) -> bool:
    """Whether the Triton backend is to run on these tensors.

    "auto" falls back to torch for other devices and number types; "triton" refuses them. Tensors on the meta device
    take the Triton backend when it is named, so that its memory can be counted. Raises ConfigError.
    """
    if kernels not in KERNELS:
        raise ConfigError(f"kernels is {str(kernels)[:40]!r}; it must be one of {', '.join(KERNELS)}")
    if kernels == "torch":
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    problem = next((f"a tensor is {x.dtype}" for x in given if x.dtype not in STORED_TYPES), None)
    if problem is None and not (given[0].is_meta and kernels == "triton"):
        problem = triton_problem(given[0].device)
    if problem and kernels == "triton":
        raise ConfigError(f"kernels is 'triton', but {problem}; use kernels 'auto' or 'torch'")
    return problem is None


def through_operator(*tensors: Tensor | None) -> bool:
    """Whether a call must go through the registered operator: gradients, compilers and tensors without memory.

    Everything else calls the launcher itself, which costs the host less time.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        torch.compiler.is_compiling()
        or any(type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta for x in given)
        or (torch.is_grad_enabled() and any(x.requires_grad for x in given))
    )


def register(name: str, function: Callable, *, fake: Callable, backward: Callable | None = None,
             setup_context: Callable | None = None) -> Callable:  # fmt: skip
    """Register `function` as torch operator motionblocks::name, once a process, and return the callable.

    A second copy of the pack in one process reuses the first's operator: registering again would silently replace it.
    """
    known = torch.ops.motionblocks
    if not hasattr(known, name):
        operator = torch.library.custom_op(f"motionblocks::{name}", function, mutates_args=())
        operator.register_fake(fake)
        if backward is not None:
            operator.register_autograd(backward, setup_context=setup_context)
    return getattr(known, name)


def check_same(**tensors: Tensor | None) -> None:
    """Refuse tensors of different devices. Raises ShapeError with the names."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    devices = {name: str(tensor.device) for name, tensor in given.items()}
    if len(set(devices.values())) > 1:
        raise ShapeError(f"tensors lie on different devices: {devices}; move them to one")


def programs(*counts: int) -> int:
    """Programs of a flat grid, the product of counts. Raises ShapeError beyond what a card can start."""
    total = 1
    for count in counts:
        total *= count
    if total > MAX_PROGRAMS:
        raise ShapeError(
            f"{total} programs are needed, a grid holds {MAX_PROGRAMS}; use fewer frames or a smaller batch"
        )
    return total
