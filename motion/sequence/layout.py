"""Which latent frames of one sequence hold the reference picture, the skeletons and the frames that are made.

Wan's VAE gives the first frame a latent frame of its own and every four that follow share one. Source: FramePrompt,
arXiv 2506.17301, Sec. 3; its sequence of 81 frames is one reference, 40 skeletons and 40 frames that are made.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..choices import JOINT, SEQUENCE_MODES
from ..errors import ConfigError
from ..models.latent_spaces import MAX_FRAMES, SPACES
from ..models.wan.config import MASK_CHANNELS

SPACE = SPACES["wan21"]
GROUP = SPACE.temporal_ratio
PAPER_LATENTS = 21  # of the longest sequence that Wan was trained on


@dataclass(frozen=True)
class SequenceLayout:
    """Reference | skeletons | target, in latent frames.

    num_frames: skeletons, and frames that are made. mode: "joint", one causal pass of the VAE over all, in which no
    latent frame holds two kinds since their frames divide by 4; "separate", a pass for each kind, each of which begins
    with a latent frame of a single picture. Poses that do not fill latent frames are padded by the last one, and what
    is made beyond num_frames is cut. Raises ConfigError.
    """

    num_frames: int
    mode: str = JOINT

    def __post_init__(self):
        if self.mode not in SEQUENCE_MODES:
            raise ConfigError(f"mode is {str(self.mode)[:40]!r}; it must be one of: {', '.join(SEQUENCE_MODES)}")
        count = self.num_frames
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_FRAMES:
            raise ConfigError(f"num_frames is {str(count)[:60]}; it must be 1 to {MAX_FRAMES}")

    @property
    def target_latents(self) -> int:
        """Latent frames of what is made."""
        whole = -(-self.num_frames // GROUP)
        return whole if self.mode == JOINT else -(-(self.num_frames - 1) // GROUP) + 1

    @property
    def given_latents(self) -> int:
        """Latent frames of the reference and the skeletons, which stand before it."""
        return 1 + self.target_latents

    @property
    def latent_frames(self) -> int:
        """Of the whole sequence."""
        return self.given_latents + self.target_latents

    @property
    def padded_frames(self) -> int:
        """Frames of the skeletons, and of what is made, that fill their latent frames."""
        return GROUP * self.target_latents if self.mode == JOINT else SPACE.frames(self.target_latents)

    @property
    def is_longer_than_trained(self) -> bool:
        """Whether the sequence is longer than any that Wan was trained on."""
        return self.latent_frames > PAPER_LATENTS

    def padded(self, video: Tensor) -> Tensor:
        """Frames (b, c, num_frames, h, w) with the last one repeated until they fill latent frames."""
        missing = self.padded_frames - video.shape[2]
        return torch.cat((video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)), dim=2) if missing else video

    def frame_mask(self) -> Tensor:
        """(latent_frames,): 0 for what is given, 1 for what is made."""
        return torch.cat((torch.zeros(self.given_latents), torch.ones(self.target_latents)))

    def concat(self, shown: Tensor) -> Tensor:
        """What a Wan with 36 channels reads beside the sequence: a mask, 1 where a frame is given, then `shown`.

        shown: scaled latents (b, 16, latent_frames, h, w) of the reference, the skeletons and grey. The four channels
        of the mask are the four frames of a latent frame, all of one kind. Returns (b, 20, latent_frames, h, w).
        """
        given = (1 - self.frame_mask()).to(shown).view(1, 1, -1, 1, 1)
        return torch.cat((given.expand(len(shown), MASK_CHANNELS, -1, *shown.shape[3:]), shown), dim=1)
