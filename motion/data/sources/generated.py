"""Clips that the procedural generator draws when they are wanted, each from a seed of its own, with their true flow."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ...errors import ConfigError
from ...io.media.video import check_fps
from ...limits import MAX_CLIP_FRAMES
from ..clips import Clip, ClipCollection, digest
from ..grid_flow import read_grid
from ..procedural.scenes import WORDS, SceneBatch, SceneSource, draw_caption

GENERATOR_VERSION = 1  # raised when scenes change; part of every clip's fingerprint
NUM_TEXTURES = 256  # different ones; scenes also shift, mirror and tint them
MAX_CLIPS = 100_000
ROUNDS = 12  # of the fixed point that turns flow against frame 0 into flow against a later frame


def generate_collection(
    num_clips: int, *, motions: Sequence[str] | None = None, words: Sequence[str] = WORDS, num_frames: int = 16,
    size: int = 64, fps: float = 8.0, seed: int = 0,
) -> ClipCollection:  # fmt: skip
    """Clips of drawn scenes; nothing is drawn before it is read.

    motions: captions such as "pan left, zoom in", dealt out in turn; None draws them at random from `words`. size: side
    in px, a multiple of 16 from 32 on. Clip k is the same however many there are. Raises ConfigError for unknown
    motions and numbers out of range.
    """
    for name, value, low, high in (("num_clips", num_clips, 1, MAX_CLIPS), ("size", size, 32, 1024),
                                   ("num_frames", num_frames, 2, MAX_CLIP_FRAMES)):  # fmt: skip
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must be {low} to {high}")
    captions = [checked_motions(text) for text in motions] if motions is not None else None
    if captions == [] or not words:
        raise ConfigError("motions is an empty list; name at least one, or give none for any motion")
    words = tuple(checked_motions(word) for word in words)
    studio = _Studio(size, seed, num_frames, words)
    clips = tuple(studio.clip(index, captions[index % len(captions)] if captions else None, check_fps(fps))
                  for index in range(num_clips))  # fmt: skip
    return ClipCollection(clips, fps=fps, notes=(f"drawn by the generator from seed {seed}, with their true flow",))


def checked_motions(text: str) -> str:
    """A caption in the generator's own form: its words once, in their order. Raises ConfigError for other words."""
    words = {word.strip() for word in text.lower().split(",")} - {""}
    unknown = sorted(words - set(WORDS))
    if unknown or not words:
        raise ConfigError(f"motion {', '.join(unknown)!r:.80} cannot be drawn; there are: {', '.join(WORDS)}")
    if "still" in words and len(words) > 1:
        raise ConfigError(f"{text!r:.80} joins 'still' with a motion; drop one of them")
    return ", ".join(sorted(words, key=WORDS.index))


class _Studio:
    """Draws the scenes of one collection; textures are made on first use, and the last scene is kept."""

    def __init__(self, size: int, seed: int, num_frames: int, words: tuple[str, ...]):
        if size % 16:
            raise ConfigError(f"size is {size}; a multiple of 16 px is needed; use {size // 16 * 16 or 32}")
        self.size, self.seed, self.num_frames, self.words = size, seed, num_frames, words
        self._last: tuple[int, SceneBatch] | None = None

    @cached_property
    def source(self) -> SceneSource:
        return SceneSource(self.size, num_textures=NUM_TEXTURES)

    def clip(self, index: int, caption: str | None, fps: float) -> Clip:
        """Clip number `index`; no caption draws one."""
        if caption is None:
            chance = torch.rand(6, generator=self._generator("caption", index)).tolist()
            caption = draw_caption(chance, self.words)
        mark = digest("generated", str(GENERATOR_VERSION), str((self.seed, index, self.size, self.num_frames, caption)))
        return Clip(f"{index:04d} {caption}", caption, self.num_frames, fps, self.size, self.size, mark,
                    lambda indices: self._read(index, caption, indices),
                    lambda indices: self._flow(index, caption, indices))  # fmt: skip

    def _generator(self, what: str, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(int(digest(what, str(self.seed), str(index), length=15), 16))

    def _scene(self, index: int, caption: str) -> SceneBatch:
        if self._last is None or self._last[0] != index:
            with torch.inference_mode(False):  # it is kept, and may be read in another mode
                self._last = index, self.source.draw([self._generator("scene", index)], captions=[caption])
        return self._last[1]

    def _read(self, index: int, caption: str, indices: Sequence[int]) -> Tensor:
        pictures, _ = self._scene(index, caption).render(torch.tensor([list(indices)]))
        return pictures[0].transpose(0, 1).contiguous()

    def _flow(self, index: int, caption: str, indices: Sequence[int]) -> Tensor:
        flow = self._scene(index, caption).flow(torch.tensor([list(indices)]))[0]
        return torch.stack([_against(flow[0], later) for later in flow]) if flow[0].any() else flow


def _against(start: Tensor, flow: Tensor) -> Tensor:
    """Backward flow against the frame whose own flow against frame 0 is `start`; both (2, g, g) px.

    g with x + g + start(x + g) = x + flow(x), by a fixed point.
    """
    found = flow - start
    for _ in range(ROUNDS):
        found = flow - read_grid(start, found)
    return found
