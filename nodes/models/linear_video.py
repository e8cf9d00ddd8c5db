"""The linear video DiT as a native MODEL of the host: latent format, network in host layers, motion residual.

The host samples full latents of N frames. For a start image the change of variable of motion/sampling/residual.py is
made around the network, so every sampler, preview and denoise < 1 works and frame 1 stays the start image.
"""

from pathlib import Path

import torch
from comfy import latent_formats
from comfy.conds import CONDConstant, CONDRegular
from torch import Tensor

from ...motion.choices import GO_ON
from ...motion.conditioning.motion_bucket import motion_bucket
from ...motion.errors import ConfigError
from ...motion.io.networks.linear_video import LinearVideoFile, read_linear_video
from ...motion.io.networks.video_model_file import origin_of
from ...motion.layers.frame_curve import frame_curve
from ...motion.models.conditions import Conditions
from ...motion.models.heads.flow_codec import rgb_factors
from ...motion.models.linear_video.architecture import LINEAR_VIDEO
from ...motion.models.linear_video.network import LinearVideoDiT
from ...motion.models.model_spec import LinearVideoSpec
from ...motion.sampling.residual import residual_state_to_network
from ...motion.sampling.schedules import sigma_to_timestep
from ..host import devices
from ..host.conditions import read
from .base import HostConfig, HostModel, assemble
from .clip_places import frame_numbers, places_of
from .text_cache import texts_of_a_run
from .wrapped_network import FLOW_MULTIPLIER, HostNetwork, need_text


class MotionLatent(latent_formats.LatentFormat):
    """Latent space of one file: 5-D, its channel count, scale and, for the built-in space, its preview colours."""

    latent_dimensions = 3

    def __init__(self, spec: LinearVideoSpec):
        self.space = spec.space
        self.latent_channels = spec.latent.channels
        self.scale_factor = spec.latent.scale_factor
        self.spacial_downscale_ratio = spec.latent.spatial_ratio
        if spec.latent.kind == "builtin":
            self.latent_rgb_factors = rgb_factors()

    def process_in(self, latent):
        return self.space.scaled(latent)

    def process_out(self, latent):
        return self.space.unscaled(latent)


class HostLinearVideo(HostNetwork, LinearVideoDiT):
    """LinearVideoDiT with the host's call, block patches and wrappers."""

    def _predict(
        self, x, timestep, context, control, transformer_options, *, attention_mask=None, motion_bucket_id=None,
        pooled=None, first_latent=None, numbers=None, clip=None, adapters=None, **_unused,
    ):  # fmt: skip
        told = Conditions(need_text(context), attention_mask, pooled, motion_bucket_id, first_latent)
        if clip is not None:
            told = told.at_places(places_of(numbers, clip)).to(x.device)
        return LinearVideoDiT.forward(
            self, x, sigma_to_timestep(timestep / FLOW_MULTIPLIER, integer=self.integer_timesteps), told,
            run_block=self._block_runner(timestep, context, transformer_options), adapters=adapters,
            **texts_of_a_run(transformer_options, x.shape[0]),
        )  # fmt: skip

    def frames_seen(self, x, *, numbers=None, clip=None, **_unused):
        """See `HostNetwork`. A context window has some frames; a flow head has blocks look at some of these."""
        if clip is None:
            return super().frames_seen(x)
        seen = torch.tensor(numbers)
        curve = frame_curve(places_of(numbers, clip)[0]) if self.config.flow_channels else None
        return clip[0], seen if curve is None else seen[curve.frames]


class LinearVideoModel(HostModel):
    """Host model with the motion residual and our conditions."""

    network_class = HostLinearVideo

    def _apply_model(
        self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, first_latent=None,
        **conditions,
    ):  # fmt: skip
        """Clean estimate of x at sigma t. first_latent (b, c, t, h, w), scaled: makes the state a motion residual.

        With y = z1 + residual the host's own clean estimate of the shifted state is that of y: frames 2..N are used as
        they are, frame 1 is z1. A context window that begins later gets z1 put in front, as the network was trained.
        """
        options = {} if transformer_options is None else transformer_options
        run = super()._apply_model
        numbers = frame_numbers(x.shape[2], options)
        if first_latent is None:
            return run(x, t, None, c_crossattn, control, options, numbers=numbers, **conditions)
        first = first_latent[:, :, :1].to(x)
        starts = numbers[0] == 0
        state = x if starts else torch.cat((first, x), dim=2)
        numbers = numbers if starts else [0, *numbers]
        seen = residual_state_to_network(state, t, first)
        clean = run(seen, t, None, c_crossattn, control, options, first_latent=first, numbers=numbers, **conditions)
        return torch.cat((first, clean[:, :, 1:]), dim=2) if starts else clean[:, :, 1:]

    def extra_conds(self, **given):
        """Host conditions for one prompt: those of all our models, pooled text and motion bucket."""
        told = read(given)
        if told.first_latent is not None and self.spec.objective == "t2v":
            raise ConfigError(
                "this model makes videos from text alone and got a start image; use Empty Latent instead of Photo to "
                "Video, or load an image-to-video model"
            )
        conditions = super().extra_conds(**given)
        if self.spec.config.pooled_text_embedding and given.get("pooled_output") is not None:
            conditions["pooled"] = CONDRegular(given["pooled_output"])
        if self.spec.config.motion_buckets:
            conditions.update(motion_bucket_id=CONDRegular(self._bucket(told.motion_bucket_id)))
        length = given["noise"].shape[2]
        conditions["clip"] = CONDConstant((length, self.spec.sampling.num_frames, told.longer or GO_ON))
        return conditions

    def _bucket(self, bucket) -> Tensor:
        config = self.spec.config
        return motion_bucket(config.default_motion_bucket if bucket is None else bucket, config.motion_buckets)


class LinearVideoHostConfig(HostConfig):
    """What the host wants to know of a linear video DiT before it is built."""

    architecture = LINEAR_VIDEO
    model_class = LinearVideoModel

    def __init__(self, spec: LinearVideoSpec):
        supported = [torch.float32] if spec.latent.kind == "builtin" else devices.COMPUTE_DTYPES
        super().__init__(spec, MotionLatent(spec), supported)


def load_motion_model(
    path: str, weight_dtype: torch.dtype | None = None, kernels: str = "auto", disable_dynamic: bool = False
):
    """Read a file and return a fresh, unpatched MODEL. Raises CheckpointError and, for kernels, ConfigError."""
    with torch.inference_mode(False):
        return build_patcher(read_linear_video(path), path, weight_dtype, kernels, disable_dynamic)


def build_patcher(
    file: LinearVideoFile, path: str, weight_dtype: torch.dtype | None = None, kernels: str = "auto",
    disable_dynamic: bool = False,
):  # fmt: skip
    """MODEL from a file that has been read. Call it outside inference mode, else its weights cannot be trained."""
    patcher = assemble(
        LinearVideoHostConfig(file.spec), dict(file.state_dict), path, weight_dtype=weight_dtype, kernels=kernels,
        disable_dynamic=disable_dynamic,
    )  # fmt: skip
    patcher.cached_patcher_init = (load_motion_model, (path, weight_dtype, kernels))
    patcher.model.origin, patcher.model.file_name = origin_of(file.metadata), Path(path).stem
    return patcher
