"""What our MODELs share as native models of the host: conditions, their checks, and how weights get in.

Every refusal names the VAE or text encoder that the model needs and, where it is a public one, its row of
docs/models.md.
"""

import torch
from comfy import model_base, supported_models_base
from comfy.conds import CONDNoiseShape, CONDRegular
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...kernels.self_test import resolve_kernels
from ...motion.errors import CheckpointError, ConfigError, ShapeError
from ...motion.models.architecture import Architecture
from ...motion.models.latent_spaces import SPACES, LatentSpace
from ...motion.models.model_spec import ModelSpec
from ..host import devices
from ..host.conditions import read
from .as_trained import sample_as_trained
from .limits import MARGIN, check_number_type, refuse_what_cannot_fit, step_memory
from .text_cache import keep_texts_for_a_run
from .wrapped_network import FLOW_MULTIPLIER


class HostConfig(supported_models_base.BASE):
    """What the host wants to know of a model before it is built. model_class: a HostModel."""

    unet_extra_config = {}
    architecture: Architecture
    model_class = None

    def __init__(self, spec: ModelSpec, latent_format, supported=devices.COMPUTE_DTYPES):
        super().__init__({"config": spec.config, "integer_timesteps": spec.sampling.integer_timesteps})
        self.spec = spec
        self.latent_format = latent_format
        self.sampling_settings = {"shift": spec.sampling.shift, "multiplier": FLOW_MULTIPLIER}
        self.memory_usage_factor = self.architecture.memory.factor(spec.config)
        self.supported_inference_dtypes = list(supported)

    def model_type(self, state_dict, prefix=""):
        return model_base.ModelType.FLOW

    def get_model(self, state_dict, prefix="", device=None):
        return self.model_class(self, self.model_type(state_dict, prefix), device=device)


class HostModel(model_base.BaseModel):
    """Conditions of a prompt that all our models have: text with its mask, and the latent of a start image."""

    network_class = None

    def __init__(self, model_config: HostConfig, model_type, device=None):
        super().__init__(model_config, model_type, device=device, unet_model=self.network_class)
        self.architecture, self.spec = model_config.architecture, model_config.spec

    def process_timestep(self, timestep, **_unused):
        """Timestep in [0, 1000], also where a sampling patch counts in another unit."""
        return timestep * (FLOW_MULTIPLIER / getattr(self.model_sampling, "multiplier", FLOW_MULTIPLIER))

    def memory_required(self, input_shape, cond_shapes=None) -> float:
        """Bytes that the host keeps free for one call; its own estimate counts attention that is quadratic."""
        if len(input_shape) != 5:  # latents of another model, which extra_conds refuses
            return super().memory_required(input_shape, cond_shapes or {})
        return MARGIN * step_memory(self, input_shape)

    def process_latent_in(self, latent):
        """Scaled latents, of this model's own space only."""
        if latent.ndim > 1 and latent.shape[1] != self.spec.space.channels:
            check_latents(latent, self.spec.space)
        return super().process_latent_in(latent)

    def extra_conds(self, **given):
        """Host conditions for one prompt. All have a batch axis, so positive and negative run as one batch."""
        noise, conditions = given["noise"], {}
        space = self.spec.space
        check_latents(noise, space)
        context, mask = given.get("cross_attn"), given.get("attention_mask")
        if context is not None:
            check_text(context, self.spec.config.caption_channels, space)
            conditions["c_crossattn"] = CONDRegular(context)
            if mask is not None:
                conditions["attention_mask"] = CONDRegular(check_mask(mask, context))
        told = read(given)
        if told.first_latent is not None:
            first = first_latent_of(told.first_latent, told.first_latent_space, noise, space)
            shown = self.process_latent_in(first).expand(-1, -1, noise.shape[2], -1, -1)
            conditions.update(first_latent=CONDNoiseShape(shown))
        return conditions


def architecture_of(model) -> Architecture | None:
    """The architecture of one of our MODELs; None for other models."""
    return model.model.architecture if isinstance(model.model, HostModel) else None


def spec_of(model) -> ModelSpec | None:
    """What is known of one of our MODELs beside its weights; None for other models."""
    return model.model.spec if isinstance(model.model, HostModel) else None


def named(space: LatentSpace) -> str:
    """What a message calls the VAE of a space."""
    if space.kind == "builtin":
        return "the built-in VAE (output vae of Load Built-in Motion Model)"
    return f"the {space.title}" + (f" (docs/models.md, row {space.row})" if space.row else "")


def check_latents(noise: Tensor, space: LatentSpace) -> None:
    """Refuse latents of another space. Raises ShapeError."""
    if noise.ndim != 5 or noise.shape[1] != space.channels:
        raise ShapeError(
            f"the latent is {tuple(noise.shape)}; this model works on (b, {space.channels}, t, h, w), the latents of "
            f"{named(space)}: use that VAE and the node Photo to Video (MotionBlocks), or Empty Motion Latent"
        )


def check_text(context: Tensor, width: int, space: LatentSpace) -> None:
    """Refuse the text of another encoder, and text that is not finite. Raises ShapeError."""
    if context.ndim != 3 or context.shape[-1] != width:
        own = "the clip of Load Built-in Motion Model"
        public = "Gemma-2-2B from the node Load Text Encoder (docs/models.md, row Gemma-2)"
        raise ShapeError(
            f"text embedding is {tuple(context.shape)}; this model needs (b, n, {width}): connect the text encoder "
            f"that belongs to it, {own if space.kind == 'builtin' else public}"
        )
    if not context.isfinite().all():
        raise ShapeError(
            "the text embedding holds NaN or infinity: a prompt that this model cannot read was mixed into it, or the "
            "text encoder overflowed; write one prompt of words that the model knows, or load the encoder in bf16"
        )


def check_mask(mask: Tensor, context: Tensor) -> Tensor:
    """The mask in the text's shape (b, n). Raises ConfigError for the mask of another text."""
    if tuple(mask.shape[-2:]) != tuple(context.shape[:2]):
        raise ConfigError(
            f"the prompt has {tuple(context.shape[:2])} tokens but its mask {tuple(mask.shape)}; conditionings joined "
            "by Conditioning (Concat) are not supported; write both motions into one prompt"
        )
    return mask.reshape(context.shape[:2])


def first_latent_of(first: Tensor, kind: str | None, noise: Tensor, space: LatentSpace) -> Tensor:
    """The start image's latent (b, c, 1, h, w), unscaled. kind: the space it was encoded in, None where not known.

    Raises ShapeError for the latent of another VAE or of another size than the video's.
    """
    if kind not in (None, space.kind):
        other = SPACES[kind].title if kind in SPACES else str(kind)[:60]
        raise ShapeError(
            f"the start image was encoded with the {other}; this model needs {named(space)}: connect that VAE to Photo "
            "to Video"
        )
    if first.ndim != 5 or (first.shape[1], *first.shape[3:]) != (noise.shape[1], *noise.shape[3:]):
        raise ShapeError(
            f"the start image's latent is {tuple(first.shape)}, the video's {tuple(noise.shape)}; channels, height "
            "and width must agree: take positive, negative and latent from one Photo to Video node"
        )
    return first[:, :, :1]


def one_start_for_all(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: refuse prompts of which only some have the start image. Raises ConfigError.

    Guidance would then mix a video that begins with the image and one that does not. At cfg 1 one prompt counts alone.
    """
    guider = executor.class_obj
    started = {any(read(part).first_latent is not None for part in prompt) for prompt in guider.conds.values()}
    if len(started) > 1 and getattr(guider, "cfg", None) != 1.0:
        raise ConfigError(
            "one prompt has the start image and another has not; connect the outputs positive and negative of Photo to "
            "Video, both of them, to the sampler"
        )
    return executor(*args, **kwargs)


def assemble(
    config: HostConfig, state: dict[str, Tensor], what: str, *, weight_dtype: torch.dtype | None = None,
    kernels: str = "auto", disable_dynamic: bool = False,
):  # fmt: skip
    """Patcher around the model of `config` with these weights. Call it outside inference mode: they stay trainable.

    state: emptied as it is converted, so that a weight is never held in two number types. what: the file, in messages.
    Raises CheckpointError and, for kernels, ConfigError.
    """
    supported = config.supported_inference_dtypes
    dtype, cast = devices.inference_dtypes(state, weight_dtype, supported)
    check_number_type(dtype)
    config.set_inference_dtype(dtype, cast)
    backend = resolve_kernels(kernels, devices.compute_device(), cast or dtype, config.architecture.operators)
    config.unet_config["kernels"] = backend
    config.memory_usage_factor = config.architecture.memory.factor(config.spec.config, backend)
    model = config.get_model(state)
    patcher = devices.new_patcher(model, disable_dynamic=disable_dynamic)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "motionblocks_as_trained", sample_as_trained)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "motionblocks", keep_texts_for_a_run)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "motionblocks_memory", refuse_what_cannot_fit)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "motionblocks_start", one_start_for_all)
    stored = {name: state.pop(name).to(config.unet_config["dtype"]) for name in list(state)}
    missing, unexpected = model.diffusion_model.load_state_dict(stored, strict=False, assign=True)
    if missing or unexpected:
        raise CheckpointError(f"{what}: weights {[*missing, *unexpected][:5]} do not fit; get the file again")
    model.diffusion_model.requires_grad_(False).eval()
    if not devices.is_dynamic(patcher):
        model.to(patcher.offload_device)
    return patcher
