"""The models that draw a video from words, or from words and a picture, bundled without any host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .errors import ConfigError, ShapeError
from .io.networks.builtin_names import VAE
from .io.networks.builtin_wan import read_builtin_wan
from .io.vaes.small_vae import read_small_vae
from .models.conditions import Conditions
from .models.small_vae import SmallVAE
from .models.wan.network import WanDiT
from .models.wan.spec import SPACE, WanSpec
from .models.wan.start_video import concat_latents, start_video
from .sampling.clean_first_frame import CleanFirstFrame
from .sampling.draw import draw, make_noise
from .sampling.given_frames import GivenFrames
from .sampling.solvers import OnStep
from .sequence.conditions import decode_target, encode_sequence
from .sequence.layout import SequenceLayout
from .sequence.trained_as import TrainedAs
from .text.scene_vocabulary import SceneVocabulary, word_vectors

SIDES = (64, 192)  # px that the drawn clips have
MAX_FRAMES = 33
DRAWINGS_ONLY = ("the small Wan knows one plain shape on a ground; other pictures dissolve: animate a photograph with "
                 "motionblocks-small")  # fmt: skip


@dataclass(frozen=True, eq=False)
class SceneModel:
    """Words in, video out; a model with 36 channels begins with a picture."""

    spec: WanSpec
    dit: WanDiT
    vae: SmallVAE
    vocabulary: SceneVocabulary
    sequences: TrainedAs | None = None  # how it reads reference, skeletons and target; None: not at all

    @property
    def starts_from_image(self) -> bool:
        """Whether it reads a start image beside the words."""
        return self.spec.config.concat_channels > 0

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """The prompts as conditions, a row each; "" leaves all to the model. Raises ConfigError for unknown words."""
        vectors = word_vectors(self.vocabulary.size, self.spec.config.caption_channels)
        ids = torch.tensor([self.vocabulary.tokenize(prompt) for prompt in prompts])
        return Conditions(vectors[ids].to(next(self.dit.parameters()).device))

    @torch.no_grad()
    def draw_videos(
        self, prompts: Sequence[str], *, start: Tensor | None = None, height: int = 64, width: int = 64,
        num_frames: int | None = None, num_steps: int | None = None, guidance_scale: float | None = None, seed: int = 0,
        on_step: OnStep | None = None, clean_first_frame: bool = False,
    ) -> Tensor:  # fmt: skip
        """Videos (b, t, h, w, 3) in [0, 1], one a prompt, from the noise of seed, seed + 1, … each.

        start: pictures (b or 1, 3, h, w) in [0, 1] that the videos begin with, where the model reads one; they have the
        size of the video. height, width: px, multiples of 16 from 64 to 192. num_frames: 4k + 1, up to 33; trained are
        17, the default, as of num_steps and guidance_scale is the model's own. clean_first_frame: a model that reads no
        picture is shown `start` as a clean first frame, as its motion adapters need. Raises ConfigError and ShapeError.
        """
        clean_first_frame = clean_first_frame and not self.starts_from_image
        self._check_start(start, len(prompts), height, width, is_read=self.starts_from_image or clean_first_frame)
        space, sampling = self.spec.space, self.spec.sampling
        frames = space.latent_frames(sampling.num_frames if num_frames is None else num_frames)
        space.check_size(width, height, "the video")
        check_drawn(4 * frames - 3, width, height)
        shape = (1, space.channels, frames, height // space.spatial_ratio, width // space.spatial_ratio)
        told, empty = self.encode(prompts), self.encode([""] * len(prompts))
        place = told.context.device
        network = self.dit
        if clean_first_frame:
            network = CleanFirstFrame(self.dit, space.scaled(self.vae.encode(start.to(place).unsqueeze(2) * 2 - 1)))
        elif start is not None:
            beside = self.encode_start(start.to(place), 4 * frames - 3)
            told, empty = (replace(each, concat_latents=beside) for each in (told, empty))
        noise = torch.cat([make_noise(shape, seed + row) for row in range(len(prompts))]).to(place)
        latents = draw(
            network, noise, told, sampling, negative=empty, num_steps=num_steps, guidance_scale=guidance_scale,
            on_step=on_step,
        )  # fmt: skip
        return self.decode(network.put_into(latents) if clean_first_frame else latents)

    @torch.no_grad()
    def draw_poses(
        self, reference: Tensor, skeletons: Tensor, *, prompt: str = "", num_steps: int | None = None, seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Tensor:  # fmt: skip
        """Videos (b, t, h, w, 3) in [0, 1] in which who is seen in a reference follows skeletons.

        reference: (b, 3, h, w); skeletons: (b, 3, t, h, w), both in [0, 1]; sides are multiples of 16 from 64 to 192
        px. t: any up to 33; trained are 17. Drawn from the noise of seed, seed + 1, … without guidance. Raises
        ConfigError where the model was not trained for it, and ShapeError.
        """
        if self.sequences is None or self.sequences.in_segments:
            raise ConfigError("this model was not trained to follow poses; load motionblocks-wan-pose")
        layout = SequenceLayout(skeletons.shape[2], self.sequences.mode)
        height, width = reference.shape[2:]
        check_drawn(layout.padded_frames, width, height)
        place, space = next(self.dit.parameters()).device, self.spec.space
        parts = encode_sequence(
            lambda video: self.vae.encode(video * 2 - 1), layout, reference.unsqueeze(2).to(place), skeletons.to(place)
        )
        told = replace(self.encode([prompt]), concat_latents=layout.concat(space.scaled(parts.shown)))
        shape = (1, space.channels, layout.target_latents, *parts.given.shape[3:])
        noise = torch.cat([make_noise(shape, seed + row) for row in range(len(reference))]).to(place)
        network = GivenFrames(self.dit, space.scaled(parts.given), clean_timestep=self.sequences.clean_timestep)
        made = draw(network, noise, told, self.spec.sampling, num_steps=num_steps, guidance_scale=1.0, on_step=on_step)

        def frames(latents: Tensor) -> Tensor:
            return self.decode(space.scaled(latents)).movedim(-1, 1)

        return decode_target(frames, layout, parts.given, space.unscaled(made)).movedim(1, -1)

    @torch.no_grad()
    def encode_start(self, start: Tensor, num_frames: int) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1] -> what the network reads beside the latents, (b, 20, t', h', w')."""
        video = start_video(start.unsqueeze(2), num_frames)
        return concat_latents(self.spec.space.scaled(self.vae.encode(video * 2 - 1)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (b, 16, t', h', w') -> videos (b, t, h, w, 3) in [0, 1]."""
        video = self.vae.decode(self.spec.space.unscaled(latents))
        return (video / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    def _check_start(self, start: Tensor | None, count: int, height: int, width: int, *, is_read: bool) -> None:
        """Raises ConfigError for a picture that is missing or not read, ShapeError for one of another size."""
        if (start is None) == is_read:
            told = ("begins with a picture, and none is given: give one as start" if is_read
                    else "draws from words alone: leave out start, or load motionblocks-wan-i2v")  # fmt: skip
            raise ConfigError(f"this model {told}")
        if start is not None and (start.shape[1:] != (3, height, width) or len(start) not in (1, count)):
            raise ShapeError(f"start is {tuple(start.shape)}; ({count} or 1, 3, {height}, {width}) is needed, the size "
                             "of the video")  # fmt: skip


def load_scene_model(path: str | Path, *, vae: str | Path = VAE, device: str | torch.device = "cpu") -> SceneModel:
    """A model of a file that has words of its own, with its VAE, in float32. Raises CheckpointError."""
    file = read_builtin_wan(path)
    network = file.network().to(device)
    small = read_small_vae(vae).to(device).requires_grad_(False)
    return SceneModel(file.spec, network, small, file.vocabulary, TrainedAs.of(file.metadata))


def check_drawn(num_frames: int, width: int, height: int) -> None:
    """Refuse videos that the shipped models do not draw. Raises ShapeError."""
    if min(height, width) < SIDES[0] or max(height, width) > SIDES[1] or num_frames > MAX_FRAMES:
        raise ShapeError(f"the video would have {num_frames} frames of {width}x{height} px; this model draws up to "
                         f"{MAX_FRAMES} frames with sides of {SIDES[0]} to {SIDES[1]} px")  # fmt: skip


def fit_picture(photo: Tensor, size: tuple[int, int] | None, *, short: int = SIDES[0]) -> Tensor:
    """A picture (3, h, w) as a model of drawn clips sees it, (1, 3, height, width): the middle, made small.

    size: width and height in px; None: the short side has `short` px, and the long one is as long as it may be.
    """
    h, w = photo.shape[1:]
    if size is None:
        long = min(SIDES[1], round(short * max(h, w) / min(h, w) / SPACE.multiple) * SPACE.multiple)
        size = (long, short) if w > h else (short, long)
    width, height = size
    top, left, rows, columns = fitted_part((h, w), (height, width))
    middle = photo[None, :, top : top + rows, left : left + columns].float()
    return functional.interpolate(middle, size=(height, width), mode="bilinear", antialias=True).clamp(0, 1)


def fitted_part(photo: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The middle of a picture that has the shape of `size`: top, left, rows and columns; both are height, width."""
    (h, w), (height, width) = photo, size
    scale = max(width / w, height / h)
    rows, columns = (min(side, max(1, round(wanted / scale))) for side, wanted in ((h, height), (w, width)))
    return (h - rows) // 2, (w - columns) // 2, rows, columns
