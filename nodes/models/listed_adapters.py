"""What the socket MOTIONBLOCKS_ADAPTERS carries, and how it gets onto a MODEL.

An adapter is listed as its file holds it, with its weight, curves and mask; it is built when it meets a MODEL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ...motion.adapters.curves import read_curve
from ...motion.adapters.masks import check_mask
from ...motion.adapters.miva import MIVA
from ...motion.adapters.notes import acts_at_all, motion_entries, sum_note, trained_levels
from ...motion.adapters.stack import AdapterStack, StackEntry
from ...motion.choices import PAPER
from ...motion.errors import ConfigError
from ...motion.io.adapters.adapter_file import AdapterFile
from ...motion.io.adapters.miva_file import MIVAFile
from ...motion.io.files.kind import shown
from ...motion.layers.letterbox import fit_square
from ...motion.models.architectures import ARCHITECTURES
from ..host import checks
from . import native_wan_adapters, own_adapters
from .base import architecture_of, spec_of
from .native_wan import NativeWan, find_native_wan, native_wan, wan_config
from .native_wan_masks import FirstMask
from .native_wan_run import TrainedLevels
from .trained_sequences import tell_last

MAX_WEIGHT = 4.0
KINDS = {MIVA.kind: "motion adapter"}  # what texts call an adapter's kind; others by their own name


@dataclass(frozen=True, eq=False)
class ListedAdapter:
    """One adapter on the socket. Curves are texts, mask is (m, h, w) in [0, 1] or None."""

    file: AdapterFile | MIVAFile
    weight: float = 1.0
    step_curve: str = ""
    frame_curve: str = ""
    mask: Tensor | None = None

    def __post_init__(self):
        if not abs(self.weight) <= MAX_WEIGHT:  # also NaN
            raise ConfigError(f"weight of {self.name} is {self.weight:g}; it must be {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        read_curve(self.step_curve), read_curve(self.frame_curve)
        if self.mask is not None:
            object.__setattr__(self, "mask", check_mask(self.mask))
            if not self.mask.any():
                raise ConfigError(
                    f"the mask of {self.name} is empty, so it would act nowhere (Load Image gives an empty mask where "
                    "none was drawn); draw one in the mask editor, or disconnect it"
                )

    @property
    def name(self) -> str:
        """What texts call it."""
        return Path(self.file.source).name

    def changed(self, weight: float, step_curve: str, frame_curve: str, mask: Tensor | None) -> "ListedAdapter":
        """The same, its weight multiplied; a curve or mask that is given takes the place of its own."""
        return replace(
            self, weight=self.weight * weight, step_curve=step_curve.strip() or self.step_curve,
            frame_curve=frame_curve.strip() or self.frame_curve, mask=self.mask if mask is None else mask,
        )  # fmt: skip

    def how_much(self) -> str:
        """Its weight, curves and mask in words."""
        parts = [f"weight {self.weight:g}"]
        parts += [f"over the steps {self.step_curve}"] if self.step_curve else []
        parts += [f"over the frames {self.frame_curve}"] if self.frame_curve else []
        if self.mask is not None:
            m, h, w = self.mask.shape
            parts.append(f"mask of {w}x{h} px" + (f", {m} frames" if m > 1 else ""))
        return ", ".join(parts)


Listed = tuple[ListedAdapter, ...]


def check_listed(name: str, value) -> Listed:
    """What came in at a socket; None is nothing. Raises ConfigError for anything else than a list of adapters."""
    if value is None:
        return ()
    if not isinstance(value, tuple) or not all(isinstance(item, ListedAdapter) for item in value):
        raise ConfigError(f"{name} is {type(value).__name__}; connect the output adapters of Load Motion Adapter")
    return value


def check_amounts(weight, step_curve, frame_curve) -> None:
    """Widgets of one adapter, checked again. Raises ConfigError."""
    checks.in_range("weight", weight, -MAX_WEIGHT, MAX_WEIGHT)
    for name, text in (("step_curve", step_curve), ("frame_curve", frame_curve)):
        read_curve(checks.whole_text(name, text))


def describe(file: AdapterFile | MIVAFile) -> str:
    """Lines on a file: what it is, its motion, its base and what it was trained at."""
    told = file.metadata
    if not isinstance(file, MIVAFile):
        ranks = sorted({len(layer.down) for layer in file.layers.values()})
        lines = [f"LoRA beside {len(file.layers)} layers, rank {_span(ranks)}"]
    else:
        count = sum(value.numel() for value in file.tensors.values())
        kind = ("masked " if file.config.masked else "") + KINDS[file.kind]
        lines = [f"{kind}: {count:,} numbers, rank {file.config.rank}",
                 f"motion: {told.get('motion') or Path(file.source).stem}"]  # fmt: skip
    base = told.get("base_model", "")
    network = getattr(file, "network", {})
    sizes = f"{network.get('num_layers')} blocks of width {network.get('width')}" if network else ""
    lines += [f"base: {', '.join(part for part in (base, sizes) if part)}"] if base or sizes else []
    lines += _trained(told)
    return "\n".join([*lines, *file.notes])


def _trained(told: Mapping[str, str]) -> list[str]:
    """A line on the training, as far as the file tells."""
    size = told.get("trained_size", "")
    steps = told.get("training_steps", "")
    parts = [size] * bool(size) + [f"{steps} steps"] * steps.isdecimal()
    early = ", stopped early" if "training_stopped_early" in told else ""
    return [f"trained: {', '.join(parts)}{early}"] if parts else []


def _span(values: list[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def put_on(model, listed: Listed, form: str, first: FirstMask | None = None) -> tuple[object, str]:
    """A copy of a MODEL with these adapters, in place of earlier ones, and lines on them.

    first: of a masked adapter. Raises CheckpointError for adapters of another base, ConfigError for MODELs and forms
    that are not known, and for a masked adapter without `first`.
    """
    entries, notes = [], []
    wan = None if architecture_of(model) is not None else find_native_wan(model) or native_wan(model)
    network = model.get_model_object("diffusion_model")
    spec = spec_of(model)
    for item in listed:
        adapter = _built(item, network, wan)
        mask = item.mask if spec is None else _as_seen(item.mask, getattr(spec, "working_size", None))
        entries.append(StackEntry(adapter, item.weight, item.step_curve, item.frame_curve, mask))
        notes += [f"{item.name}: {note}" for note in (*item.file.notes, *item.file.notes_on(network))]
    stack = AdapterStack(tuple(entries), form=form)
    if wan is not None:
        levels = [TrainedLevels(entry, item.name, trained_levels(item.file.metadata))
                  for entry, item in zip(entries, listed)]  # fmt: skip
        copy = native_wan_adapters.attach(
            model, stack, clean_first_frame=_begins_clean(stack, wan), levels=levels, first=first
        )
    else:
        copy = own_adapters.attach(model, stack)
    tell_last(copy, (item.file.metadata for item in listed if item.weight))
    lines = [f"{item.name}: {item.how_much()}" for item in listed] or ["no adapters: the model as it is"]
    return copy, "\n".join([*lines, *_sum_line(listed), *_twice(listed), *_beside_masked(listed, first), *notes])


def _built(item: ListedAdapter, network, wan: NativeWan | None):
    """The adapter beside a MODEL's network. Raises CheckpointError and ConfigError for one of another base."""
    if not isinstance(item.file, MIVAFile) or wan is None:
        return item.file.build(network)
    own = ARCHITECTURES.of(sizes := wan_config(wan.network))
    theirs = item.file.network.get("architecture")
    if theirs != own.name:
        title = next((row.title for row in ARCHITECTURES if row.name == theirs), shown(str(theirs)))
        raise ConfigError(
            f"{item.name} was made for another model ({title}); this MODEL is {wan.title}: use it with its own model, "
            "or train one for this"
        )
    return item.file.build(network, sizes)


def _begins_clean(stack: AdapterStack, wan: NativeWan) -> bool:
    """Whether the start image is to stand clean in frame 1: where motion adapters act and the model reads none itself.

    In form "paper" one without weight still takes the model's text.
    """
    inside = motion_entries(stack.entries)
    return not wan.starts_from_image and any(stack.form == PAPER or acts_at_all(entry) for entry in inside)


def _as_seen(mask: Tensor | None, side: int | None) -> Tensor | None:
    """The mask in the square that a model sees its photo in; as it is for models that see the whole picture."""
    if mask is None or not side:
        return mask
    return fit_square(mask.unsqueeze(1), side)[:, 0].clamp(0, 1)


def _sum_line(listed: Listed) -> list[str]:
    """What the weights come to, where no curve or mask shares them out; a run says it where one does."""
    inside = [item for item in listed if isinstance(item.file, MIVAFile)]
    if not inside or any(item.step_curve or item.frame_curve or item.mask is not None for item in inside):
        return []
    note = sum_note(sum(item.weight for item in inside))
    return [note] if note else []


def _twice(listed: Listed) -> list[str]:
    """A line for each adapter that is listed twice without a mask of its own."""
    whole = [item for item in listed if item.mask is None]
    sources = [item.file.source for item in whole]
    again = dict.fromkeys(item.name for number, item in enumerate(whole) if item.file.source in sources[:number])
    return [f"{name} is in the stack twice; its weights add up" for name in again]


def _beside_masked(listed: Listed, first: FirstMask | None) -> list[str]:
    """What masks are made for, of adapters some of which know masks."""
    inside = [item for item in listed if isinstance(item.file, MIVAFile)]
    masked = [item.name for item in inside if item.file.config.masked]
    if not masked:
        return [] if first is None else ["first_frame_mask has no effect: no adapter here was trained with masks"]
    plain = [item.name for item in inside if not item.file.config.masked and item.mask is None]
    steered = f"{masked[0]} follows its subject from first_frame_mask on"
    return [steered + (f"; {', '.join(plain)} knows no masks and acts everywhere" if plain else "")]


def same_share(listed: Listed, share: float, name: str) -> Listed:
    """These adapters with weights that come to `share`. Raises ConfigError where their sum is not above 0."""
    total = sum(item.weight for item in listed)
    if not total > 0:
        raise ConfigError(f"the weights of {name} come to {total:g}; more than 0 is needed to share them out")
    return tuple(replace(item, weight=item.weight * share / total) for item in listed)
