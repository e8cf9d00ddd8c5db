"""The linear video DiT as a native MODEL of the host: latent format, network in host layers, motion residual.

The host samples full latents of N frames. For a start image the change of variable of motion/sampling/residual.py is
made around the network, so every sampler, preview and denoise < 1 works and frame 1 stays the start image.
"""

import torch
from comfy import latent_formats, model_base, supported_models_base
from comfy.conds import CONDNoiseShape, CONDRegular
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from einops import rearrange
from torch import Tensor

from ..kernels.self_test import resolve_kernels
from ..motion.conditioning.motion_bucket import motion_bucket
from ..motion.errors import CheckpointError, ConfigError, ShapeError
from ..motion.io.motion_model_file import MotionModelFile, read_motion_model
from ..motion.models.flow_codec import rgb_factors
from ..motion.models.linear_video_dit import LinearVideoDiT, LinearVideoDiTConfig
from ..motion.models.motion_model import MotionModelSpec
from ..motion.sampling.residual import residual_state_to_network
from ..motion.sampling.schedules import sigma_to_timestep
from . import _host
from ._module_weights import host_weights
from ._text_cache import keep_texts_for_a_run, texts_of_a_run

FLOW_MULTIPLIER = 1000


class MotionLatent(latent_formats.LatentFormat):
    """Latent space of one file: 5-D, its channel count, scale and, for the built-in space, its preview colours."""

    latent_dimensions = 3

    def __init__(self, spec: MotionModelSpec):
        self.latent_channels = spec.latent.channels
        self.scale_factor = spec.latent.scale_factor
        self.spacial_downscale_ratio = spec.latent.spatial_ratio
        if spec.latent.kind == "builtin":
            self.latent_rgb_factors = rgb_factors()


class MotionModelConfig(supported_models_base.BASE):
    """What the host wants to know of a model before it is built."""

    unet_extra_config = {}
    supported_inference_dtypes = list(_host.COMPUTE_DTYPES)

    def __init__(self, spec: MotionModelSpec):
        super().__init__({"config": spec.config, "integer_timesteps": spec.sampling.integer_timesteps})
        self.spec = spec
        self.latent_format = MotionLatent(spec)
        self.sampling_settings = {"shift": spec.sampling.shift, "multiplier": FLOW_MULTIPLIER}
        self.memory_usage_factor = memory_factor(spec.config)

    def model_type(self, state_dict, prefix=""):
        return model_base.ModelType.FLOW

    def get_model(self, state_dict, prefix="", device=None):
        return MotionModel(self, self.model_type(state_dict, prefix), device=device)


def memory_factor(config: LinearVideoDiTConfig) -> float:
    """The host's memory per latent cell, in its unit of 0.01 MiB a byte of number size.

    Counts the widest moment of a block, three Mix-FFN maps and twelve token rows. An estimate; not measured on a GPU.
    """
    values = 6 * config.hidden_width + 12 * config.width
    return values / config.patch_size**2 / (0.01 * 2**20)


def host_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention by the switch the user started the host with; arguments as `torch_attention`."""
    from comfy.ldm.modules import attention

    switch = attention.optimized_attention if mask is None else attention.optimized_attention_masked
    return switch(query, key, value, num_heads, mask=mask)


class HostVideoDiT(LinearVideoDiT):
    """LinearVideoDiT with the host's call, block patches and wrappers. Made without memory; weights are assigned."""

    def __init__(
        self, *, config: LinearVideoDiTConfig, integer_timesteps: bool, kernels: str = "auto", dtype=None, device=None,
        operations=torch.nn, **_unused,
    ):  # fmt: skip
        super().__init__(
            config, operations=operations, attention=host_attention, kernels=kernels, weights_of=host_weights,
            dtype=dtype, device="meta",
        )  # fmt: skip
        self.integer_timesteps = integer_timesteps

    def forward(self, x, timestep, context=None, control=None, transformer_options=None, **conditions):
        """x (b, c, t, h, w), timestep (b,) = 1000·sigma -> velocity. Third-party wrappers run around `_predict`."""
        options = transformer_options or {}
        executor = WrapperExecutor.new_class_executor(
            self._predict, self, get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        )
        return executor.execute(x, timestep, context, control, options, **conditions)

    def _predict(
        self, x, timestep, context, control, transformer_options, *, attention_mask=None, motion_bucket_id=None,
        pooled=None, first_latent=None, **_unused,
    ):  # fmt: skip
        if context is None:
            raise ConfigError("the conditioning holds no text embedding; encode a prompt with the model's CLIP")
        return super().forward(
            x, sigma_to_timestep(timestep / FLOW_MULTIPLIER, integer=self.integer_timesteps), context,
            attention_mask=attention_mask, motion_bucket_id=motion_bucket_id, pooled=pooled, first_latent=first_latent,
            run_block=self._block_runner(timestep, context, transformer_options),
            **texts_of_a_run(transformer_options, x.shape[0]),
        )  # fmt: skip

    def _block_runner(self, timestep: Tensor, context: Tensor, options: dict):
        """The `run_block` that lets patches_replace["dit"][("double_block", i)] stand in for block i."""
        patches = options.get("patches_replace", {}).get("dit", {})
        if not patches:
            return None

        def run_block(index: int, call, hidden_states: Tensor) -> Tensor:
            patch = patches.get(("double_block", index))
            if patch is None:
                return call(hidden_states)
            n = hidden_states.shape[2]

            def original_block(given: dict) -> dict:
                tokens = call(rearrange(given["img"], "b (t n) d -> b t n d", n=n))
                return {"img": rearrange(tokens, "b t n d -> b (t n) d")}

            told = {"block_index": index, "block_type": "double", "total_blocks": len(self.transformer_blocks)}
            given = {"img": rearrange(hidden_states, "b t n d -> b (t n) d"), "txt": context, "vec": timestep}
            given |= {"pe": None, "transformer_options": {**options, **told}}
            out = patch(given, {"original_block": original_block})
            return rearrange(out["img"], "b (t n) d -> b t n d", n=n)

        return run_block


class MotionModel(model_base.BaseModel):
    """Host model with the motion residual and our conditions."""

    def __init__(self, model_config: MotionModelConfig, model_type, device=None):
        super().__init__(model_config, model_type, device=device, unet_model=HostVideoDiT)
        self.spec = model_config.spec

    def _apply_model(
        self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, first_latent=None,
        **conditions,
    ):  # fmt: skip
        """Clean estimate of x at sigma t. first_latent (b, c, t, h, w), scaled: makes the state a motion residual.

        With y = z1 + residual the host's own clean estimate of the shifted state is that of y: frames 2..N are used as
        they are, frame 1 is z1.
        """
        options = {} if transformer_options is None else transformer_options
        run = super()._apply_model
        if first_latent is None:
            return run(x, t, None, c_crossattn, control, options, **conditions)
        first = first_latent[:, :, :1].to(x)
        seen = residual_state_to_network(x, t, first)
        clean = run(seen, t, None, c_crossattn, control, options, first_latent=first, **conditions)
        return torch.cat((first, clean[:, :, 1:]), dim=2)

    def process_timestep(self, timestep, **_unused):
        """Timestep in [0, 1000], also where a sampling patch counts in another unit."""
        return timestep * (FLOW_MULTIPLIER / getattr(self.model_sampling, "multiplier", FLOW_MULTIPLIER))

    def extra_conds(self, **given):
        """Host conditions for one prompt. All have a batch axis, so positive and negative run as one batch."""
        noise, conditions = given["noise"], {}
        self._check_latents(noise)
        context, mask = given.get("cross_attn"), given.get("attention_mask")
        if context is not None:
            conditions["c_crossattn"] = CONDRegular(context)
            if mask is not None:
                conditions["attention_mask"] = CONDRegular(_check_mask(mask, context))
        if self.spec.config.pooled_text_embedding and given.get("pooled_output") is not None:
            conditions["pooled"] = CONDRegular(given["pooled_output"])
        if self.spec.config.motion_buckets:
            conditions["motion_bucket_id"] = CONDRegular(self._bucket(given.get("motion_bucket_id")))
        if given.get("first_latent") is not None:
            conditions["first_latent"] = CONDNoiseShape(self._first_latent(given["first_latent"], noise))
        return conditions

    def _check_latents(self, noise: Tensor) -> None:
        need = self.spec.latent
        if noise.ndim != 5 or noise.shape[1] != need.channels:
            raise ShapeError(
                f"the latent is {tuple(noise.shape)}; this model works on (b, {need.channels}, t, h, w), the "
                f"{need.kind} latent space: use its VAE and the node Image to Video (MotionBlocks), or Empty Latent"
            )

    def _bucket(self, bucket) -> Tensor:
        config = self.spec.config
        return motion_bucket(config.default_motion_bucket if bucket is None else bucket, config.motion_buckets)

    def _first_latent(self, first: Tensor, noise: Tensor) -> Tensor:
        if self.spec.objective == "t2v":
            raise ConfigError(
                "this model makes videos from text alone and got a start image; use Empty Latent instead of Image to "
                "Video, or load an image-to-video model"
            )
        if first.ndim != 5 or (first.shape[1], *first.shape[3:]) != (noise.shape[1], *noise.shape[3:]):
            raise ShapeError(
                f"the start image's latent is {tuple(first.shape)}, the video's {tuple(noise.shape)}; channels, height "
                "and width must agree: take positive, negative and latent from one Image to Video node"
            )
        return self.process_latent_in(first[:, :, :1]).expand(-1, -1, noise.shape[2], -1, -1)


def _check_mask(mask: Tensor, context: Tensor) -> Tensor:
    if tuple(mask.shape[-2:]) != tuple(context.shape[:2]):
        raise ConfigError(
            f"the prompt has {tuple(context.shape[:2])} tokens but its mask {tuple(mask.shape)}; conditionings joined "
            "by Concat or Average are not supported; write both motions into one prompt"
        )
    return mask.reshape(context.shape[:2])


def load_motion_model(
    path: str, weight_dtype: torch.dtype | None = None, kernels: str = "auto", disable_dynamic: bool = False
):
    """Read a file and return a fresh, unpatched MODEL. Raises CheckpointError and, for kernels, ConfigError."""
    with torch.inference_mode(False):
        return build_patcher(read_motion_model(path), path, weight_dtype, kernels, disable_dynamic)


def build_patcher(
    file: MotionModelFile, path: str, weight_dtype: torch.dtype | None = None, kernels: str = "auto",
    disable_dynamic: bool = False,
):  # fmt: skip
    """MODEL from a file that has been read. Call it outside inference mode, else its weights cannot be trained."""
    config = MotionModelConfig(file.spec)
    supported = [torch.float32] if file.spec.latent.kind == "builtin" else _host.COMPUTE_DTYPES
    config.supported_inference_dtypes = list(supported)
    dtype, cast = _host.inference_dtypes(file.state_dict, weight_dtype, supported)
    config.set_inference_dtype(dtype, cast)
    config.unet_config["kernels"] = resolve_kernels(kernels, _host.compute_device(), cast or dtype)
    model = config.get_model(file.state_dict)
    patcher = _host.new_patcher(model, disable_dynamic=disable_dynamic)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "motionblocks", keep_texts_for_a_run)
    stored = {name: tensor.to(config.unet_config["dtype"]) for name, tensor in file.state_dict.items()}
    missing, unexpected = model.diffusion_model.load_state_dict(stored, strict=False, assign=True)
    if missing or unexpected:
        raise CheckpointError(f"{path}: weights {[*missing, *unexpected][:5]} do not fit; get the file again")
    model.diffusion_model.requires_grad_(False).eval()
    if not _host.is_dynamic(patcher):
        model.to(patcher.offload_device)
    patcher.cached_patcher_init = (load_motion_model, (path, weight_dtype, kernels))
    return patcher


def spec_of(model) -> MotionModelSpec | None:
    """The file's description of one of our MODELs; None for other models."""
    spec = getattr(model.model, "spec", None)
    return spec if isinstance(spec, MotionModelSpec) else None
