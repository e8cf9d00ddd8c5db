"""MIVA: one motion learnt from a few clips, as three small parts inside every block.

    cfa: cross-frame reads beside attention in space    (cross_frame.py)
    ca:  a small network in place of text attention     (prompt_mlp.py)
    tsa: LoRA in attention along the frames             (temporal_lora.py; where the network has such attention)
A fresh adapter is the network without its text: `cfa` and `tsa` add nothing yet, `ca` answers nothing.
Source: MIVA, arXiv 2512.20000.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..models.architecture import AdapterPlaces
from ..models.architectures import ARCHITECTURES
from ..models.block_adapters import BlockAdapters
from .cross_frame import MODES, CrossFrameReads
from .lora import MAX_RANK
from .prompt_mlp import PromptMLP
from .stack import AdapterStack, StackEntry
from .temporal_lora import TemporalLoRA

PARTS = ("cfa", "ca", "tsa")


@dataclass(frozen=True)
class MIVAConfig:
    """Sizes and forms. Raises ConfigError.

    rank: of all low-rank matrices and of the prompt's hidden layer. alpha: tsa is scaled by alpha / rank. mode: see
    cross_frame.py. tau: temperature of λ(t). parts: those it has; an empty tuple has all the network has a place for.
    The rest are forms of published files. prompt_rank: of the prompt's hidden layer alone, 0 = rank. whole: those of
    "q" and "o" that are no low rank in cfa. biased: those of "q", "o" and "prompt" with biases. query_bias: see ca.
    """

    rank: int = 16
    alpha: float = 16.0
    mode: str = "separate"
    tau: float = 0.2
    parts: tuple[str, ...] = ()
    prompt_rank: int = 0
    whole: tuple[str, ...] = ()
    biased: tuple[str, ...] = ()
    query_bias: bool = True

    def __post_init__(self):
        if self.mode not in MODES:
            raise ConfigError(f"cross-frame mode is {self.mode!r}; it must be one of {', '.join(MODES)}")
        if not 0 < self.tau < float("inf") or not 0 < self.alpha < float("inf"):
            raise ConfigError(f"tau is {self.tau}, alpha {self.alpha}; both must be finite and above 0")
        if wrong := [part for part in self.parts if part not in PARTS]:
            raise ConfigError(f"an adapter has no part {wrong[0]!r}; there are {', '.join(PARTS)}")
        if not 0 <= self.prompt_rank <= MAX_RANK:
            raise ConfigError(f"prompt_rank is {self.prompt_rank}; it goes from 0 to {MAX_RANK}")
        for name, known in (("whole", ("q", "o")), ("biased", ("q", "o", "prompt"))):
            if wrong := [item for item in getattr(self, name) if item not in known]:
                raise ConfigError(f"{name} has {wrong[0]!r}; there are {', '.join(known)}")


class MIVABlock(nn.Module):
    """The parts of one block; each may be missing."""

    def __init__(self, width: int, config: MIVAConfig, places: AdapterPlaces, device):
        super().__init__()
        parts, rank = own_parts(config, places), config.rank
        if "cfa" in parts:
            self.cfa = CrossFrameReads(
                width, width, rank, mode=config.mode, tau=config.tau, whole=config.whole, biased=config.biased,
                device=device,
            )  # fmt: skip
        if "ca" in parts:
            self.ca = PromptMLP(
                width, config.prompt_rank or rank, query=places.query, query_bias=config.query_bias,
                biased="prompt" in config.biased, device=device,
            )  # fmt: skip
        if "tsa" in parts:
            self.tsa = TemporalLoRA(width, rank, config.alpha, device=device)


class MIVA:
    """The adapter of one motion beside one of our networks; see `Adapter`. Parameters are float32.

    The network is not changed. device: of the parameters, where not the network's own. sizes: the config of a network
    that has none itself, as the host's. Raises ConfigError for a network whose blocks have no places.
    """

    kind = "miva"
    layers: Mapping = {}

    def __init__(self, module: nn.Module, config: MIVAConfig, *, seed: int = 0, device=None, sizes=None):
        self.sizes = module.config if sizes is None else sizes
        row = ARCHITECTURES.of(self.sizes)
        row.check_adapters_inside()
        self.module, self.config, self.places = module, config, row.adapters
        device = next(module.parameters()).device if device is None else device
        count = len(getattr(module, self.places.blocks))
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode(False):
            self.blocks = nn.ModuleList(
                MIVABlock(self.sizes.width, config, self.places, device) for _ in range(count)
            )
            for part in self.blocks.modules():
                if hasattr(part, "draw"):
                    part.draw(generator)

    @property
    def slots(self) -> BlockAdapters:
        """See `Adapter`."""
        parts = own_parts(self.config, self.places)
        return BlockAdapters(
            beside_self_attention=self._cross_frame if "cfa" in parts else None,
            instead_of_text=self._prompt if "ca" in parts else None,
            temporal=self._temporal if "tsa" in parts else None,
        )

    @property
    def fits(self) -> dict[str, tuple[int, ...]]:
        """See `Adapter`."""
        places, width = self.places, self.sizes.width
        layers = [places.space, places.text, *([places.time] if places.time else [])]
        return {f"{places.blocks}.{index}.{layer}.{places.query}.weight": (width, width)
                for index in range(len(self.blocks)) for layer in layers}  # fmt: skip

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in a file."""
        return {f"blocks.{name}": value for name, value in self.blocks.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds."""
        return {name: value.detach() for name, value in self.parameters().items()}

    @contextmanager
    def attached(self, strength: float = 1.0) -> Iterator[None]:
        """See `Adapter`."""
        with AdapterStack((StackEntry(self, strength),)).during(self.module):
            yield

    def fill(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take the numbers of a file; names and shapes must be ours. Raises CheckpointError naming what is not."""
        own = self.parameters()
        wrong = sorted(set(own) ^ set(tensors))
        wrong += [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
        if wrong:
            raise CheckpointError(f"{source}: {len(wrong)} tensors are missing, unknown or of another size, such as "
                                  f"{', '.join(ascii(name[:80]) for name in wrong[:3])}; it was trained for another "
                                  "model: use it with that one")  # fmt: skip
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])

    def _cross_frame(self, site) -> Tensor:
        return self.blocks[site.around.block].cfa(site)

    def _prompt(self, site) -> Tensor:
        return self.blocks[site.around.block].ca(site)

    def _temporal(self, site) -> Tensor:
        return self.blocks[site.around.block].tsa(site)


def own_parts(config: MIVAConfig, places: AdapterPlaces) -> tuple[str, ...]:
    """The parts that an adapter of these settings has in such blocks."""
    return tuple(part for part in config.parts or PARTS if part != "tsa" or places.time)
