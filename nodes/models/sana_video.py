"""SANA-Video as a native MODEL of the host.

With a start image, latent frame 1 is the clean image at timestep 0 whenever the network looks, and in every clean
estimate: a solver then keeps it, and the loop is that of the published pipeline. No noise mask is involved.
"""

import torch
from comfy import latent_formats
from torch import Tensor

from ...motion.models.conditions import Conditions
from ...motion.models.sana_video.architecture import SANA_VIDEO
from ...motion.models.sana_video.network import SanaVideoDiT
from ...motion.models.sana_video.spec import SanaVideoSpec
from ...motion.sampling.schedules import sigma_to_timestep
from .base import HostConfig, HostModel
from .text_cache import texts_of_a_run
from .wrapped_network import FLOW_MULTIPLIER, HostNetwork, need_text

FORMATS = {"wan21": latent_formats.Wan21, "ltx2": latent_formats.LTXV}


class HostSanaVideo(HostNetwork, SanaVideoDiT):
    """SanaVideoDiT with the host's call, block patches and wrappers."""

    def _predict(self, x, timestep, context, control, transformer_options, *, attention_mask=None, **_unused):
        """A timestep a sample is cut to whole numbers, one a frame is not: as the two published pipelines do."""
        integer = self.integer_timesteps and timestep.ndim == 1
        return SanaVideoDiT.forward(
            self, x, sigma_to_timestep(timestep / FLOW_MULTIPLIER, integer=integer),
            Conditions(need_text(context), attention_mask),
            run_block=self._block_runner(timestep, context, transformer_options),
            **texts_of_a_run(transformer_options, x.shape[0]),
        )  # fmt: skip


class SanaVideoModel(HostModel):
    """Host model that keeps a start image as clean first latent frame."""

    network_class = HostSanaVideo

    def _apply_model(
        self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, first_latent=None,
        **conditions,
    ):  # fmt: skip
        """Clean estimate of x (b, c, t, h, w) at sigma t. first_latent: like x, scaled; its frame 0 is kept."""
        options = {} if transformer_options is None else transformer_options
        run = super()._apply_model
        if first_latent is None:
            return run(x, t, None, c_crossattn, control, options, **conditions)
        first = first_latent[:, :, :1].to(x)
        seen = torch.cat((first, x[:, :, 1:]), dim=2)
        clean = run(seen, t, None, c_crossattn, control, options, first_latent=first, **conditions)
        return torch.cat((first, clean[:, :, 1:]), dim=2)

    def process_timestep(self, timestep: Tensor, *, x: Tensor | None = None, first_latent=None, **more) -> Tensor:
        """Timestep in [0, 1000], (b,); with a start image (b, t), 0 for its frame."""
        timestep = super().process_timestep(timestep, **more)
        if first_latent is None:
            return timestep
        each = timestep[:, None].repeat(1, x.shape[2])
        each[:, 0] = 0
        return each


class SanaVideoHostConfig(HostConfig):
    """What the host wants to know of SANA-Video before it is built."""

    architecture = SANA_VIDEO
    model_class = SanaVideoModel

    def __init__(self, spec: SanaVideoSpec):
        super().__init__(spec, FORMATS[spec.space.kind]())
