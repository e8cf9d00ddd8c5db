"""MIVA adapters as the published code saves them, of Wan and of AnimateDiff, as files of ours. For the shell alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...adapters.miva import MIVA, MIVAConfig
from ...errors import CheckpointError
from ...models.wan.architecture import WAN
from ..adapters.miva_file import ANIMATEDIFF, CLEAN, FIRST_FRAME, PUBLISHED_READS, READS_ENTRY, settings_metadata
from ..files.kind import shown
from .miva_names import MASKED, REFUSED, our_name, time_places, unet_places

HEAD = 128  # numbers of a head, in every Wan
TAU = 0.2  # of λ(t) in the published settings; the files do not say it
AGAIN = "get the file again, or save the trained weights alone, under the names of the published code"


class Imported(NamedTuple):
    """An adapter under our names. title: of its layout; left_out: names of theirs; notes: what a user should know."""

    title: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def import_miva(path: Path, given: Mapping[str, Tensor]) -> Imported:
    """The adapter in a published file's tensors. Raises CheckpointError naming what is missing or of a wrong size."""
    for pattern, what in REFUSED.items():
        if found := next((name for name in given if re.search(pattern, name)), None):
            raise CheckpointError(f"{path}: {shown(found)} is of {what}; it cannot be converted; {AGAIN}")
    tensors, left_out = {}, []
    for name, tensor in given.items():
        ours = our_name(name)
        if ours is None:
            left_out.append(name)
        elif ours in tensors:
            raise CheckpointError(f"{path}: two of its weights are {ours}, one of them {shown(name)}; {AGAIN}")
        else:
            tensors[ours] = tensor
    is_wan = any(name.startswith("blocks.") for name in tensors)
    places = _wan_places(tensors) if is_wan else unet_places()
    times = time_places() if any(name.startswith("mm.") for name in tensors) else []
    tensors = _folded(path, tensors, places)
    config = _config(path, tensors, places, times, is_wan)
    _check(path, tensors, config, places, times)
    masked = [name for name in left_out if MASKED.search(name)]
    notes = ["its stream of masks (M-MIVA) was left out; the rest acts everywhere"] if masked else []
    widths = list(dict.fromkeys(len(tensors[f"{place}.ca.up"]) for place in places))
    if is_wan:
        width = widths[0]
        network = {"architecture": WAN.name, "width": width, "num_layers": len(places),
                   "num_attention_heads": width // HEAD}  # fmt: skip
        reads = {READS_ENTRY: PUBLISHED_READS, FIRST_FRAME: CLEAN}
    else:
        network = {"architecture": ANIMATEDIFF, "width": ", ".join(map(str, widths)), "num_layers": len(places),
                   "num_attention_heads": 8}  # fmt: skip
        reads = {}
        notes.append("it is for AnimateDiff, which this pack does not run: the file is converted, and nothing here "
                     "can use it")  # fmt: skip
        if any(name.endswith(".cfa.q.down") for name in tensors):
            notes.append("its LoRA of queries does not say its scale; alpha = rank is taken")
    metadata = {"family": MIVA.kind, "format_version": "1", "motion": path.stem, "origin": "published MIVA code",
                **settings_metadata(config, network), **reads}  # fmt: skip
    title = f"a MIVA adapter of {'Wan' if is_wan else 'AnimateDiff'}"
    return Imported(title, tensors, metadata, tuple(left_out), tuple(notes))


def _wan_places(tensors: Mapping[str, Tensor]) -> list[str]:
    count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    return [f"blocks.{index}" for index in range(count)]


def _folded(path: Path, tensors: dict[str, Tensor], places: list[str]) -> dict[str, Tensor]:
    """The same with a LoRA on a matrix that the file holds too multiplied into it, in float32."""
    tensors = dict(tensors)
    for place in places:
        for part in (f"{place}.cfa.q", f"{place}.cfa.o"):
            base = tensors.pop(f"{part}.base", None)
            base = tensors.get(f"{part}.full") if base is None else base
            if base is None:
                continue
            tensors[f"{part}.full"] = base
            down, up = (tensors.pop(f"{part}.{side}", None) for side in ("down", "up"))
            if down is None or up is None:
                continue
            if base.ndim != 2 or (*up.shape[:1], *down.shape[1:]) != base.shape or up.shape[1:] != down.shape[:1]:
                raise CheckpointError(f"{path}: {part} is {tuple(base.shape)}, and its LoRA {tuple(down.shape)} and "
                                      f"{tuple(up.shape)}; {AGAIN}")  # fmt: skip
            tensors[f"{part}.full"] = base.float() + up.float() @ down.float()
    return tensors


def _config(path, tensors: Mapping[str, Tensor], places, times, is_wan: bool) -> MIVAConfig:
    """The settings that the first block shows."""
    first = places[0]

    def length(name: str) -> int:
        return len(tensors[name]) if name in tensors and tensors[name].ndim else 0

    prompt = length(f"{first}.ca.down")
    low = next((length(f"{first}.cfa.{part}.down") for part in "qo" if f"{first}.cfa.{part}.down" in tensors), 0)
    rank = length(f"{times[0]}.q.down") if times else low or prompt
    if not prompt or not rank:
        missing = f"{first}.ca.down" if not prompt else f"{times[0]}.q.down"
        raise CheckpointError(f"{path}: a MIVA adapter without {missing} in our names; {AGAIN}")
    whole = tuple(part for part in "qo" if f"{first}.cfa.{part}.full" in tensors)
    biased = tuple(part for part in "qo" if f"{first}.cfa.{part}.bias" in tensors)
    with_prompt = f"{first}.ca.down_bias" in tensors
    return MIVAConfig(
        rank=rank, alpha=1.0 if times else float(rank), mode="joint", tau=TAU,
        parts=("cfa", "ca", "tsa") if times else ("cfa", "ca"), prompt_rank=0 if prompt == rank else prompt,
        whole=whole, biased=biased + (("prompt",) if with_prompt else ()), query_bias=with_prompt or not is_wan,
    )  # fmt: skip


def _check(path: Path, tensors: Mapping[str, Tensor], config: MIVAConfig, places, times) -> None:
    """Every block has all its weights, in sizes that agree, and there are no others."""
    wanted = {}
    for place in places:
        up = tensors.get(f"{place}.ca.up")
        width = len(up) if up is not None and up.ndim else 0
        embedding = tensors.get(f"{place}.cfa.lam.weight")
        inside = embedding.shape[-1] if embedding is not None and embedding.ndim else 0
        wanted |= {f"{place}.{name}": shape for name, shape in _block_shapes(config, width, inside).items()}
    for place in times:
        down = tensors.get(f"{place}.q.down")
        width = down.shape[-1] if down is not None and down.ndim else 0
        for part in "qkvo":
            wanted |= {f"{place}.{part}.down": (config.rank, width), f"{place}.{part}.up": (width, config.rank)}
    if missing := [name for name in wanted if name not in tensors]:
        raise CheckpointError(f"{path}: {missing[0]} (our name) of a MIVA adapter is missing; {AGAIN}")
    for name, shape in wanted.items():
        if tensors[name].shape != shape or 0 in shape:
            raise CheckpointError(f"{path}: {name} (our name) of a MIVA adapter is {tuple(tensors[name].shape)}, not "
                                  f"{shape}; {AGAIN}")  # fmt: skip
    if more := [name for name in tensors if name not in wanted]:
        raise CheckpointError(f"{path}: {shown(more[0])} (our name) is in some blocks and not in all; {AGAIN}")
    if places[0].startswith("blocks."):
        width = len(tensors[f"{places[0]}.ca.up"])
        if width % HEAD or any(len(tensors[f"{place}.ca.up"]) != width for place in places):
            raise CheckpointError(f"{path}: its blocks are {width} wide; Wan's are all one multiple of {HEAD}; {AGAIN}")


def _block_shapes(config: MIVAConfig, width: int, embedding: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"cfa.lam.weight": (2, embedding), "cfa.lam.bias": (2,)}
    for part in "qo":
        if part in config.whole:
            shapes[f"cfa.{part}.full"] = (width, width)
        else:
            shapes |= {f"cfa.{part}.down": (config.rank, width), f"cfa.{part}.up": (width, config.rank)}
        if part in config.biased:
            shapes[f"cfa.{part}.bias"] = (width,)
    prompt = config.prompt_rank or config.rank
    shapes |= {"ca.down": (prompt, width), "ca.up": (width, prompt), "ca.norm.weight": (prompt,),
               "ca.norm.bias": (prompt,)}  # fmt: skip
    if "prompt" in config.biased:
        shapes |= {"ca.down_bias": (prompt,), "ca.up_bias": (width,)}
    return shapes
