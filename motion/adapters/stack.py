"""Several adapters on one network at once, each with a weight, curves over steps and frames, and a mask.

The network answers as with the sum of all differences, each times its weight at this noise level, frame and token.
Where that is 0 nothing is added, so an adapter of weight 0 leaves every bit as it was, in form "delta" (slot_sums.py).
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..choices import DELTA, FORMS, PAPER
from ..errors import ConfigError
from ..models.architectures import ARCHITECTURES
from ..models.block_adapters import BlockAdapters
from ..models.conditions import Conditions
from ..sampling.schedules import sigma_to_percent
from .curves import read_curve
from .layer_sums import layer_hook
from .masks import check_mask, token_mask
from .protocol import Adapter
from .slot_sums import summed_slots

Weight = float | Tensor  # one number, or (b or 1, t, n) for each token


@dataclass(frozen=True, eq=False)
class StackEntry:
    """One adapter and how much of it, where and when.

    step_curve: over sampling, 0 = noise, 1 = the finished video, as the host's percent counts; frame_curve: over the
    video; both as texts (see curves.py), times weight. mask: (m, h, w) in [0, 1], one or all frames of the video.
    Raises ConfigError and ShapeError.
    """

    adapter: Adapter
    weight: float = 1.0
    step_curve: str = ""
    frame_curve: str = ""
    mask: Tensor | None = None
    _token_masks: dict = field(default_factory=dict, init=False, repr=False)  # of the size seen last

    def __post_init__(self):
        if not math.isfinite(self.weight):
            raise ConfigError(f"an adapter's weight is {self.weight}; it must be a finite number")
        read_curve(self.step_curve), read_curve(self.frame_curve)
        if self.mask is not None:
            object.__setattr__(self, "mask", check_mask(self.mask))

    def mask_of(self, num_frames: int, temporal_ratio: int, grid: tuple[int, int]) -> Tensor:
        """The mask as (1 or t, n)."""
        size = num_frames, temporal_ratio, grid
        if size not in self._token_masks:
            made = token_mask(self.mask, *size)
            self._token_masks.clear()
            self._token_masks[size] = made
        return self._token_masks[size]


@dataclass(frozen=True, eq=False)
class AdapterStack:
    """Adapters that act together.

    shift: of the flow schedule, for step curves. temporal_ratio: of the latent space. form: what is left of the model
    where weights come to less than 1, one of FORMS. Raises ConfigError for another.
    """

    entries: tuple[StackEntry, ...]
    shift: float = 1.0
    temporal_ratio: int = 1
    form: str = DELTA

    def __post_init__(self):
        if self.form not in FORMS:
            raise ConfigError(f"form is {str(self.form)[:60]!r}; it must be one of: {', '.join(FORMS)}")

    def weights(self, sigma: float | Tensor, num_frames: int, grid: tuple[int, int]) -> tuple[Weight, ...]:
        """The weight of each entry: a number where it is the same for all tokens, else (b or 1, t, n) float32.

        sigma: one noise level, or (b,) one a row. num_frames: of the video, not latent; t latent frames follow from it.
        grid: tokens of a frame, (height, width). Raises ShapeError for masks of another number of frames.
        """
        levels = sigma.double().reshape(-1).tolist() if isinstance(sigma, Tensor) else [sigma]
        percents = [sigma_to_percent(level, self.shift) for level in levels]
        return tuple(self._weight(entry, percents, num_frames, grid) for entry in self.entries)

    def _weight(self, entry: StackEntry, percents: list[float], num_frames: int, grid: tuple[int, int]) -> Weight:
        steps, frames = read_curve(entry.step_curve), read_curve(entry.frame_curve)
        rows = [entry.weight * steps.at(percent) for percent in percents]
        rows = rows[:1] if len(set(rows)) == 1 else rows
        places = [frames.at(place) for place in frame_centres(num_frames, self.temporal_ratio)]
        rows, places = (torch.tensor(part, dtype=torch.float64) for part in (rows, places))
        values = rows.view(-1, 1, 1) * places.view(1, -1, 1)
        if entry.mask is not None:
            values = values * entry.mask_of(num_frames, self.temporal_ratio, grid)
        low, high = values.aminmax()
        if low == high:
            return float(low)
        return values.expand(-1, -1, grid[0] * grid[1]).float()

    def check_fit(self, module: nn.Module) -> None:
        """Refuse adapters that were made for another network. Raises ConfigError."""
        for number, entry in enumerate(self.entries, start=1):
            _check_fit(module, entry.adapter, number)

    @contextmanager
    def attached(
        self, module: nn.Module, *, sigma: float | Tensor, num_frames: int, grid: tuple[int, int],
        frames: Tensor | None = None,
    ) -> Iterator[BlockAdapters | None]:  # fmt: skip
        """Hold all on `module` for one call of it; one hook a layer adds the sum of its differences.

        frames: which latent frames the blocks see, where not all. Yields what stands in the places of a block, for the
        network's `adapters=`. Layers that answer for text, time or the start photo take the mean over the video.
        Raises ConfigError when an adapter was made for another network.
        """
        self.check_fit(module)
        weighted = []
        for entry, weight in zip(self.entries, self.weights(sigma, num_frames, grid)):
            if isinstance(weight, Tensor) and frames is not None:
                weight = weight[:, frames.to(weight.device)]
            without = self.form == PAPER and entry.adapter.slots is not None  # weight 0 still takes the model's own
            if isinstance(weight, Tensor) or weight or without:
                weighted.append((entry.adapter, weight))
        names = dict.fromkeys(name for adapter, _ in weighted for name in adapter.layers)
        handles = []
        try:
            for name in names:
                parts = [(weight, adapter.layers[name]) for adapter, weight in weighted if name in adapter.layers]
                handles.append(module.get_submodule(name).register_forward_hook(layer_hook(name, parts, grid)))
            inside = [(weight, adapter.slots) for adapter, weight in weighted if adapter.slots is not None]
            yield summed_slots(inside, self.form)
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def during(self, dit: nn.Module) -> Iterator[None]:
        """Hold all on one of our networks while the block lasts, at the noise level and size of each of its calls.

        The step curve reads 1000·sigma as the network is told it. Raises ConfigError for adapters inside blocks of a
        network that has no places for them.
        """
        if any(entry.adapter.slots is not None for entry in self.entries):
            ARCHITECTURES.of(dit.config).check_adapters_inside()
        held = ExitStack()

        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            adapters = held.enter_context(self._for_call(module, *args))
            if adapters is not None and kwargs.get("adapters") is not None:
                raise ConfigError("adapters are given to the network already; put all of them into one stack")
            return args, kwargs if adapters is None else {**kwargs, "adapters": adapters}

        def after(module: nn.Module, args: tuple, output) -> None:
            held.close()

        with ExitStack() as hooks:
            hooks.callback(held.close)
            hooks.callback(dit.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(dit.register_forward_hook(after, always_call=True).remove)
            yield

    def _for_call(self, dit: nn.Module, latents: Tensor, timestep: Tensor, conditions: Conditions):
        """`attached` for a call of one of our networks with these arguments."""
        t, h, w = latents.shape[2:]
        level = (timestep if timestep.ndim == 1 else timestep.amax(1)).double() / 1000  # a clean frame has 0
        grid = (h // dit.config.patch_size, w // dit.config.patch_size)
        seen = conditions.curve if getattr(dit.config, "flow_channels", 0) else None
        return self.attached(dit, sigma=level, num_frames=(t - 1) * self.temporal_ratio + 1, grid=grid,
                             frames=None if seen is None else seen.frames)  # fmt: skip


def frame_centres(num_frames: int, temporal_ratio: int) -> list[float]:
    """Where the centre of each latent frame lies along the video, 0..1: frame 1 alone, then `temporal_ratio` each."""
    starts = [0, *range(1, num_frames, temporal_ratio)]
    return [(start + end) / 2 / num_frames for start, end in zip(starts, [*starts[1:], num_frames])]


def _check_fit(module: nn.Module, adapter: Adapter, number: int) -> None:
    """Refuse an adapter of another network. Raises ConfigError."""
    for name, shape in adapter.fits.items():
        owner, _, attribute = name.rpartition(".")
        try:
            found = tuple(getattr(module.get_submodule(owner), attribute).shape)
        except AttributeError:
            found = None
        if found != tuple(shape):
            has = "has no such weight" if found is None else f"has it as {found}"
            raise ConfigError(f"adapter {number} of the stack ({adapter.kind}) was made for a network whose {name} is "
                              f"{tuple(shape)}; this one {has}; use it with its own model")  # fmt: skip
