"""A toy causal VAE of four frames a latent and eight px a cell, and clips at the times of their files."""

import pytest
import torch
import torch.nn.functional as F
from pack.motion.data.clips import Clip
from pack.motion.data.encoders import Encoders, TextEntry
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.training.reports import Watcher
from pack.motion.training.run import TrainingPlan, TrainingRun
from pack.motion.training.trained_weights import write_trained
from training_toys import TEXT

COLOURS = torch.linspace(-1, 1, 48).view(16, 3)


def encode_causally(frames):
    """(1, 3, t, h, w) -> (1, 16, 1 + (t - 1) / 4, h / 8, w / 8): the first frame alone, then means of four."""
    small = F.avg_pool3d(frames, (1, 8, 8))
    later = F.avg_pool3d(small[:, :, 1:], (4, 1, 1)) if frames.shape[2] > 1 else small[:, :, 1:]
    return torch.einsum("dc,bcthw->bdthw", COLOURS, torch.cat((small[:, :, :1], later), 2))


def encoders(encode=encode_causally):
    text = torch.randn(2, TEXT, generator=torch.Generator().manual_seed(1))
    return Encoders(encode, lambda caption: TextEntry(text + len(caption)), "toy causal VAE", spatial_multiple=16)


def filmed(name, seed, *, num_frames=30):
    """A clip at its own times, 24 fps, whose picture brightens frame by frame."""
    picture = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(seed))
    return Clip(
        name, "brightens", num_frames, 24.0, 32, 48, f"{name} {seed}",
        lambda indices: torch.stack([picture * index / num_frames for index in indices]),
        times=tuple(n / 24 for n in range(num_frames)),
    )  # fmt: skip


class Stopping(Watcher):
    """Ends a run after its third step."""

    def step(self, report, losses):
        if report.step == 3:
            raise KeyboardInterrupt


def whole_and_resumed(folder, config, dataset, task):
    """(whole, resumed): a run of these parts, and the same one that was stopped and taken up again, with their LoRAs.

    dataset() and task(its data set) are called for each run anew.
    """

    def plan(name, **more):
        def write(given, metadata):
            write_trained(folder / f"{name}.safetensors", given, metadata)
            return folder / f"{name}.safetensors"

        states = folder / name.removesuffix("-on")
        return TrainingPlan(
            config=config, states=states, write=write, dataset=lambda on_step: dataset(), task=task, **more
        )

    whole = TrainingRun(plan("whole")).run()
    with pytest.raises(KeyboardInterrupt):
        TrainingRun(plan("cut"), Stopping()).run()
    return whole, TrainingRun(plan("cut-on", resume="latest")).run()


def same_weights(one, two):
    """Whether two adapter files hold the same bits."""
    one, two = (read_safetensors(path)[0] for path in (one, two))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
