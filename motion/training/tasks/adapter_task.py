"""The task of training a network, whole or through an adapter beside it, on a data set of encoded clips."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...adapters.lora import LoRA, target_names
from ...adapters.miva import MIVA, MIVAConfig
from ...adapters.protocol import Adapter
from ...adapters.score_reader import fit_reader
from ...data.latent_dataset import LatentDataset, TextEntry
from ...errors import ConfigError
from ..config import AdapterConfig, TrainingConfig
from ..objectives.masked_streams import PROGRESS
from ..objectives.objective import Objective
from ..objectives.table import masked_objective, motion_objective, own_objective
from ..optimizers import block_matrices
from ..task import SampleKey
from ..trainee import Trainee


@dataclass(frozen=True)
class Batch:
    """Samples of one size, on the network's device. tensors: by name, a row a sample; latents are scaled."""

    names: tuple[str, ...]
    tensors: Mapping[str, Tensor]


class AdapterTask:
    """A network, what is trained of it, the data and the objective; see `Task` for the methods.

    adapter: is trained while the network stays frozen, where it lies and as it is; None trains the network itself.
    caption_dropout: share of samples that are trained with the empty prompt. notes: lines on what was chosen for it.
    num_steps: of the run, for objectives that change with it.
    settings: by the name of a kind of task, plain JSON values of its own that a resumed run must share.
    Raises ConfigError for parts that do not fit together.
    """

    def __init__(
        self, trainee: Trainee, adapter: Adapter | None, dataset: LatentDataset, objective: Objective, *,
        caption_dropout: float = 0.1, notes: tuple[str, ...] = (), num_steps: int = 1,
        settings: Mapping[str, dict] | None = None,
    ):  # fmt: skip
        check_fit(trainee, dataset, objective)
        self.trainee, self.adapter, self.dataset, self.objective = trainee, adapter, dataset, objective
        self.caption_dropout, self.notes, self.num_steps = caption_dropout, notes, num_steps
        self.settings = dict(settings or {})
        self._shapes = tuple(dataset.shapes.items())
        self._fingerprint = {
            **trainee.fingerprint(with_weights=adapter is not None), "data": dataset.record(),
            **({} if objective.name == trainee.own_objective else {"objective": objective.name}), **self.settings,
        }  # fmt: skip

    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's weights, or all of the network's."""
        return dict(self.trainee.module.named_parameters()) if self.adapter is None else self.adapter.parameters()

    def matrices(self) -> set[str]:
        """Names of what Muon takes: the matrices inside the network's blocks, or those beside them."""
        return block_matrices(self.parameters(), self.trainee.blocks)

    def fingerprint(self) -> dict:
        """Model, data, an objective that is not the model's own and, where they stay frozen, the base weights."""
        return self._fingerprint

    def differences(self, before: dict) -> list[str]:
        """What differs from an earlier fingerprint, in words."""
        lines = self.dataset.differences(before.get("data", {}))
        for name, what in (
            ("model", "the model's sizes or settings differ"), ("base", "the base weights differ"),
            ("objective", "the objective is another one"),
        ):  # fmt: skip
            if before.get(name) != self._fingerprint.get(name):
                lines.append(what)
        for kind, settings in self.settings.items():
            was = before.get(kind)
            was = was if isinstance(was, dict) else {}
            lines += [f"{name} was {was.get(name)}, is {value}" for name, value in settings.items()
                      if was.get(name) != value]  # fmt: skip
        return lines

    def remarks(self, before: dict) -> list[str]:
        """What changed since an earlier fingerprint without standing in the way of a resume."""
        of_trainee = getattr(self.trainee, "remarks", lambda before: [])
        return [*self.dataset.remarks(before.get("data", {})), *of_trainee(before)]

    def save_memory(self, batch: Batch) -> str:
        """What is done so that a batch may fit after all; "" where nothing can be done. See `Task`."""
        of_trainee, (b, *size) = getattr(self.trainee, "save_memory", None), batch.tensors["latents"].shape
        videos = 2 * b if "mask_latents" in batch.tensors else b  # masks are a video beside each
        return of_trainee((videos, *size)) if of_trainee else ""

    def draw(self, keys: list[SampleKey]) -> Batch:
        """One batch of one size; the step's key chooses the size, as often as it has samples."""
        indices = self._bucket_of(keys[0])
        names, samples, texts = zip(*(self._draw_sample(indices, key) for key in keys))
        stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        where = next(iter(self.parameters().values())).device  # a frozen network may lie elsewhere, part by part
        return Batch(names, {name: value.to(where) for name, value in {**stacked, **stack_texts(texts)}.items()})

    def loss(self, batch: Batch) -> Tensor:
        """Loss of each sample (b,)."""
        return self.objective.loss(self.trainee, batch.tensors)

    def describe(self, batch: Batch) -> str:
        """Names and size of a batch."""
        c, t, h, w = batch.tensors["latents"].shape[1:]
        return f"{', '.join(batch.names)} (latents of {c} channels, {t} frames, {h}x{w})"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let gradients flow to what is trained alone, and hold the adapter on; undone after the block."""
        with self.trainee.session(frozen=self.adapter is not None):
            with self.trainee.holding(self.adapter) if self.adapter is not None else nullcontext():
                yield

    def _bucket_of(self, key: SampleKey) -> tuple[int, ...]:
        """Samples of the size that this step trains."""
        if len(self._shapes) == 1:
            return self._shapes[0][1]
        pick = _whole(len(self.dataset.samples), key._replace(index=-1).generator())
        for _, indices in self._shapes:
            if pick < len(indices):
                return indices
            pick -= len(indices)
        raise AssertionError("sizes and samples of the data set disagree")

    def _draw_sample(self, indices: tuple[int, ...], key: SampleKey) -> tuple[str, dict[str, Tensor], TextEntry]:
        """Name, tensors and text of one sample."""
        generator = key.generator()
        index = indices[_whole(len(indices), generator)]
        info = self.dataset.samples[index]
        dropped = float(torch.rand((), generator=generator)) < self.caption_dropout
        sample, text = self.dataset.sample(index), self.dataset.text("" if dropped else info.caption)
        if getattr(self.objective, "reads_progress", False):
            sample[PROGRESS] = torch.tensor(key.step / self.num_steps)
        return info.name, sample | self.objective.draw(sample, generator), text


def adapter_task(
    trainee: Trainee, dataset: LatentDataset, config: TrainingConfig, adapter: Adapter | None = None
) -> AdapterTask:
    """The task that settings ask for: the network's own objective, and in mode lora a fresh adapter, or `adapter`.

    One that stands in place of the prompt is trained with the empty one. Raises ConfigError for what does not fit.
    """
    told, notes = config.adapter, ()
    if adapter is not None and told.mode != "lora":
        raise ConfigError("an adapter is given but mode is full; use mode lora")
    dropout = config.objective.caption_dropout
    if adapter is None and told.mode == "lora" and told.adapter == MIVA.kind:
        settings = MIVAConfig(rank=told.rank, alpha=told.alpha, masked=told.masked)
        adapter = MIVA(trainee.module, settings, seed=config.loop.seed, device=getattr(trainee, "device", None),
                       sizes=trainee.spec.config)  # fmt: skip
        notes, dropout = ("captions are not read: this adapter stands in place of the prompt",), 1.0
        if told.masked:
            notes += (_fit_reader(adapter, dataset),)
    elif adapter is None and told.mode == "lora":
        targets, notes = chosen_targets(told.targets, trainee.module, trainee.own_targets)
        adapter = LoRA(trainee.module, targets=targets, rank=told.rank, alpha=told.alpha, seed=config.loop.seed,
                       device=getattr(trainee, "device", None))  # fmt: skip
    of_motion = adapter is not None and adapter.kind == MIVA.kind
    if of_motion and adapter.config.masked:
        objective = masked_objective(trainee, config.objective, adapter.scores)
    else:
        objective = (motion_objective if of_motion else own_objective)(trainee, config.objective)
    return AdapterTask(
        trainee, adapter, dataset, objective, caption_dropout=dropout, notes=notes, num_steps=config.loop.num_steps
    )


def _fit_reader(adapter: MIVA, dataset: LatentDataset) -> str:
    """Fit what reads scores off masks, on all of a data set, and a line on how well it does. Raises ConfigError."""
    pairs = (dataset.sample(index) for index in range(len(dataset)))
    reader, error = fit_reader(((one["mask_latents"], one["mask_scores"]) for one in pairs), adapter.sizes.patch_size)
    adapter.reader.copy_(reader)
    return f"masks are read off latents, {error:.2g} off in the mean of 0 to 1"


def chosen_targets(
    asked: tuple[str, ...], module: nn.Module, own: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers that get an adapter, as parts of names, and a line where the architecture chose them.

    It chooses where nothing is asked for, and where only the default is, of which a part fits no layer here.
    Raises ConfigError with what there is when none fits.
    """
    is_default = asked == AdapterConfig().targets
    if asked and not (is_default and asked != own and not all(_fits_any(module, part) for part in asked)):
        target_names(module, asked)
        return asked, ()
    target_names(module, own)
    return own, (f"targets {', '.join(own)}: the model's own",)


def _fits_any(module: nn.Module, part: str) -> bool:
    try:
        return bool(target_names(module, (part,)))
    except ConfigError:
        return False


def check_fit(trainee: Trainee, dataset: LatentDataset, objective: Objective) -> None:
    """Refuse network, data and objective that do not belong together. Raises ConfigError."""
    problems = [] if dataset.samples else ["the data set is empty; load at least one clip"]
    problems += trainee.misfits(dataset.shapes)
    for channels, frames, height, width in dataset.shapes:
        if frames < objective.least_frames:
            problems.append(
                f"latents of {channels} channels, {frames} frames, {height}x{width}; the objective {objective.name} "
                f"needs at least {objective.least_frames} frames"
            )
    if problems:
        raise ConfigError("; ".join(problems[:5]))


def stack_texts(texts: tuple[TextEntry, ...]) -> dict[str, Tensor]:
    """Texts of any length as one batch: context (b, m, d) and, where there are such, attention_mask and pooled."""
    longest = max(len(text.context) for text in texts)
    stacked = {"context": torch.stack([_padded(text.context, longest) for text in texts])}
    if any(text.attention_mask is not None or len(text.context) != longest for text in texts):
        stacked["attention_mask"] = torch.stack([_padded(_mask_of(text), longest) for text in texts])
    if texts[0].pooled is not None:
        stacked["pooled"] = torch.stack([text.pooled for text in texts])
    return stacked


def _mask_of(text: TextEntry) -> Tensor:
    return torch.ones(len(text.context)) if text.attention_mask is None else text.attention_mask.float()


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat((values, values.new_zeros(length - len(values), *values.shape[1:])))


def _whole(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
