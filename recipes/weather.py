"""Teaches a trained built-in network rain and snow: a skip head beside it and a word each; all else stays as it is.

What falls is neither in the photo nor a flow of it, so it has to come out of the noise, pixel by pixel. The head is
trained alone, on what drawn weather adds to drawn scenes. To the rest of the network the new words say "still": their
embeddings are that word's, each moved a little to one side so that the head can tell them apart.
"""

from dataclasses import asdict, dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from ..motion.data.procedural.scenes import GROUPS, SceneSource
from ..motion.data.procedural.weather import KINDS
from ..motion.errors import ConfigError
from ..motion.models.heads.skip_head import SkipHead, scalings
from ..motion.models.model_spec import LinearVideoSpec
from ..motion.text.encoder import MotionTextEncoder
from ..motion.text.vocabulary import MAX_MOTIONS, MotionVocabulary
from ..motion.training.task import SampleKey

SURE = 8.0  # logit beyond which a prompt does not pull at the gate any more


@dataclass(frozen=True)
class WeatherRecipe:
    """Numbers of the training that the trainer's own settings do not hold; written into the weights' metadata."""

    size: int = 128  # px of a scene
    crop: int = 64  # px of the part that is shown
    num_frames: int = 5  # in a row
    last_frame: int = 31
    pair_share: float = 0.2  # samples with a camera motion beside the weather
    shift: float = 4.0  # of the noise levels
    top_noise_share: float = 0.1  # samples at sigma 0.999, where sampling starts
    aside: float = 0.3  # how far a word's embedding lies from that of "still", as a share of its length
    num_textures: int = 256

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class WeatherSamples:
    """One batch of crops. Pictures have values in [-1, 1]."""

    picture: Tensor  # (b, 3, t, crop, crop), without weather
    fallen: Tensor  # like picture: what the weather adds
    noise: Tensor  # like picture
    sigma: Tensor  # (b,)
    indices: Tensor  # (b, t) of the frames
    bucket: Tensor  # (b,)
    ids: Tensor  # (b, 2) prompt tokens
    captions: list[str]


def with_head(spec: LinearVideoSpec, channels: int, deviation: float) -> LinearVideoSpec:
    """The spec with a skip head of this width."""
    return replace(spec, config=replace(spec.config, skip_channels=channels, skip_deviation=deviation))


def build_head(spec: LinearVideoSpec, seed: int) -> SkipHead:
    """A fresh head with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SkipHead(spec.config, operations=nn)


def add_words(
    encoder: MotionTextEncoder, words: tuple[str, ...], aside: float, seed: int
) -> tuple[MotionTextEncoder, tuple[str, ...]]:
    """The text encoder with rows for rain and snow after those of its words; and all the words.

    Raises ConfigError where the words have rain or snow, or lack still.
    """
    if "still" not in words or set(KINDS) & set(words):
        raise ConfigError(f"the model knows {', '.join(words)}; it must know still, and neither rain nor snow")
    rows = encoder.embedding.weight.detach()
    still = rows[words.index("still") + 1]
    sides = torch.randn(len(KINDS), len(still), generator=torch.Generator().manual_seed(seed + 31))
    sides = sides / sides.norm(dim=1, keepdim=True) * still.norm() * aside
    wider = MotionTextEncoder(len(rows) + len(KINDS), encoder.width)
    wider.load_state_dict({**encoder.state_dict(), "embedding.weight": torch.cat((rows, still + sides))})
    return wider, (*words, *KINDS)


def fit_gate(head: SkipHead, encoder: MotionTextEncoder, words: tuple[str, ...], *, num_rounds: int = 200) -> float:
    """Open the gate for every prompt with rain or snow and shut it for all others; changes head's gate alone.

    A logistic regression over all prompts of one or two words. Returns the smallest margin: how far the worst prompt
    lies on its right side, as a logit; negative = on the wrong one.
    """
    ids, falls = prompts_of(words)
    with torch.no_grad():
        pooled = encoder(ids)[1].double()
    row = torch.zeros(pooled.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([row], max_iter=num_rounds, line_search_fn="strong_wolfe")
    side = torch.where(falls, 1.0, -1.0).double()

    def loss() -> Tensor:
        solver.zero_grad()
        margin = side * (pooled @ row[:-1] + row[-1])
        value = nn.functional.softplus(SURE - margin).mean() + 1e-5 * row.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    with torch.no_grad():
        head.linear_gate.weight.copy_(row[None, :-1])
        head.linear_gate.bias.copy_(row[-1:])
        return float((side * (pooled @ row[:-1] + row[-1])).min())


def prompts_of(words: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Ids (p, 2) of the empty prompt, every word and every two that go together; and where something falls (p,)."""
    vocabulary, rows, falls = MotionVocabulary(words), [], []
    for text in ("", *words, *(", ".join(pair) for pair in combinations(words, 2))):
        try:
            rows.append(vocabulary.tokenize(text)[:MAX_MOTIONS])
        except ConfigError:  # two that cancel out
            continue
        falls.append(any(kind in text for kind in KINDS))
    return torch.tensor(rows), torch.tensor(falls)


class WeatherTask:
    """Task of the trainer: a skip head on what weather adds to scenes. See `Task` for the methods."""

    def __init__(self, head: SkipHead, encoder: MotionTextEncoder, words: tuple[str, ...], recipe: WeatherRecipe):
        self.head, self.encoder, self.recipe = head, encoder.requires_grad_(False), recipe
        self.vocabulary = MotionVocabulary(words)
        self.cameras = tuple(word for word in GROUPS["camera"] if word in words)
        self.source = SceneSource(recipe.size, num_textures=recipe.num_textures, words=(*self.cameras, *KINDS))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The head's weights by name, without the gate's, which `fit_gate` finds."""
        return {name: value for name, value in self.head.named_parameters() if "gate" not in name}

    def fingerprint(self) -> dict:
        """The recipe and the words."""
        return {"recipe": self.recipe.to_dict(), "words": list(self.vocabulary.words)}

    def describe(self, batch: WeatherSamples) -> str:
        """Captions of a batch."""
        return ", ".join(map(repr, batch.captions))

    def draw(self, keys: list[SampleKey]) -> WeatherSamples:
        """Draw and render a scene a key, with and without its weather, and cut a part out."""
        recipe, generators = self.recipe, [key.generator() for key in keys]
        chance = torch.stack([torch.rand(16, generator=g) for g in generators])
        captions = [self._caption(row) for row in chance.tolist()]
        scenes = self.source.draw(generators, captions=captions)
        start = 1 + (chance[:, 7] * (recipe.last_frame - recipe.num_frames + 1)).long()
        frames = start.unsqueeze(1) + torch.arange(recipe.num_frames)
        clear, full = (drawn.render(frames)[0] * 2 - 1 for drawn in (replace(scenes, weather={}), scenes))
        corner = (chance[:, 8:10] * (recipe.size - recipe.crop + 1)).long().tolist()
        clear, full = (torch.stack([video[:, :, y : y + recipe.crop, x : x + recipe.crop]
                                    for video, (y, x) in zip(videos, corner)]) for videos in (clear, full))
        noise = torch.stack([torch.randn(clear.shape[1:], generator=g) for g in generators])
        ids = torch.tensor([self.vocabulary.tokenize(text)[:MAX_MOTIONS] for text in captions])
        bucket = (scenes.speed * 19).ceil().clamp(1, 19)
        return WeatherSamples(clear, full - clear, noise, self._sigma(chance), frames, bucket, ids, captions)

    def loss(self, batch: WeatherSamples) -> Tensor:
        """Squared error of what falls, in units of c_out: (b,)."""
        device = next(self.head.parameters()).device
        batch = WeatherSamples(*(v.to(device) if isinstance(v, Tensor) else v for v in batch.__dict__.values()))
        level = batch.sigma.view(-1, 1, 1, 1, 1)
        _, pooled, _ = self.encoder(batch.ids)
        scales = self.head.scales(batch.sigma, batch.indices, pooled, batch.bucket, torch.float32)
        rest = (1 - level) * batch.fallen + level * batch.noise
        error = self.head.estimate(rest, batch.picture, batch.sigma, scales) - batch.fallen
        unit = scalings(batch.sigma, self.head.deviation)[2].view(-1, 1, 1, 1, 1)
        return (error / unit).square().mean((1, 2, 3, 4))

    def _caption(self, chance: list[float]) -> str:
        """Rain or snow, at times with a camera motion."""
        kind, camera = KINDS[int(chance[1] * len(KINDS))], self.cameras[int(chance[2] * len(self.cameras))]
        return f"{camera}, {kind}" if chance[0] < self.recipe.pair_share else kind

    def _sigma(self, chance: Tensor) -> Tensor:
        """Noise levels: uniform, then shifted; a share sits at 0.999. (b,)"""
        base, shift = chance[:, 4], self.recipe.shift
        sigma = shift * base / (1 + (shift - 1) * base)
        return torch.where(chance[:, 5] < self.recipe.top_noise_share, 0.999, sigma).clamp(0.01, 0.999)
