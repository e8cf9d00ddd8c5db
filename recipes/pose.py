"""The recipe of `motionblocks-wan-pose`: a puppet's picture and its skeletons in, the puppet moving so out.

One sequence, reference | skeletons | target, through the network of `motionblocks-wan-i2v`, whose weights it starts
from. The three are encoded apart: `motionblocks-vae` has never seen a cut, and draws the first frames behind one with
what stood before it (14 dB where 29 are usual).
"""

from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor, nn

from ..motion.choices import SEPARATE
from ..motion.data.procedural.puppets import ACTS, SPEED, PuppetClip, PuppetSource
from ..motion.data.procedural.sprite_words import GROUNDS
from ..motion.models.small_vae import SmallVAE
from ..motion.models.wan.network import WanDiT
from ..motion.models.wan.spec import WanSpec
from ..motion.models.wan.start_video import concat_latents
from ..motion.pose.renderer import draw_bodies
from ..motion.sequence.conditions import encode_sequence
from ..motion.sequence.layout import SequenceLayout
from ..motion.training.objectives.flow import Flow
from ..motion.training.objectives.half_frames import HalfFrames
from ..motion.training.task import SampleKey
from .wan import NetworkTask

HELD_BACK_ACTS, HELD_BACK_GROUNDS = ("flaps", "sways"), ("bricks",)  # that no training sees
TAUGHT_ACTS = tuple(act for act in ACTS if act not in HELD_BACK_ACTS)
TAUGHT_GROUNDS = tuple(ground for ground in GROUNDS if ground not in HELD_BACK_GROUNDS)
DRAWN = 96  # px, of puppets whose clips are smaller than any that can be drawn
FORMS = ("sequence", "channels")  # skeletons stand before the target, or beside it in the channels of the start video
LOSSES = ("half", "all")  # of the target behind clean frames; of all frames, all of them noised


@dataclass(frozen=True)
class PoseRecipe:
    """Numbers of the training that the trainer's own settings do not hold; written into the weights' metadata."""

    # Height and width of a step's clips in px, its frames, and its share.
    sizes: tuple[tuple[int, int, int, float], ...] = field(
        default=((96, 96, 17, 0.8), (96, 96, 9, 0.08), (96, 96, 13, 0.05), (96, 96, 5, 0.02), (96, 128, 17, 0.05))
    )
    lead_steps: int = 900  # the first ones, whose clips are of this many px:
    lead_side: int = 64
    drift: float = 0.5  # share of puppets that also glide across the picture
    caption_dropout: float = 0.5  # else the ground is named
    sigma_sampling: str = "uniform"
    shift: float = 3.0  # of the noise levels
    mode: str = SEPARATE  # of the sequence
    form: str = "sequence"
    loss: str = "half"
    vae: str = ""  # hash of the file of its VAE

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return {**asdict(self), "sizes": [list(size) for size in self.sizes]}


@dataclass(frozen=True)
class PoseClip:
    """Pixels in [0, 1] of one puppet. reference: (3, 1, h, w), in a pose of its own; the others (3, t, h, w)."""

    reference: Tensor
    skeletons: Tensor
    target: Tensor
    joints: Tensor  # (t, 18, 2), px
    ground: str
    puppet: PuppetClip  # as it was drawn, before it was made small


class PoseSource:
    """Draws clips of one size and length, a puppet each that was never drawn before."""

    def __init__(self, height: int, width: int, num_frames: int, *, acts=TAUGHT_ACTS, grounds=TAUGHT_GROUNDS,
                 drift: float = 0.5):  # fmt: skip
        self.height, self.width, self.drift, self.grounds = height, width, drift, grounds
        self.scale = min(height, width) / DRAWN if min(height, width) < DRAWN else 1.0
        drawn = (round(side / self.scale) for side in (height, width))
        self.source = PuppetSource(*drawn, acts=acts, grounds=grounds, num_frames=num_frames)

    def draw(self, generator: torch.Generator) -> PoseClip:
        """A clip, and a picture of the same puppet in another pose."""
        ground = self.grounds[int(torch.rand((), generator=generator) * len(self.grounds)) % len(self.grounds)]
        source = PuppetSource(self.source.height, self.source.width, acts=self.source.acts, grounds=(ground,),
                              num_frames=self.source.num_frames)  # fmt: skip
        clip, other = source.draw_twice(generator)
        chance = torch.rand(3, generator=generator).tolist()
        if chance[0] < self.drift:
            clip = replace(clip, joints=clip.joints + self._glide(clip, chance[1]))
        which = int(chance[2] * source.num_frames) % source.num_frames
        still = replace(other, joints=other.joints[which : which + 1])
        joints = clip.joints * self.scale
        sure = torch.ones(len(joints[0]), 1)
        skeletons = [draw_bodies([torch.cat((row, sure), 1)], self.height, self.width) for row in joints]
        reference, target = (self._fitted(each.render()[0]) for each in (still, clip))
        return PoseClip(reference, torch.stack(skeletons, 1), target, joints, ground, clip)

    def _glide(self, clip: PuppetClip, chance: float) -> Tensor:
        """How far the puppet has gone sideways in every frame, (t, 1, 2) px: about the middle, within the picture."""
        count = len(clip.joints)
        left, right = float(clip.joints[..., 0].min()), float(clip.joints[..., 0].max())
        room = max(0.0, min(left, self.source.width - right)) - 1
        most = min(max(room, 0.0) * 2, 0.5 * SPEED * (count - 1))
        way = (2 * chance - 1) * most * torch.linspace(-0.5, 0.5, count)
        return torch.stack((way, torch.zeros(count)), 1).unsqueeze(1)

    def _fitted(self, pictures: Tensor) -> Tensor:
        """Pictures (3, t, h, w) at the size of the clip."""
        if self.scale == 1.0:
            return pictures
        size = (self.height, self.width)
        small = nn.functional.interpolate(pictures.movedim(1, 0), size=size, mode="bilinear", antialias=True)
        return small.movedim(0, 1).clamp(0, 1)


class PoseTask(NetworkTask):
    """Task of the trainer: puppets as sequences of latents, the velocity of the frames that are made."""

    def __init__(self, spec: WanSpec, dit: WanDiT, vae: SmallVAE, recipe: PoseRecipe):
        super().__init__(spec, dit, vae, recipe)
        self.objective = HalfFrames(self.levels) if recipe.loss == LOSSES[0] else Flow(self.levels)

    def describe(self, batch: dict[str, Tensor]) -> str:
        """Size of a batch."""
        return f"{len(batch['latents'])} puppets, latents of {tuple(batch['latents'].shape[1:])}"

    def draw(self, keys: list[SampleKey]) -> dict[str, Tensor]:
        """Clips of one size and length, a key each: named tensors as objectives take them."""
        which = float(torch.rand((), generator=keys[0]._replace(index=-1).generator()))
        height, width, frames = self._size(which, keys[0].step)
        source = PoseSource(height, width, frames, drift=self.recipe.drift)
        rows = [self._sample(source, key.generator()) for key in keys]
        clips = [row.pop("clip") for row in rows]
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        parts = (torch.stack([getattr(clip, name) for clip in clips]) for name in ("reference", "skeletons", "target"))
        batch |= as_sequence(self.spec, self.vae, *parts, form=self.recipe.form, mode=self.recipe.mode)
        if self.recipe.loss == LOSSES[1]:
            batch.pop("frame_mask")
        noise = [torch.randn(batch["latents"].shape[1:], generator=key._replace(seed=key.seed + 1).generator())
                 for key in keys]  # fmt: skip
        return {**batch, "noise": torch.stack(noise)}

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean square error of the velocity of the frames that count: (b,)."""
        return self.objective.loss(self.trainee, batch)

    def _size(self, which: float, step: int) -> tuple[int, int, int]:
        """Height, width and frames of a step; which: in [0, 1]."""
        recipe = self.recipe
        shares = torch.tensor([share for *_, share in recipe.sizes]).cumsum(0)
        height, width, frames, _ = recipe.sizes[min(int((shares <= which).sum()), len(recipe.sizes) - 1)]
        return (recipe.lead_side, recipe.lead_side, frames) if step < recipe.lead_steps else (height, width, frames)

    def _sample(self, source: PoseSource, generator: torch.Generator) -> dict:
        """A clip, what is said of it, and its noise level."""
        clip = source.draw(generator)
        words = () if float(torch.rand((), generator=generator)) < self.recipe.caption_dropout else (clip.ground,)
        ids = torch.tensor(self.vocabulary.tokens(words))
        return {
            "clip": clip, "context": nn.functional.one_hot(ids, self.vocabulary.size).float(),
            "sigma": torch.tensor(self.levels.draw(generator)),
        }  # fmt: skip


@torch.no_grad()
def as_sequence(
    spec: WanSpec, vae: SmallVAE, reference: Tensor, skeletons: Tensor, target: Tensor, *, form: str = FORMS[0],
    mode: str = SEPARATE,
) -> dict[str, Tensor]:
    """Pixels (b, 3, t, h, w) in [0, 1] as a batch: latents, frame_mask and concat_latents, scaled.

    form "channels", to compare with: the target stands behind the reference alone, and the skeletons beside it in the
    start video, where the mask says that nothing is given.
    """
    space, layout = spec.space, SequenceLayout(skeletons.shape[2], mode)

    def encode(video: Tensor) -> Tensor:
        return vae.encode(video * 2 - 1)

    if form == FORMS[0]:
        parts = encode_sequence(encode, layout, reference, skeletons, target)
        latents = space.scaled(torch.cat((parts.given, parts.target), dim=2))
        beside, mask = layout.concat(space.scaled(parts.shown)), layout.frame_mask()
    else:
        picture = encode(reference)
        latents = space.scaled(torch.cat((picture, encode(target)), dim=2))
        beside = concat_latents(space.scaled(torch.cat((picture, encode(skeletons)), dim=2)))
        mask = torch.ones(latents.shape[2])
        mask[0] = 0
    return {"latents": latents, "concat_latents": beside, "frame_mask": mask.expand(len(latents), -1).clone()}
