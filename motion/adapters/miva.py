"""MIVA: one motion learnt from a few clips, as three small parts inside every block.

    cfa: cross-frame reads beside attention in space    (cross_frame.py)
    ca:  a small network in place of text attention     (prompt_mlp.py)
    tsa: LoRA in attention along the frames             (temporal_lora.py; where the network has such attention)
A fresh adapter is the network without its text: `cfa` and `tsa` add nothing yet, `ca` answers nothing.
A masked one, M-MIVA, also learnt where its subject is, from clips with masks, and has two parts more:
    cfa_m: the same reads for videos of masks, which the network makes beside the video from a mask of frame 1
    ca_bg: what stands in place of text on the ground: s · ca + (1 - s) · ca_bg, by the score s of a token
What it reads of other frames is weighed by the scores (subject_masks.py). Without masks told, all is subject.
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
from ..models.block_adapters import AttentionSite, BlockAdapters, TokenSite
from ..models.subject_masks import SubjectMasks
from .cross_frame import MODES, CrossFrameReads
from .lora import MAX_RANK
from .prompt_mlp import PromptMLP
from .score_reader import read_scores
from .stack import AdapterStack, StackEntry
from .temporal_lora import TemporalLoRA

PARTS = ("cfa", "ca", "tsa")
READER = "mask_reader"  # in files: what reads scores off latents of masks


@dataclass(frozen=True)
class MIVAConfig:
    """Sizes and forms. Raises ConfigError.

    rank: of all low-rank matrices and of the prompt's hidden layer. alpha: tsa is scaled by alpha / rank. mode: see
    cross_frame.py. tau: temperature of λ(t). parts: those it has; an empty tuple has all the network has a place for.
    The rest are forms of published files. prompt_rank: of the prompt's hidden layer alone, 0 = rank. whole: those of
    "q" and "o" that are no low rank in cfa. biased: those of "q", "o" and "prompt" with biases. query_bias: see ca.
    masked: whether it is an M-MIVA; then it has both cfa and ca.
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
    masked: bool = False

    def __post_init__(self):
        if self.mode not in MODES:
            raise ConfigError(f"cross-frame mode is {self.mode!r}; it must be one of {', '.join(MODES)}")
        if not 0 < self.tau < float("inf") or not 0 < self.alpha < float("inf"):
            raise ConfigError(f"tau is {self.tau}, alpha {self.alpha}; both must be finite and above 0")
        if wrong := [part for part in self.parts if part not in PARTS]:
            raise ConfigError(f"an adapter has no part {wrong[0]!r}; there are {', '.join(PARTS)}")
        if self.masked and self.parts and not {"cfa", "ca"} <= set(self.parts):
            raise ConfigError(f"a masked adapter has the parts cfa and ca; parts is {', '.join(self.parts)}")
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

        def reads(**more) -> CrossFrameReads:
            return CrossFrameReads(width, width, rank, mode=config.mode, tau=config.tau, whole=config.whole,
                                   biased=config.biased, device=device, **more)  # fmt: skip

        def prompt() -> PromptMLP:
            return PromptMLP(width, config.prompt_rank or rank, query=places.query, query_bias=config.query_bias,
                             biased="prompt" in config.biased, device=device)  # fmt: skip

        if "cfa" in parts:
            self.cfa = reads()
        if "ca" in parts:
            self.ca = prompt()
        if config.masked:
            self.cfa_m, self.ca_bg = reads(has_lam=False), prompt()
        if "tsa" in parts:
            self.tsa = TemporalLoRA(width, rank, config.alpha, device=device)


class MIVA:
    """The adapter of one motion beside one of our networks; see `Adapter`. Parameters are float32.

    The network is not changed. device: of the parameters, where not the network's own. sizes: the config of a network
    that has none itself, as the host's. reader: of a masked one, see score_reader.py; not trained. Raises ConfigError
    for a network whose blocks have no places, and for a masked one beside other than Wan text to video.
    """

    kind = "miva"
    layers: Mapping = {}

    def __init__(self, module: nn.Module, config: MIVAConfig, *, seed: int = 0, device=None, sizes=None):
        self.sizes = module.config if sizes is None else sizes
        row = ARCHITECTURES.of(self.sizes)
        row.check_adapters_inside()
        if config.masked:
            check_masked(self.sizes)
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
            self.reader = torch.zeros(self.sizes.in_channels + 1, device=device) if config.masked else None

    @property
    def slots(self) -> BlockAdapters:
        """See `Adapter`."""
        parts = own_parts(self.config, self.places)
        return BlockAdapters(
            beside_self_attention=self._cross_frame if "cfa" in parts else None,
            instead_of_text=self._prompt if "ca" in parts else None,
            temporal=self._temporal if "tsa" in parts else None, knows_masks=self.config.masked,
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
        return {name: value.detach() for name, value in self._stored().items()}

    def scores(self, latents: Tensor) -> Tensor:
        """What latents (b, c, t, h, w) of masks say of the tokens: (b, t, n) in [0, 1]; of a masked adapter."""
        return read_scores(self.reader, latents, self.sizes.patch_size)

    @contextmanager
    def attached(self, strength: float = 1.0) -> Iterator[None]:
        """See `Adapter`."""
        with AdapterStack((StackEntry(self, strength),)).during(self.module):
            yield

    def fill(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take the numbers of a file; names and shapes must be ours. Raises CheckpointError naming what is not."""
        own = self._stored()
        wrong = sorted(set(own) ^ set(tensors))
        wrong += [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
        if wrong:
            raise CheckpointError(f"{source}: {len(wrong)} tensors are missing, unknown or of another size, such as "
                                  f"{', '.join(ascii(name[:80]) for name in wrong[:3])}; it was trained for another "
                                  "model: use it with that one")  # fmt: skip
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])

    def _stored(self) -> dict[str, Tensor]:
        return {**self.parameters(), **({} if self.reader is None else {READER: self.reader})}

    def _cross_frame(self, site: AttentionSite) -> Tensor:
        block, masks = self.blocks[site.around.block], self._told(site)
        if masks is not None and masks.are_shown:
            return block.cfa_m(site, lam=block.cfa.lam)
        return block.cfa(site, masks=masks)

    def _prompt(self, site: TokenSite) -> Tensor:
        block, masks = self.blocks[site.around.block], self._told(site)
        subject = block.ca(site)
        if masks is None or masks.are_shown:
            return subject
        return torch.lerp(block.ca_bg(site), subject, masks.scores.to(subject).unsqueeze(-1))

    def _told(self, site: AttentionSite | TokenSite) -> SubjectMasks | None:
        """The masks that a call is told of, where this adapter knows any."""
        return site.around.masks if self.config.masked else None

    def _temporal(self, site) -> Tensor:
        return self.blocks[site.around.block].tsa(site)


def check_masked(sizes) -> None:
    """Refuse masked adapters beside a network of this config that is no Wan text to video. Raises ConfigError."""
    row = ARCHITECTURES.of(sizes)
    if not row.clean_first_frame(sizes):
        kind = " image to video" if getattr(sizes, "concat_channels", 0) else ""
        raise ConfigError(
            "masked motion adapters stand beside Wan text to video (16 channels), whose first frame they give clean; "
            f"this is: {row.title}{kind}; train one without masks, or take that model"
        )


def own_parts(config: MIVAConfig, places: AdapterPlaces) -> tuple[str, ...]:
    """The parts that an adapter of these settings has in such blocks."""
    return tuple(part for part in config.parts or PARTS if part != "tsa" or places.time)
