"""LoRA: a low-rank difference beside frozen layers, held on by hooks, so that the layers' weights never change.

y = layer(x) + strength · alpha / rank · up(down(x)), with `up` zero at the start: a fresh adapter changes nothing.
Source: Hu et al. 2021, arXiv 2106.09685, Eq. 3. Convolutions: `down` has the layer's kernel, `up` is 1x1.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError

MAX_RANK = 4096


class LoRALayer(nn.Module):
    """The two small matrices beside one Linear or Conv2d."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int):
        super().__init__()
        self.stride, self.padding, self.dilation = (
            getattr(layer, name, None) for name in ("stride", "padding", "dilation")
        )
        factory = {"dtype": torch.float32, "device": layer.weight.device}
        outside, inside, *kernel = layer.weight.shape
        self.down = nn.Parameter(torch.empty(rank, inside, *kernel, **factory))
        self.up = nn.Parameter(torch.zeros(outside, rank, *(1 for _ in kernel), **factory))

    def draw(self, generator: torch.Generator) -> None:
        """Fill `down` evenly within ±1/√inputs, as torch fills a layer; the numbers do not depend on the device."""
        bound = 1 / math.sqrt(self.down[0].numel())
        values = torch.rand(self.down.shape, generator=generator) * (2 * bound) - bound
        with torch.no_grad():
            self.down.copy_(values)

    def forward(self, x: Tensor) -> Tensor:
        """The difference before it is scaled, float32 unless autocast says otherwise."""
        x = x.to(self.down.dtype)
        if self.stride is None:
            return F.linear(F.linear(x, self.down), self.up)
        return F.conv2d(F.conv2d(x, self.down, None, self.stride, self.padding, self.dilation), self.up)

    def delta(self) -> Tensor:
        """The same difference as a weight, in the shape of the layer's."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return product.reshape(self.up.shape[0], *self.down.shape[1:])


class LoRA:
    """Adapters for the layers of `module` whose names fit one of `targets`.

    targets: parts of names ("attn1") or globs ("*.to_q"); Linear and Conv2d fit, depthwise and grouped Conv2d do not.
    The module is not changed: `with lora.attached():` adds the differences to its outputs. Parameters are float32.
    Raises ConfigError for a bad rank or alpha, and when nothing fits.
    """

    def __init__(self, module: nn.Module, *, targets: tuple[str, ...], rank: int, alpha: float, seed: int = 0):
        if not 1 <= rank <= MAX_RANK or not 0 < alpha < math.inf:
            raise ConfigError(f"rank is {rank}, alpha {alpha}; rank goes from 1 to {MAX_RANK}, alpha is above 0")
        self.module, self.rank, self.alpha = module, rank, float(alpha)
        self._handles: list = []
        generator = torch.Generator().manual_seed(seed)
        self.layers: dict[str, LoRALayer] = {}
        with torch.inference_mode(False):
            for name in target_names(module, tuple(targets)):
                self.layers[name] = LoRALayer(module.get_submodule(name), rank)
                self.layers[name].draw(generator)

    @classmethod
    def of_layers(cls, module: nn.Module, layers: Mapping[str, tuple[Tensor, Tensor, float]], source: str) -> "LoRA":
        """The LoRA of given matrices, by layer: down, up, alpha. source: where they come from, for refusals.

        Raises CheckpointError for several ranks or alphas, and for layers that the module lacks or has in other shapes.
        """
        shapes = {name: (tuple(down.shape), tuple(up.shape)) for name, (down, up, _) in layers.items()}
        ranks = {down[0] for down, _ in shapes.values()}
        alphas = {alpha for _, _, alpha in layers.values()}
        if len(ranks) != 1 or len(alphas) != 1:
            raise CheckpointError(f"{source}: its layers have ranks {sorted(ranks)[:5]} and alphas "
                                  f"{sorted(alphas)[:5]}; one of each is read here")  # fmt: skip
        able = {name: layer for name, layer in module.named_modules() if _is_able(layer)}
        wrong = [name for name, (down, up) in shapes.items()
                 if name not in able or not _has_shapes(able[name], down, up)]  # fmt: skip
        if wrong:
            raise CheckpointError(
                f"{source}: {len(wrong)} of {len(shapes)} adapted layers are not in this model or have another shape "
                f"({', '.join(sorted(wrong)[:5])}); it was trained for another model: load it with that one"
            )
        exactly = tuple(f"[{name[0]}]{name[1:]}" for name in shapes)  # a glob that only this name fits
        try:
            lora = cls(module, targets=exactly, rank=ranks.pop(), alpha=alphas.pop())
        except ConfigError as error:
            raise CheckpointError(f"{source}: {error}; get the file again or train it anew") from error
        with torch.inference_mode(False), torch.no_grad():
            for name, layer in lora.layers.items():
                layer.down.copy_(layers[name][0])
                layer.up.copy_(layers[name][1])
        return lora

    @property
    def scale(self) -> float:
        """What a difference is multiplied by at strength 1."""
        return self.alpha / self.rank

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in a file without the prefix."""
        return {f"{name}.lora_{part}.weight": getattr(layer, part)
                for name, layer in self.layers.items() for part in ("down", "up")}  # fmt: skip

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
                    hook = _adding(layer, strength * self.scale)
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
                    weight.copy_(weight.float() + strength * self.scale * layer.delta())
        return state


def target_names(module: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Names of the layers a LoRA takes. Raises ConfigError with what there is when none fits."""
    able = [name for name, layer in module.named_modules() if _is_able(layer)]
    chosen = [name for name in able if any(_fits(name, target) for target in targets)]
    if not chosen:
        shown = ", ".join(able[:5]) + (f" and {len(able) - 5} more" if len(able) > 5 else "")
        raise ConfigError(
            f"no layer's name holds any of {', '.join(targets) or 'nothing'}; layers that take a LoRA here: "
            f"{shown or 'none'}"
        )
    return chosen


def _has_shapes(layer: nn.Module, down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    outside, *inside = layer.weight.shape
    return down[1:] == tuple(inside) and up == (outside, down[0], *(1 for _ in inside[1:]))


def _is_able(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _fits(name: str, target: str) -> bool:
    return fnmatchcase(name, target) if any(mark in target for mark in "*?[") else target in name


def _adding(layer: LoRALayer, scale: float):
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output + (scale * layer(args[0])).to(output.dtype)

    return hook
