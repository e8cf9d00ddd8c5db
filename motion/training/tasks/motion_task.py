"""Learning the motion of one clip and leaving its looks behind: two LoRAs, one after the other, in one run.

First a LoRA of the spatial heads learns the looks, from single frames. Then it stays on, frozen, while a LoRA of the
temporal heads, or of all, learns the clip: what it is left to learn is how things move. Only the second is used.
Source: Follow-Your-Motion, arXiv 2506.05207, Sec. 3.2 and 3.3.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from ...adapters.lora import LoRA
from ...data.latent_dataset import LatentDataset
from ...errors import ConfigError
from ..objectives.motion_loss import Motion
from ..task import SampleKey
from ..trainee import Trainee
from .adapter_task import AdapterTask, Batch

FIRST, SECOND = "spatial", "temporal"  # in the names of parameters and in files


class MotionTask(AdapterTask):
    """See `Task`. Steps below `border` train `spatial` on single frames, all others `temporal` on the clip.

    Either may be None where its stage has no steps. settings: plain JSON values that a resumed run must share.
    Raises ConfigError for parts that do not fit together.
    """

    def __init__(
        self, trainee: Trainee, spatial: LoRA | None, temporal: LoRA | None, dataset: LatentDataset, objective: Motion,
        *, border: int, settings: dict, notes: tuple[str, ...] = (),
    ):  # fmt: skip
        if (spatial is None) != (border == 0) or (spatial is None and temporal is None):
            raise ConfigError(f"{border} steps of the spatial stage {'without' if spatial is None else 'with'} a LoRA "
                              "for it; a stage has both or neither")  # fmt: skip
        self.spatial, self.temporal, self.border, self._stage = spatial, temporal, border, None
        self._held = ExitStack()
        adapter = spatial if temporal is None else temporal
        super().__init__(
            trainee, adapter, dataset, objective, caption_dropout=0.0, notes=notes, settings={"motion": settings}
        )
        self._alone = [rows for shape, rows in dataset.shapes.items() if shape[1] == 1]
        self._moving = [rows for shape, rows in dataset.shapes.items() if shape[1] > 1]
        if (spatial is not None and not self._alone) or (temporal is not None and not self._moving):
            raise ConfigError("the data set lacks single frames or the clip itself, of which a stage is trained")

    def parameters(self) -> dict[str, nn.Parameter]:
        """Of both LoRAs, the one that is not trained at the moment too: a state holds all."""
        return {f"{stage}.{name}": value for stage, lora in self._loras() for name, value in lora.parameters().items()}

    def learnt(self, step: int) -> list[tuple[str, LoRA]]:
        """The LoRAs that have been trained after so many steps, with the names of their stages; the last is for use."""
        return [(name, lora) for name, lora in self._loras() if name == FIRST or step > self.border]

    def loss(self, batch: Batch):
        """See `AdapterTask`; the LoRAs of the batch's stage are on from here until the next stage begins."""
        self._enter(FIRST if batch.tensors["latents"].shape[2] == 1 else SECOND)
        return super().loss(batch)

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `AdapterTask`."""
        with self.trainee.session(frozen=True):
            try:
                yield
            finally:
                self._leave()

    @contextmanager
    def tried_out(self, strength: float) -> Iterator[None]:
        """Hold on what the run is for, and nothing else, while the block lasts."""
        self._leave()
        with self.adapter.attached(strength):
            yield

    def _bucket_of(self, key: SampleKey) -> tuple[int, ...]:
        return (self._alone if key.step < self.border else self._moving)[0]

    def _enter(self, stage: str) -> None:
        if stage == self._stage:
            return
        self._leave()
        self._stage = stage
        for name, lora in self._loras():
            for value in lora.parameters().values():
                value.requires_grad_(name == stage)
            if name == FIRST or name == stage:
                self._held.enter_context(lora.attached())

    def _leave(self) -> None:
        self._stage = None
        self._held.close()
        with torch.inference_mode(False):
            for value in self.parameters().values():
                value.requires_grad_(True)

    def _loras(self) -> list[tuple[str, LoRA]]:
        both = ((FIRST, self.spatial), (SECOND, self.temporal))
        return [(name, lora) for name, lora in both if lora is not None]
