"""LoRA: a low-rank difference beside frozen layers, held on by hooks, so that the layers' weights never change.

y = layer(x) + strength · alpha / rank · up(down(x)), with `up` zero at the start: a fresh adapter changes nothing.
Each layer has a rank and an alpha of its own; a fresh adapter gives all of them the same. A layer's difference may be
held to some of its outputs or inputs, such as those of certain heads: only these rows and columns are kept and trained,
and a file holds them among zeros, so that it is a LoRA like any other.
Source: Hu et al. 2021, arXiv 2106.09685, Eq. 3. Convolutions: `down` has the layer's kernel, `up` is 1x1.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError

MAX_RANK = 4096
_SIZES = ("out_features", "in_features")
FILE_PREFIX = "diffusion_model."  # where the host's LoRA loaders look for a diffusion model's layers


class LoRAMatrices(NamedTuple):
    """What a file says of one layer."""

    down: Tensor  # (rank, inside, *kernel)
    up: Tensor  # (outside, rank, *ones)
    alpha: float


class LoRAPart(NamedTuple):
    """To what of a Linear a difference is held: indices, rising; None is all."""

    rows: Tensor | None = None  # of its outputs
    columns: Tensor | None = None  # of its inputs


class LoRALayer(nn.Module):
    """The two small matrices beside one Linear or Conv2d, and the alpha that scales their product.

    device: where they lie; None is where the layer lies. part: of a Linear, to what the difference is held.
    Raises ConfigError for a rank or alpha that cannot be, and for a part that the layer does not have.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float, device: torch.device | None = None,
        part: LoRAPart | None = None,
    ):  # fmt: skip
        super().__init__()
        if not 1 <= rank <= MAX_RANK or not 0 < alpha < math.inf:
            raise ConfigError(f"rank is {rank}, alpha {alpha}; rank goes from 1 to {MAX_RANK}, alpha is above 0")
        self.rank, self.alpha = rank, float(alpha)
        self.stride, self.padding, self.dilation = (
            getattr(layer, name, None) for name in ("stride", "padding", "dilation")
        )
        factory = {"dtype": torch.float32, "device": layer.weight.device if device is None else device}
        outside, inside, *kernel = self._whole = weight_shape(layer)
        part = part or LoRAPart()
        self.rows = _checked(part.rows, outside, "rows", kernel, factory["device"])
        self.columns = _checked(part.columns, inside, "columns", kernel, factory["device"])
        outside = outside if self.rows is None else len(self.rows)
        inside = inside if self.columns is None else len(self.columns)
        self.down = nn.Parameter(torch.empty(rank, inside, *kernel, **factory))
        self.up = nn.Parameter(torch.zeros(outside, rank, *(1 for _ in kernel), **factory))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight it stands beside."""
        return self._whole

    @property
    def whole_down(self) -> Tensor:
        """`down` with zeros for the inputs that it is not held to, (rank, inside, *kernel)."""
        if self.columns is None:
            return self.down
        whole = self.down.new_zeros(self.rank, self._whole[1])
        return whole.index_copy(1, self.columns, self.down)

    @property
    def whole_up(self) -> Tensor:
        """`up` with zeros for the outputs that it is not held to, (outside, rank, *ones)."""
        if self.rows is None:
            return self.up
        return self.up.new_zeros(self._whole[0], self.rank).index_copy(0, self.rows, self.up)

    @property
    def scale(self) -> float:
        """What the difference is multiplied by at strength 1."""
        return self.alpha / self.rank

    def draw(self, generator: torch.Generator) -> None:
        """Fill `down`, as torch fills a layer."""
        draw_evenly(self.down, generator)

    def forward(self, x: Tensor) -> Tensor:
        """The difference before it is scaled, float32 unless autocast says otherwise."""
        if self.stride is None:
            answer = F.linear(self._narrowed(x if self.columns is None else x[..., self.columns]), self.up)
            if self.rows is None:
                return answer
            return answer.new_zeros(*answer.shape[:-1], self._whole[0]).index_copy(-1, self.rows, answer)
        x = x.to(self.down.dtype)
        return F.conv2d(F.conv2d(x, self.down, None, self.stride, self.padding, self.dilation), self.up)

    def _narrowed(self, x: Tensor) -> Tensor:
        """x · downᵀ."""
        if x.dtype == self.down.dtype or (x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)):
            return F.linear(x, self.down)
        return _WideProduct.apply(x, self.down)

    def delta(self) -> Tensor:
        """The same difference as a weight, in the shape of the layer's."""
        return (self.whole_up.flatten(1) @ self.whole_down.flatten(1)).reshape(self.weight_shape)


class _WideProduct(torch.autograd.Function):
    """x · Wᵀ in the type of W, of which the backward pass keeps x as it came, not its wide copy.

    Queries, keys and values are made of one x: without this, each would keep a float32 copy of it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.to(weight.dtype), weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        of_weight = grad.flatten(0, -2).t() @ x.to(weight.dtype).flatten(0, -2)
        return (grad @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None, of_weight


class LoRA:
    """Adapters for the layers of `module` whose names fit one of `targets`.

    targets: parts of names ("attn1") or globs ("*.to_q"); Linear and Conv2d fit, depthwise and grouped Conv2d do not.
    The module is not changed: `with lora.attached():` adds the differences to its outputs. Parameters are float32, on
    `device`, by default that of the layer.
    Raises ConfigError for a bad rank or alpha, and when nothing fits.
    """

    kind = "lora"
    slots = None  # it stands beside layers, not inside blocks

    def __init__(
        self, module: nn.Module, *, targets: tuple[str, ...] = (), rank: int, alpha: float, seed: int = 0,
        device: torch.device | None = None, parts: Mapping[str, LoRAPart | None] | None = None,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        layers = {}
        if parts is None:
            parts = dict.fromkeys(target_names(module, tuple(targets)))
        with torch.inference_mode(False):
            for name, part in parts.items():
                layers[name] = LoRALayer(module.get_submodule(name), rank, alpha, device, part)
                layers[name].draw(generator)
        self._hold(module, layers)

    def _hold(self, module: nn.Module, layers: dict[str, LoRALayer]) -> None:
        self.module, self.layers = module, layers
        self._handles: list = []

    @classmethod
    def of_layers(cls, module: nn.Module, layers: Mapping[str, LoRAMatrices], source: str) -> "LoRA":
        """The LoRA of given matrices, by layer; flat ones fit a convolution too. source: their file, for refusals.

        Raises CheckpointError for layers that the module lacks or has in other shapes, and for impossible numbers.
        """
        able = able_layers(module)
        wrong = [name for name, given in layers.items() if name not in able or not _fits_layer(able[name], given)]
        if wrong:
            raise CheckpointError(
                f"{source}: {len(wrong)} of {len(layers)} adapted layers are not in this model or have another shape "
                f"({', '.join(ascii(name[:80]) for name in sorted(wrong)[:5])}); it was trained for another model: "
                "load it with that one"
            )
        made = {}
        with torch.inference_mode(False), torch.no_grad():
            for name in (name for name in able if name in layers):
                down, up, alpha = layers[name]
                try:
                    made[name] = LoRALayer(able[name], len(down), alpha)
                except ConfigError as error:
                    raise CheckpointError(
                        f"{source}: layer {name}: {error}; get the file again or train it anew"
                    ) from error
                made[name].down.copy_(down.reshape(made[name].down.shape))
                made[name].up.copy_(up.reshape(made[name].up.shape))
        lora = cls.__new__(cls)
        lora._hold(module, made)
        return lora

    @property
    def fits(self) -> dict[str, tuple[int, ...]]:
        """The network it fits: shapes of the weights it stands beside, by name."""
        return {f"{name}.weight": layer.weight_shape for name, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in a file without the prefix."""
        return {f"{name}.lora_{part}.weight": getattr(layer, part)
                for name, layer in self.layers.items() for part in ("down", "up")}  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds: three tensors a layer, under names that the host's own LoRA loaders know."""
        tensors = {}
        for name, layer in self.layers.items():
            values = {"lora_down.weight": layer.whole_down.detach(), "lora_up.weight": layer.whole_up.detach(),
                      "alpha": torch.tensor(layer.alpha)}  # fmt: skip
            tensors |= {f"{FILE_PREFIX}{name}.{part}": value for part, value in values.items()}
        return tensors

    @contextmanager
    def attached(self, strength: float = 1.0) -> Iterator[None]:
        """Add the differences, times strength, to the layers' outputs; strength 0 leaves every bit as it was.

        Raises ConfigError when this adapter is attached already, or for a strength that is not finite.
        """
        if self._handles:
            raise ConfigError("this LoRA is attached already; it would count twice; attach it once, at one strength")
        if not math.isfinite(strength):
            raise ConfigError(f"strength is {strength}; it must be a finite number")
        try:
            if strength:
                for name, layer in self.layers.items():
                    hook = _adding(layer, strength * layer.scale)
                    self._handles.append(self.module.get_submodule(name).register_forward_hook(hook))
            yield
        finally:
            while self._handles:
                self._handles.pop().remove()

    def merged(self, strength: float = 1.0) -> dict[str, Tensor]:
        """The module's weights with the differences added: a state dict of copies in the weights' own types."""
        state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        with torch.no_grad():
            for name, layer in self.layers.items():
                if strength:
                    weight = state[f"{name}.weight"]
                    weight.copy_(weight.float() + strength * layer.scale * layer.delta())
        return state


def draw_evenly(weight: nn.Parameter, generator: torch.Generator) -> None:
    """Fill a weight evenly within ±1/√inputs; the numbers do not depend on the device."""
    bound = 1 / math.sqrt(weight[0].numel())
    values = torch.rand(weight.shape, generator=generator) * (2 * bound) - bound
    with torch.no_grad():
        weight.copy_(values)


def target_names(module: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Names of the layers a LoRA takes. Raises ConfigError with what there is when none fits."""
    able = list(able_layers(module))
    chosen = [name for name in able if any(_fits(name, target) for target in targets)]
    if not chosen:
        shown = ", ".join(able[:5]) + (f" and {len(able) - 5} more" if len(able) > 5 else "")
        raise ConfigError(
            f"no layer's name holds any of {', '.join(targets) or 'nothing'}; layers that take a LoRA here: "
            f"{shown or 'none'}"
        )
    return chosen


def able_layers(module: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers that a LoRA can stand beside, by name, in the module's order."""
    return {name: layer for name, layer in module.named_modules()
            if is_linear(layer) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)}  # fmt: skip


def is_linear(layer: nn.Module) -> bool:
    """Whether it is torch's Linear, or one of another class with its sizes, as hosts have for quantised weights."""
    return isinstance(layer, nn.Linear) or all(isinstance(getattr(layer, name, None), int) for name in _SIZES)


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight as it multiplies, however it is stored."""
    return tuple(getattr(layer, name) for name in _SIZES) if is_linear(layer) else tuple(layer.weight.shape)


def _checked(indices: Tensor | None, size: int, what: str, kernel: list, device) -> Tensor | None:
    """Rising indices of a layer's rows or columns, on a device. Raises ConfigError."""
    if indices is None:
        return None
    listed = indices.tolist()
    if kernel or not listed or listed != sorted(set(listed)) or not 0 <= listed[0] <= listed[-1] < size:
        raise ConfigError(f"a LoRA is held to {len(listed)} {what} of a layer with {size}; of a Linear some of them, "
                          "rising, are needed")  # fmt: skip
    return indices.to(device)


def _fits_layer(layer: nn.Module, given: LoRAMatrices) -> bool:
    """Whether matrices are of this layer's shapes, or flat for a convolution, with its kernel in the last axis."""
    rank, (outside, *inside) = len(given.down), weight_shape(layer)
    shapes = tuple(given.down.shape), tuple(given.up.shape)
    exact = (rank, *inside), (outside, rank, *(1 for _ in inside[1:]))
    return shapes in (exact, ((rank, math.prod(inside)), (outside, rank)))


def _fits(name: str, target: str) -> bool:
    return fnmatchcase(name, target) if any(mark in target for mark in "*?[") else target in name


def _adding(layer: LoRALayer, scale: float):
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output + (scale * layer(args[0])).to(output.dtype)

    return hook
