"""The recipe of `motionblocks-vae`: the clips it is trained on, where it starts, and its task of the trainer."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..motion.data.procedural.puppets import PuppetSource
from ..motion.data.procedural.sprites import SpriteSource
from ..motion.models.small_vae import SPACE, SmallVAE, SmallVAEConfig, to_cells
from ..motion.training.task import SampleKey

CROP = 64  # px of what is shown of a puppet
SIDES = (96, 112, 128)  # px of the pictures that puppets and skeletons are drawn in
START, MEASURED = -10, -11  # steps of the keys of clips that the start and the deviation are taken from


@dataclass(frozen=True)
class CodecRecipe:
    """Numbers of the training that the trainer's own settings do not hold; written into the weights' metadata."""

    puppet_share: float = 0.3
    skeleton_share: float = 0.25  # the rest are sprites
    noise: float = 0.05  # on the latents, of their deviation: what a sampler leaves
    start_clips: int = 256  # whose principal components it starts as
    measured_clips: int = 256  # sprites, whose deviation becomes Wan's

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)


def draw_clip(key: SampleKey, recipe: CodecRecipe) -> Tensor:
    """The clip of a key: (3, 17, 64, 64) in [0, 1]."""
    generator = key.generator()
    kind, side, joint, x, y = torch.rand(5, generator=generator).tolist()
    if kind >= recipe.puppet_share + recipe.skeleton_share:
        return SpriteSource().draw(generator).render()[0]
    side = SIDES[int(side * len(SIDES))]
    clip = PuppetSource(side, side).draw(generator)
    middle = clip.joints[0, int(joint * clip.joints.shape[1])]
    left, top = (int(min(max(float(at) - CROP * share, 0), side - CROP)) for at, share in zip(middle, (x, y)))
    if kind < recipe.puppet_share:
        return clip.render((top, left, CROP, CROP))[0]
    return clip.skeletons()[:, :, top : top + CROP, left : left + CROP]


def build_codec(recipe: CodecRecipe, seed: int, config: SmallVAEConfig | None = None) -> SmallVAE:
    """A VAE whose linear map holds the principal components, and whose convolutions add nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = SmallVAE(config)
    for layer in (vae.encoder_out, vae.decoder_out.first, vae.decoder_out.group):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    clips = torch.stack([draw_clip(SampleKey(seed, START, k), recipe) for k in range(recipe.start_clips)])
    first, groups = to_cells(clips * 2 - 1)
    first, groups = first.movedim(1, -1).flatten(0, -2), groups.movedim(2, -1).flatten(0, -2)
    mean, axes, spread = _components(groups)
    gain = spread.rsqrt()  # a channel keeps the square root of its deviation: no faint one is blown up to noise
    with torch.no_grad():
        _set(vae.to_latents.group, gain.unsqueeze(1) * axes, -gain * (axes @ mean))
        _set(vae.to_pixels.group, (axes / gain.unsqueeze(1)).T, mean)
        still = first.repeat(1, groups.shape[1] // first.shape[1])
        wanted = (still - mean) @ axes.T * gain  # what the map for groups makes of a picture that stands still
        first_mean, first_axes, _ = _components(first)
        parts = (first - first_mean) @ first_axes.T
        u, _, v = torch.linalg.svd(wanted.T @ parts)  # the turn that brings the picture's channels nearest to those
        turned = u @ v @ first_axes
        first_gain = (((first - first_mean) @ turned.T).var(0) ** 0.5).clamp_min(1e-3).rsqrt()
        _set(vae.to_latents.first, first_gain.unsqueeze(1) * turned, -first_gain * (turned @ first_mean))
        _set(vae.to_pixels.first, (turned / first_gain.unsqueeze(1)).T, first_mean)
    return vae


def _components(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (n,), first principal axes (16, n) and deviations along them (16,) of rows (m, n)."""
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    kept = torch.arange(len(values) - 1, len(values) - 1 - SPACE.channels, -1)
    return mean, vectors[:, kept].T, values[kept].clamp_min(1e-8).sqrt()


def _set(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight[:, :, None, None])
    layer.bias.copy_(bias)


def measure_scale(vae: SmallVAE, recipe: CodecRecipe, seed: int) -> None:
    """Set the VAE's mean by channel, and one deviation for all: channels keep what they have of the signal."""
    total = [vae.encode_cells(SpriteSource().draw(SampleKey(seed, MEASURED, k).generator()).render()[0][None] * 2 - 1)
             for k in range(recipe.measured_clips)]  # fmt: skip
    cells = torch.cat(total).movedim(2, 0).flatten(1)
    vae.mean.copy_(cells.mean(1))
    vae.deviation.fill_(float(cells.var(1).mean().sqrt()))


class CodecTask:
    """Task of the trainer: clips of a mixture through latents with a little noise, mean square of the error."""

    def __init__(self, vae: SmallVAE, recipe: CodecRecipe):
        self.vae, self.recipe = vae, recipe

    def parameters(self) -> dict[str, nn.Parameter]:
        """All weights by name."""
        return dict(self.vae.named_parameters())

    def matrices(self) -> set[str]:
        """What Muon takes."""
        return {name for name, value in self.parameters().items() if value.ndim == 4}

    def fingerprint(self) -> dict:
        """The recipe and the network's sizes."""
        return {"recipe": self.recipe.to_dict(), "config": asdict(self.vae.config)}

    def describe(self, batch: tuple[Tensor, Tensor]) -> str:
        """Size of a batch."""
        return f"{len(batch[0])} clips of sprites, puppets and skeletons"

    def draw(self, keys: list[SampleKey]) -> tuple[Tensor, Tensor]:
        """Videos (b, 3, 17, 64, 64) in [-1, 1], and noise for their latents."""
        videos = torch.stack([draw_clip(key, self.recipe) for key in keys]) * 2 - 1
        frames, cells = SPACE.latent_frames(videos.shape[2]), CROP // SPACE.spatial_ratio
        shape = (frames, SPACE.channels, cells, cells)
        noise = [torch.randn(shape, generator=key._replace(seed=key.seed + 1).generator())
                 for key in keys]  # fmt: skip
        return videos, torch.stack(noise)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean square of the error of pixels in [-1, 1]: (b,)."""
        videos, noise = batch
        cells = self.vae.encode_cells(videos)
        spread = cells.detach().var((0, 1, 3, 4)).sqrt().view(-1, 1, 1)
        back = self.vae.decode_cells(cells + self.recipe.noise * spread * noise)
        return (back - videos).square().mean((1, 2, 3, 4))
