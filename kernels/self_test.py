"""One try of every operator when a model is loaded, so that the step loop has nothing to catch.

A kernel can fail on a machine in ways no list foresees: no C compiler, a driver too old for the Triton that came with
torch, a card with less shared memory. Each operator therefore runs once at a tiny size, its answer is compared with
the torch backend, and the verdict holds for the process.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .backend_choice import KERNELS, STORED_TYPES, triton_problem
from .errors import ConfigError
from .foreign_text import safe_logger
from .gate_norm_modulate import Rows, gate_norm_modulate
from .glu_depthwise import glu_depthwise
from .joint_linear_attention import axis_rotary, joint_linear_attention
from .spatial_linear_attention import spatial_linear_attention
from .temporal_cosine_attention import temporal_cosine_attention
from .token_rstd import token_rstd

_log = safe_logger("motionblocks.kernels")
LIMIT = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}  # relative; wrong kernels miss it by far


def resolve_kernels(choice: str, device: torch.device | str, dtype: torch.dtype, operators: tuple[str, ...]) -> str:
    """Settle a user's choice for a model that computes in dtype on a device: "torch", "auto" or "triton".

    operators: those the model calls, by their names in `OPERATORS`. "auto" becomes "torch" where Triton cannot run or
    one operator fails its try; the reason is logged once a process. Raises ConfigError for an unknown choice, and for
    "triton" where it cannot be had. Out of memory passes.
    """
    if choice not in KERNELS:
        raise ConfigError(f"kernels is {str(choice)[:40]!r}; it must be one of {', '.join(KERNELS)}")
    if choice == "torch":
        return choice
    problem = kernel_problem(torch.device(device), dtype, operators)
    if problem is None:
        return choice
    if choice == "triton":
        raise ConfigError(f"kernels is 'triton', but {problem}; use kernels 'auto' or 'torch'")
    return "torch"


@functools.cache
def kernel_problem(device: torch.device, dtype: torch.dtype, operators: tuple[str, ...]) -> str | None:
    """Why these operators are left to torch on a device, as half a sentence; None when all their kernels work."""
    problem = triton_problem(device)
    if problem is None and dtype not in STORED_TYPES:
        problem = f"the model computes in {str(dtype).removeprefix('torch.')}"
    for name in () if problem else operators:
        problem = problem or try_operator(name, device, dtype)
    backend = "Triton kernels" if problem is None else f"torch operators, since {problem}"
    _log.info("MotionBlocks: on %s (%s) %s.", device, str(dtype).removeprefix("torch."), backend)
    return problem


def try_operator(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Run one operator both ways at a tiny size: None when they agree, else what went wrong."""
    call = _CALLS[name]
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    try:
        with torch.no_grad():
            arguments = call.inputs(make)
            got, expected = (call.run(*arguments, kernels=kernels).double() for kernels in ("triton", "torch"))
            error = ((got - expected).norm() / expected.norm()).item()  # waits for the device
    except Exception as fault:  # Triton's errors have no base class that can be named without Triton; others go on
        if not is_kernel_fault(fault):
            raise
        reason = " ".join(str(fault).split())[:160]
        return f"the kernel {name} does not run here ({type(fault).__name__}: {reason})"
    if not error <= LIMIT[dtype]:
        return f"the kernel {name} answers wrongly here (off by {error:.2g})"
    return None


def is_kernel_fault(fault: Exception) -> bool:
    """Whether an exception tells of compiling, resources or the driver; out of memory and cancel do not."""
    if isinstance(fault, (MemoryError, torch.OutOfMemoryError, ConfigError)):
        return False
    origin = type(fault).__module__.partition(".")[0]
    return isinstance(fault, (RuntimeError, OSError, ImportError)) or origin in ("triton", "subprocess")


class _Call:
    """How to make an operator's arguments, and how to call it for one tensor."""

    def __init__(self, inputs: Callable[[Callable[..., Tensor]], tuple], run: Callable[..., Tensor]):
        self.inputs, self.run = inputs, run


def _run_glue(x: Tensor, y: Tensor, gate: Rows, shift: Rows, scale: Rows, *, kernels: str) -> Tensor:
    return torch.cat(gate_norm_modulate(x, y, gate=gate, shift=shift, scale=scale, kernels=kernels))


def _run_joint(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, *, kernels: str) -> Tensor:
    """At the width of the published heads, normed and rotated as in the network."""
    rotary = axis_rotary(q.shape[-1], 2, 3, 4, device=q.device)
    scales = [(token_rstd(x.flatten(-2), eps=1e-5, kernels="torch"), weight) for x in (q, k)]
    return joint_linear_attention(q, k, v, rotary=rotary, q_scale=scales[0], k_scale=scales[1], kernels=kernels)


_CALLS = {
    "spatial_linear_attention": _Call(lambda make: tuple(make(2, 40, 2, 32) for _ in "qkv"), spatial_linear_attention),
    "temporal_cosine_attention": _Call(
        lambda make: tuple(make(1, 5, 3, 2, 32) for _ in "qkv"), temporal_cosine_attention
    ),
    "gate_norm_modulate": _Call(
        lambda make: (make(1, 2, 5, 64), make(1, 2, 5, 64), *(Rows(make(1, 2, 64), make(64)) for _ in range(3))),
        _run_glue,
    ),
    "glu_depthwise": _Call(
        lambda make: (make(2, 12, 128), make(128, 1, 3, 3), make(128)), functools.partial(glu_depthwise, grid=(3, 4))
    ),
    "joint_linear_attention": _Call(lambda make: (*(make(1, 24, 2, 112) for _ in "qkv"), make(224)), _run_joint),
    "token_rstd": _Call(lambda make: (make(2, 5, 224),), functools.partial(token_rstd, eps=1e-5)),
}
OPERATORS = tuple(_CALLS)  # names that `resolve_kernels` takes
