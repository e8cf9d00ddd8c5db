"""A few values of the base that an adapter was trained beside, kept in its file, so that another base is noticed.

They are of weights that stay unquantised in most files. Equal weights of two number types differ by their rounding and
by no more; those of another fine-tune, or of the other expert of Wan 2.2, differ by whatever training did to them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..foreign_json import parse_json
from ..models.wan.experts import EXPERTS

ENTRY = "base_sample"  # in the metadata of adapter files
CHANNELS = "input_channels"  # the same: of a Wan 16, or 36 with a start video and its mask
PER_WEIGHT = 64  # values, spread over it
ODD_SHARE = 0.02  # of values that may differ by more than their rounding before it is another base
NUMBER_TYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2,
)}  # fmt: skip


@dataclass(frozen=True)
class BaseSample:
    """number_type: of the weights, such as "bfloat16"; their values as plain numbers."""

    number_type: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, names: Iterable[str], weight: Callable[[str], Tensor]) -> "BaseSample":
        """Of the weights of these names, 64 values each."""
        taken = [weight(name).detach().reshape(-1) for name in names]
        values = [flat[torch.linspace(0, flat.numel() - 1, PER_WEIGHT).round().long()].float() for flat in taken]
        return cls(str(taken[0].dtype).removeprefix("torch."), tuple(torch.cat(values).cpu().tolist()))

    def to_metadata(self) -> dict[str, str]:
        """Entries of a file's metadata."""
        return {ENTRY: json.dumps({"number_type": self.number_type, "values": self.values})}

    @classmethod
    def in_metadata(cls, metadata: Mapping[str, str]) -> "BaseSample | None":
        """What `to_metadata` wrote; None where there is none that can be compared."""
        try:
            found = parse_json(metadata.get(ENTRY, "null"))
        except ValueError:
            return None
        return cls.of_plain(found)

    @classmethod
    def of_plain(cls, found) -> "BaseSample | None":
        """The same from plain JSON values."""
        values = found.get("values") if isinstance(found, dict) else None
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            return None
        kind = found.get("number_type")
        return cls(kind, tuple(map(float, values))) if kind in NUMBER_TYPES else None

    def is_of_another_base_than(self, other: "BaseSample") -> bool:
        """Whether more than the rounding to their number types is between the two."""
        if len(self.values) != len(other.values) or not self.values:
            return True
        one, two = (torch.tensor(sample.values, dtype=torch.float64) for sample in (self, other))
        kinds = [torch.finfo(NUMBER_TYPES[sample.number_type]) for sample in (self, other)]
        rounding = sum(kind.eps for kind in kinds) / 2 * torch.maximum(one.abs(), two.abs())
        near_zero = sum(kind.smallest_normal * kind.eps for kind in kinds)
        return bool(((one - two).abs() > 1.1 * rounding + near_zero).double().mean() > ODD_SHARE)


def wan_sample(num_layers: int, weight: Callable[[str], Tensor]) -> BaseSample:
    """Of a Wan network: norms of queries in the first, middle and last block, and the head's modulation: 256 values."""
    blocks = (0, num_layers // 2, num_layers - 1)
    return BaseSample.of((*(f"blocks.{n}.self_attn.norm_q.weight" for n in blocks), "head.modulation"), weight)


def other_base_note(metadata: Mapping[str, str], here: BaseSample, channels: int, what: str = "this model") -> str:
    """A sentence where an adapter's file says that it was trained on another base than `here`; else "".

    channels: that the network here reads.
    """
    told = metadata.get(CHANNELS, "")
    if told.isdecimal() and len(told) <= 5 and int(told) != channels:
        return (f"it was trained on a Wan with {int(told)} input channels, {what} has {channels}: one is for text to "
                "video, the other for image to video")  # fmt: skip
    trained = BaseSample.in_metadata(metadata)
    if trained is None or not trained.is_of_another_base_than(here):
        return ""
    expert = f" ({metadata['expert'].replace('_', ' ')})" if metadata.get("expert") in EXPERTS else ""
    return f"it was trained on another base{expert} than {what}; of Wan 2.2 each expert has a file of its own"


def notes_beside(metadata: Mapping[str, str], module: nn.Module, title: str) -> tuple[str, ...]:
    """What a user should know of an adapter's file beside this module: that it was trained beside another Wan.

    title: what the sentence calls the adapter.
    """
    blocks = getattr(module, "blocks", None)
    if BaseSample.in_metadata(metadata) is None or not blocks:
        return ()
    try:
        here, patch = wan_sample(len(blocks), module.get_parameter), module.get_parameter("patch_embedding.weight")
    except AttributeError:  # another architecture, for which no adapter of Wan is built
        return ()
    note = other_base_note(metadata, here, patch.shape[1])
    return (f"{title}: {note}",) if note else ()
