"""The recipe of `motionblocks-wan` and `motionblocks-wan-i2v`: network, words, and their task of the trainer.

Which way a word moves a sprite is learnt late: a network sits for thousands of clips where frames are noise around one
mean. Two things bring it there sooner. Attention starts with eyes for places, not for nothing: see `look_around`. And
the first steps mostly give the first frame clean and say the motion, so that the words are all that is left to learn.
"""

import math
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor, nn

from ..motion.data.procedural.sprite_words import COLOURS, GROUNDS, MOTIONS, SHAPES, SIZES, TEXTURES
from ..motion.data.procedural.sprites import SpriteClip, SpriteSource
from ..motion.models.model_spec import SamplingDefaults
from ..motion.models.small_vae import SmallVAE
from ..motion.models.wan.config import MASK_CHANNELS, WanConfig
from ..motion.models.wan.network import WanDiT
from ..motion.models.wan.spec import SPACE, WanSpec
from ..motion.models.wan.start_video import concat_latents, start_video
from ..motion.text.scene_vocabulary import MAX_TOKENS, SceneVocabulary, word_vectors
from ..motion.training.objectives.flow import Flow
from ..motion.training.objectives.noise_levels import NoiseLevels
from ..motion.training.optimizers import block_matrices
from ..motion.training.task import SampleKey
from ..motion.training.trainees.wan import WanTrainee
from .tiny_trainer import few_keys_attention

GROUPS = {"size": SIZES, "colour": tuple(COLOURS), "texture": TEXTURES, "shape": SHAPES, "ground": GROUNDS,
          "motion": tuple(MOTIONS)}  # fmt: skip
WORDS_LAYER, PATCHES_LAYER = "text_embedding.0.weight", "patch_embedding.weight"
WORDS_LOUDER, EMBEDDING_LOUDER = 1.7, 5.0  # than torch's linear layers begin: eight words share one attention
# Where heads look at the start: frames, rows and columns of tokens away.
LOOKS = (
    (0, 0, 0), (-1, 0, 0), (-1, 0, 0.7), (-1, 0, -0.7), (-1, 0.7, 0), (-1, -0.7, 0), (1, 0, 0), (0, 0, 0),
    (-1, 0, 0.7), (-1, 0, -0.7), (-1, 0.7, 0), (-1, -0.7, 0), (-1, 0, 0), (1, 0, 0), (0, 0, 0), (-1, 0, 0),
)  # fmt: skip
FAST_PAIRS = 3  # of a head's pairs on an axis, those whose turn from one token to the next can be told apart
GATES = [2, 5]  # rows of a block's modulation
BESIDE_BLOCKS = ("time_embedding", "time_projection", "text_embedding.2")  # matrices that Muon takes as well


@dataclass(frozen=True)
class WanRecipe:
    """Numbers of the training that the trainer's own settings do not hold; written into the weights' metadata."""

    single_share: float = 0.15  # steps on single frames, whose captions name no motion
    first_share: float = 0.3  # of the other samples, those whose first frame is given clean
    first_silent_share: float = 0.5  # of those, the ones without a caption
    caption_dropout: float = 0.1  # of the other samples
    word_dropout: float = 0.06  # of every word of a caption
    lead_steps: int = 0  # the first ones, whose shares are these instead:
    lead_single_share: float = 0.05
    lead_first_share: float = 0.85
    lead_first_silent_share: float = 0.1
    sigma_sampling: str = "uniform"
    shift: float = 3.0  # of the noise levels
    motion_weight: float = 0.0  # see `Flow`
    # Height and width of a step's clips in px, and its share.
    sizes: tuple[tuple[int, int, float], ...] = field(
        default=((64, 64, 0.93), (64, 96, 0.02), (96, 64, 0.02), (96, 96, 0.015), (128, 128, 0.015)))  # fmt: skip
    vae: str = ""  # hash of the file of its VAE

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return {**asdict(self), "sizes": [list(size) for size in self.sizes]}


OF_WORDS = WanRecipe(lead_steps=600, motion_weight=3.0)
OF_IMAGES = WanRecipe(single_share=0.0, first_share=0.0, caption_dropout=0.4)  # all begin with their picture


def wan_spec(*, from_image: bool = False) -> WanSpec:
    """Sizes that the host's loaders read right from shapes alone: heads of 128, text 4096 wide.

    from_image: with a start video beside the latents, 36 channels, as Wan 2.2 has it.
    """
    return WanSpec(
        config=WanConfig(
            num_layers=8, num_attention_heads=2, hidden_width=1024,
            concat_channels=SPACE.channels + MASK_CHANNELS if from_image else 0,
        ),
        sampling=SamplingDefaults(
            shift=3.0, num_steps=20, guidance_scale=2.0, num_frames=17, fps=8.0, integer_timesteps=False
        ),
        text_tokens=MAX_TOKENS,
    )  # fmt: skip


def build_wan(spec: WanSpec, seed: int) -> WanDiT:
    """A fresh network that reads words by number: its first text layer has a column a word, see `as_file_weights`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = replace(spec.config, caption_channels=SceneVocabulary(GROUPS).size)
        dit = WanDiT(config, attention=few_keys_attention)
        nn.init.normal_(dit.text_embedding[0].weight, std=0.5)
    with torch.no_grad():
        for block in dit.blocks:
            block.modulation[:, GATES] = 0.5  # half open: blocks are heard from the first step
            block.cross_attn.v.weight *= WORDS_LOUDER
            block.cross_attn.o.weight *= WORDS_LOUDER
        dit.text_embedding[2].weight *= EMBEDDING_LOUDER
        look_around(dit)
    nn.init.zeros_(dit.head.head.weight)
    nn.init.zeros_(dit.head.head.bias)
    return dit


@torch.no_grad()
def look_around(dit: WanDiT) -> None:
    """Have every head of self-attention begin by looking at a place beside its own: those of LOOKS in turn.

    The biases of q and k hold the fastest turning pairs of each axis, those of q ahead by the angle of the place; the
    dot product is largest where the distance is that place. As position biases at the start of ConViT, d'Ascoli et al.
    2021, arXiv 2103.10697, here through the rotary places, so that the network stays Wan's.
    """
    config, turn = dit.config, 0
    width = config.attention_head_dim
    for block in dit.blocks:
        q, k = block.self_attn.q, block.self_attn.k
        for layer in (q, k):
            layer.weight *= 0.5
            layer.bias.zero_()
        for head in range(config.num_attention_heads):
            start = head * width
            for axis, place in zip(config.axes, LOOKS[turn % len(LOOKS)]):
                for pair in range(FAST_PAIRS):
                    angle, at = place * 10000 ** (-2 * pair / axis), start + 2 * pair
                    k.bias[at], q.bias[at], q.bias[at + 1] = 2.5, 2.5 * math.cos(angle), 2.5 * math.sin(angle)
                    for norm in (block.self_attn.norm_q, block.self_attn.norm_k):
                        norm.weight[at : at + 2] = 1.4
                start += axis
            turn += 1


def as_started(state: dict[str, Tensor], spec: WanSpec) -> dict[str, Tensor]:
    """Weights of a file, to begin a training of `spec` with: words by number, channels it does not read yet at 0."""
    vectors = word_vectors(SceneVocabulary(GROUPS).size, spec.config.caption_channels)
    patches = state[PATCHES_LAYER]
    missing = spec.config.in_channels + spec.config.concat_channels - patches.shape[1]
    beside = patches.new_zeros(len(patches), missing, *patches.shape[2:])
    return {**state, WORDS_LAYER: state[WORDS_LAYER] @ vectors.T, PATCHES_LAYER: torch.cat((patches, beside), 1)}


def as_file_weights(state: dict[str, Tensor], spec: WanSpec) -> dict[str, Tensor]:
    """Weights for the words' vectors in place of their numbers; the same network, since those are orthogonal."""
    by_number = state[WORDS_LAYER]  # (d, words)
    vectors = word_vectors(by_number.shape[1], spec.config.caption_channels)
    return {**state, WORDS_LAYER: by_number @ vectors / vectors[0].square().sum()}


class NetworkTask:
    """What tasks of the trainer that train all of a small Wan share. recipe: its numbers, with `to_dict`."""

    def __init__(self, spec: WanSpec, dit: WanDiT, vae: SmallVAE, recipe):
        self.spec, self.dit, self.vae, self.recipe = spec, dit, vae, recipe
        self.trainee = WanTrainee(dit, replace(spec, config=dit.config))
        self.vocabulary = SceneVocabulary(GROUPS)
        self.levels = NoiseLevels(recipe.sigma_sampling, recipe.shift)

    def parameters(self) -> dict[str, nn.Parameter]:
        """All weights by name."""
        return dict(self.dit.named_parameters())

    def matrices(self) -> set[str]:
        """What Muon takes."""
        beside = {name for name, value in self.parameters().items() if value.ndim == 2
                  and name.startswith(BESIDE_BLOCKS)}  # fmt: skip
        return block_matrices(self.parameters(), "blocks") | beside

    def fingerprint(self) -> dict:
        """The recipe and the network's sizes."""
        return {"recipe": self.recipe.to_dict(), "config": asdict(self.spec.config)}


class WanTask(NetworkTask):
    """Task of the trainer: drawn sprites as latents, the velocity of the frames that are not given."""

    def __init__(self, spec: WanSpec, dit: WanDiT, vae: SmallVAE, recipe: WanRecipe):
        super().__init__(spec, dit, vae, recipe)
        self.flow = Flow(self.levels, recipe.motion_weight)
        self.sources = [SpriteSource(height, width) for height, width, _ in recipe.sizes]

    def describe(self, batch: dict[str, Tensor]) -> str:
        """Size of a batch."""
        return f"{len(batch['latents'])} sprites, latents of {tuple(batch['latents'].shape[1:])}"

    def draw(self, keys: list[SampleKey]) -> dict[str, Tensor]:
        """Clips of one size, or single frames, a key each: named tensors as `Flow` takes them."""
        which, single = torch.rand(2, generator=keys[0]._replace(index=-1).generator()).tolist()
        recipe, is_lead = self.recipe, keys[0].step < self.recipe.lead_steps
        source = self._source(which)
        is_single = single < (recipe.lead_single_share if is_lead else recipe.single_share)
        rows = [self._sample(source, key.generator(), is_single, is_lead) for key in keys]
        videos = torch.stack([row.pop("video") for row in rows])
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        latents = self.spec.space.scaled(self.vae.encode(videos * 2 - 1))
        noise = torch.stack([torch.randn(latents.shape[1:], generator=key._replace(seed=key.seed + 1).generator())
                             for key in keys])  # fmt: skip
        given = torch.ones(latents.shape[0], latents.shape[2])
        given[batch.pop("is_first") & (not is_single), 0] = 0.0
        batch |= {"latents": latents, "noise": noise, "frame_mask": given}
        if self.spec.config.concat_channels:
            start = self.vae.encode(start_video(videos[:, :, :1], videos.shape[2]) * 2 - 1)
            batch["concat_latents"] = concat_latents(self.spec.space.scaled(start))
        return batch

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean square error of the velocity of the frames that are not given: (b,)."""
        return self.flow.loss(self.trainee, batch)

    def _source(self, which: float) -> SpriteSource:
        """The source of a step; which: in [0, 1]."""
        shares = torch.tensor([share for *_, share in self.recipe.sizes]).cumsum(0)
        return self.sources[min(int((shares <= which).sum()), len(self.sources) - 1)]

    def _sample(
        self, source: SpriteSource, generator: torch.Generator, is_single: bool, is_lead: bool
    ) -> dict[str, Tensor]:
        """A clip, what is said of it, and its noise level."""
        recipe, clip = self.recipe, source.draw(generator)
        chance = torch.rand(4, generator=generator).tolist()
        is_first = chance[0] < (recipe.lead_first_share if is_lead else recipe.first_share)
        frames = torch.tensor([int(chance[3] * source.num_frames)]) if is_single else None
        silent = recipe.lead_first_silent_share if is_lead else recipe.first_silent_share
        silent = silent if is_first and not is_single else recipe.caption_dropout
        words = () if chance[1] < silent else self._words(clip, generator, is_single)
        ids = torch.tensor(self.vocabulary.tokens(words))
        return {
            "video": clip.render(frames)[0], "is_first": torch.tensor(is_first),
            "context": nn.functional.one_hot(ids, self.vocabulary.size).float(),
            "sigma": torch.tensor(self.levels.draw(generator)),
        }  # fmt: skip

    def _words(self, clip: SpriteClip, generator: torch.Generator, is_single: bool) -> list[str]:
        look = clip.look
        words = [look.size, look.colour, look.texture, look.shape, look.ground, "" if is_single else look.motion]
        kept = (torch.rand(len(words), generator=generator) >= self.recipe.word_dropout).tolist()
        return [word for word, keep in zip(words, kept) if word and keep]
