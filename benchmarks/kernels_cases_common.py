"""What is measured: each operator with its inputs, its rivals and its float64 truth, at the sizes of real networks."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from kernels_common import eager_glu_depthwise, eager_spatial, eager_temporal, modulated
from pack.kernels.gate_norm_modulate import Rows, gate_norm_modulate
from pack.kernels.glu_depthwise import glu_depthwise
from pack.kernels.joint_linear_attention import joint_linear_attention
from pack.kernels.spatial_linear_attention import spatial_linear_attention
from pack.kernels.temporal_cosine_attention import temporal_cosine_attention
from torch import Tensor


@dataclasses.dataclass
class Case:
    """One operator at one size. Rivals take the inputs as they come out of the projections, every copy included."""

    operator: str
    shape: str
    make: Callable[[], tuple[Tensor, ...]]
    rivals: dict[str, Callable[..., Tensor]]
    truth: Callable[..., Tensor]  # float64, of the part that `part` cuts out
    part: Callable[[Tensor], Tensor]
    least_bytes: int  # every input read once, every result written once
    flagship: bool = False  # torch.compile runs here too
    differentiable: bool = True
    extra: dict = dataclasses.field(default_factory=dict)


def packed(m: int, n: int, nh: int, dh: int, device, dtype, seed: int = 0) -> tuple[Tensor, ...]:
    """Query, key and value as slices of one projection's output, (m, n, nh, dh) each."""
    generator = torch.Generator(device).manual_seed(seed)
    qkv = torch.randn((m, n, 3, nh, dh), generator=generator, device=device, dtype=torch.float32).to(dtype)
    return qkv.unbind(2)


def both_forms(operator: Callable, **named) -> dict[str, Callable]:
    """Ours and its torch backend."""
    return {
        "ours": lambda *inputs: operator(*inputs, kernels="triton", **named),
        "torch backend": lambda *inputs: operator(*inputs, kernels="torch", **named),
    }


def linear_truth(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-15) -> Tensor:
    """ReLU linear attention of (m, n, nh, dh) in float64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    q, k = q.relu(), k.relu()
    out = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2).unsqueeze(-1) + eps)
    return out.transpose(1, 2)


def temporal_truth(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """1 + cos attention of (b, t, s, nh, dh) in float64, with explicit weights."""
    if q.shape[1] == 1:
        return v.double()
    q, k, v = (x.double().permute(0, 2, 3, 1, 4) for x in (q, k, v))
    q, k = (_rotated64(F.normalize(x, dim=-1, eps=1e-12)) for x in (q, k))
    weight = 1 + q @ k.transpose(-1, -2)
    return ((weight @ v) / weight.sum(-1, keepdim=True).clamp_min(1e-6)).permute(0, 3, 1, 2, 4)


def _rotated64(x: Tensor) -> Tensor:
    t, dh = x.shape[-2:]
    index = torch.arange(0, dh, 2, device=x.device, dtype=torch.float64)
    angle = torch.arange(t, device=x.device, dtype=torch.float64)[:, None] * 10000.0 ** (-index / dh)
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def diffusers_spatial() -> dict[str, Callable]:
    """diffusers' own processor between identity projections, where diffusers is installed."""
    try:
        from diffusers.models.attention_processor import SanaLinearAttnProcessor2_0
    except ImportError:
        return {}
    processor = SanaLinearAttnProcessor2_0()

    def call(q, k, v):
        parts = [x.flatten(2) for x in (q, k, v)]
        same = torch.nn.Identity()
        module = SimpleNamespace(heads=q.shape[2], norm_q=None, norm_k=None, to_out=[same, same],
                                 to_q=lambda _: parts[0], to_k=lambda _: parts[1], to_v=lambda _: parts[2])  # fmt: skip
        return processor(module, parts[0]).unflatten(-1, q.shape[2:])

    return {"diffusers": call}


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention at the same size: another function, only its time compares."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def outside(flash_bla: str | None, lite_mla: str | None) -> dict[str, Callable]:
    """Rivals whose source lies in a folder of the user's; every copy that their layout needs is inside the call."""
    found = {}
    if flash_bla:
        sys.path.append(str(Path(flash_bla)))
        from flash_bla.ops.linear_attn.fused import linear_attention

        def bidirectional(q, k, v):
            q, k, v = (x.transpose(1, 2).contiguous() for x in (q.relu(), k.relu(), v))
            return linear_attention(q, k, v).transpose(1, 2).contiguous()

        found["flash_bla"] = bidirectional
    if lite_mla:  # the folder that holds triton_lite_mla_kernels
        sys.path.append(str(Path(lite_mla)))
        from triton_lite_mla_kernels.pad_vk_mm_fwd import pad_vk_mm_fwd
        from triton_lite_mla_kernels.vk_q_mm_divide_fwd import vk_q_mm_divide_fwd

        def lite(q, k, v):
            state = pad_vk_mm_fwd(v, k.relu(), torch.float, torch.float)
            return vk_q_mm_divide_fwd(state, q.relu(), 1e-15, torch.float, v.dtype)[0].unflatten(-1, q.shape[2:])

        found["LiteMLA"] = lite
    return found


def spatial_case(m, n, nh, dh, device, dtype, others, flagship=False) -> Case:
    """Attention inside each frame."""
    return Case(
        "spatial_linear_attention", f"{m} x {n}, {nh} heads of {dh}", lambda: packed(m, n, nh, dh, device, dtype),
        {**both_forms(spatial_linear_attention), "released eager": eager_spatial, **diffusers_spatial(),
         "softmax": softmax, **others},
        lambda q, k, v: linear_truth(q[:1], k[:1], v[:1]), lambda out: out[:1],
        4 * m * n * nh * dh * dtype.itemsize, flagship, extra={"n": n, "dh": dh},
    )  # fmt: skip


def joint_case(b, n, nh, dh, device, dtype, others, flagship=False) -> Case:
    """Attention over a whole clip of tokens."""
    rivals = {**both_forms(joint_linear_attention), "released eager": eager_spatial, **diffusers_spatial(), **others}
    return Case(
        "joint_linear_attention", f"{b} x {n}, {nh} heads of {dh}", lambda: packed(b, n, nh, dh, device, dtype), rivals,
        lambda q, k, v: linear_truth(q[:1, :, :2], k[:1, :, :2], v[:1, :, :2]), lambda out: out[:1, :, :2],
        4 * b * n * nh * dh * dtype.itemsize, flagship, extra={"n": n, "dh": dh},
    )  # fmt: skip


def temporal_case(b, t, s, nh, dh, device, dtype, flagship=False) -> Case:
    """Attention along the frames of each site."""
    return Case(
        "temporal_cosine_attention", f"{b} x {t} frames x {s}, {nh} heads of {dh}",
        lambda: tuple(x.unflatten(1, (t, s)) for x in packed(b, t * s, nh, dh, device, dtype)),
        {**both_forms(temporal_cosine_attention), "released eager": eager_temporal},
        lambda q, k, v: temporal_truth(q[:1, :, :8], k[:1, :, :8], v[:1, :, :8]), lambda out: out[:1, :, :8],
        4 * b * t * s * nh * dh * dtype.itemsize, flagship, extra={"t": t, "s": s},
    )  # fmt: skip


def glu_case(m, grid, c, device, dtype, flagship=False) -> Case:
    """Middle of the Mix-FFN: 2c channels in, c out."""
    n = grid[0] * grid[1]

    def make():
        generator = torch.Generator(device).manual_seed(0)
        parts = [torch.randn(shape, generator=generator, device=device) * scale
                 for shape, scale in (((m, n, 2 * c), 1.0), ((2 * c, 1, 3, 3), 0.3), ((2 * c,), 0.1))]  # fmt: skip
        return tuple(x.to(dtype) for x in parts)

    def truth(u, weight, bias):
        return eager_glu_depthwise(u[:1].double(), weight.double(), bias.double(), grid)

    return Case(
        "glu_depthwise", f"{m} x {grid[0]} x {grid[1]} x {2 * c}", make,
        {**both_forms(glu_depthwise, grid=grid),
         "released eager": lambda u, weight, bias: eager_glu_depthwise(u, weight, bias, grid)},
        truth, lambda out: out[:1], m * n * 3 * c * dtype.itemsize, flagship, extra={"n": n},
    )  # fmt: skip


def glue_case(b, t, n, d, device, dtype, flagship=False) -> Case:
    """Gate, residual, norm and modulation; the results are the new stream and the modulated norm."""

    def make():
        generator = torch.Generator(device).manual_seed(0)
        shapes = ((b, t, n, d), (b, t, n, d), (b, 1, d), (b, 1, d), (b, 1, d))
        return tuple(torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes)

    def ours(kernels):
        return lambda x, y, gate, shift, scale: gate_norm_modulate(
            x, y, gate=Rows(gate), shift=Rows(shift), scale=Rows(scale), kernels=kernels
        )

    def eager(x, y, gate, shift, scale):
        x = x + gate.unsqueeze(2) * y
        return x, modulated(x, shift.unsqueeze(2), scale.unsqueeze(2))

    def truth(*inputs):
        return torch.stack(eager(*(part[:1].double() for part in inputs)))

    return Case(
        "gate_norm_modulate", f"{b} x {t} x {n} x {d}", make,
        {"ours": ours("triton"), "torch backend": ours("torch"), "released eager": eager}, truth,
        lambda out: torch.stack([tensor[:1] for tensor in out]), 4 * b * t * n * d * dtype.itemsize, flagship,
    )  # fmt: skip


def operator_cases(device: torch.device, dtype: torch.dtype, others: dict) -> list[Case]:
    """All operators at the sizes of the published networks; toy sizes without a card."""
    place = (device, dtype)
    if device.type != "cuda":
        return [
            spatial_case(2, 40, 2, 32, *place, others, True), joint_case(1, 200, 2, 112, *place, others),
            temporal_case(1, 5, 6, 2, 32, *place), glu_case(1, (5, 6), 32, *place), glue_case(1, 2, 20, 64, *place),
        ]  # fmt: skip
    return [
        *(spatial_case(32, n, 36, 32, *place, others, n == 1440) for n in (250, 256, 360, 1024, 1399, 1440, 4096)),
        *(joint_case(2, n, 20, 112, *place, others, n == 32_768) for n in (8192, 32_768, 100_000)),
        *(temporal_case(2, t, s, 36, 32, *place, (t, s) == (16, 1440))
          for t, s in ((1, 1440), (13, 1440), (16, 256), (16, 1440), (16, 4096), (32, 1440), (64, 1440))),
        *(glu_case(32, grid, 2880, *place, grid == (30, 48)) for grid in ((30, 48), (16, 16))),
        *(glue_case(2, 16, n, 1152, *place, n == 1440) for n in (256, 1440, 4096)),
    ]  # fmt: skip


def crossover_cases(device: torch.device, dtype: torch.dtype) -> list[Case]:
    """Tokens a frame at which linear attention overtakes softmax."""
    lengths = (64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192) if device.type == "cuda" else (16, 32)
    frames, heads = (32, 36) if device.type == "cuda" else (1, 1)
    cases = [spatial_case(frames, n, heads, 32, device, dtype, {}) for n in lengths]
    for case in cases:
        case.rivals = {name: case.rivals[name] for name in ("ours", "released eager", "softmax")}
    return cases
