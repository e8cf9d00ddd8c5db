"""Learning to follow poses: sequences of reference, skeletons and target, through a LoRA or all of a network's weights.

Source: FramePrompt, arXiv 2506.17301, Sec. 3.
"""

from ...adapters.protocol import Adapter
from ...data.latent_dataset import LatentDataset
from ...data.pose_clips import MOST_KNOWN
from ...data.pose_dataset import shown_name
from ...sequence.known_start import concat_behind, mask_behind
from ...sequence.layout import SequenceLayout
from ..objectives.known_start import KNOWN, KnownStart
from ..task import SampleKey
from ..trainee import Trainee
from .adapter_task import AdapterTask

SHOWN = tuple(map(shown_name, range(MOST_KNOWN + 1)))


class PoseTask(AdapterTask):
    """See `Task`. dataset: of a `PoseDataset`. settings: plain JSON values that a resumed run must share."""

    def __init__(
        self, trainee: Trainee, adapter: Adapter | None, dataset: LatentDataset, objective: KnownStart, *,
        layout: SequenceLayout, caption_dropout: float, settings: dict, notes: tuple[str, ...] = (),
    ):  # fmt: skip
        super().__init__(
            trainee, adapter, dataset, objective, caption_dropout=caption_dropout, notes=notes,
            settings={"pose": settings},
        )  # fmt: skip
        self.layout = layout

    def _draw_sample(self, indices: tuple[int, ...], key: SampleKey):
        """See `AdapterTask`: with what is shown beside this start of the target, and which frames are given."""
        name, sample, text = super()._draw_sample(indices, key)
        shown = {kind: sample.pop(kind) for kind in SHOWN if kind in sample}
        known = int(sample.pop(KNOWN))
        beside = concat_behind(self.layout, shown[shown_name(known)].unsqueeze(0), known)[0]
        return name, {**sample, "concat_latents": beside, "frame_mask": mask_behind(self.layout, known)}, text
