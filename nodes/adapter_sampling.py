"""Nodes around a model with motion adapters: its noise, its prompt, and what is done to a finished video."""

from functools import partial

import torch
from comfy_api.latest import io

from ..motion.errors import ConfigError, ShapeError
from ..motion.limits import MAX_SEED
from .host import checks, devices, pixels
from .host.compat import inp, out, schema
from .noise import StartNoise, content_level, first_in_model_space, noise_inputs

CATEGORY = "MotionBlocks/adapters"


class AdapterNoise(io.ComfyNode):
    """The start noise of the paper's Algorithm 1."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksAdapterNoise",
            display_name="Adapter Noise",
            category=CATEGORY,
            description="Noise as motion adapters were published with (MIVA, Algorithm 1): all frames share a part of "
            "the first one's noise, and low frequencies come from the start picture. For SamplerCustomAdvanced. "
            "Steadier, and it weakens fine motion such as rain; the built-in models hardly notice it.",
            search_aliases=["miva noise", "shared noise", "lamp"],
            inputs=[
                *noise_inputs(),
                inp(
                    io.Float.Input, "share", default=0.05, min=0.0, max=1.0, step=0.01,
                    tooltip="How much of frame 1's noise all other frames have: 0 = none, 1 = all the same.",
                ),
                inp(
                    io.Float.Input, "keep", default=0.23, min=0.0, max=1.0, step=0.01, optional=True,
                    tooltip="Share of low frequencies taken from the picture along height and width; 0 = none.",
                ),
                inp(
                    io.Float.Input, "tau", default=0.975, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                    tooltip="How noisy the picture's part is: 1 = pure noise, 0 = clean.",
                ),
            ],
            outputs=[out(io.Noise, "noise", "For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, latent, noise_seed, share=0.05, keep=0.23, tau=0.975) -> io.NodeOutput:
        from ..motion.conditioning.shared_noise import adapter_noise

        checks.in_range("noise_seed", noise_seed, 0, MAX_SEED)
        for name, value in (("share", share), ("keep", keep), ("tau", tau)):
            checks.in_range(name, value, 0.0, 1.0)
        first = first_in_model_space(model, pixels.latent_samples(latent), "Adapter Noise")
        sigma, mixing = content_level(model, tau, apply_shift=False)
        refine = partial(adapter_noise, share=share, keep=keep, sigma_tau=sigma, mixing=mixing)
        return io.NodeOutput(StartNoise(noise_seed, first, refine))


class MatchFirstFrame(io.ComfyNode):
    """AdaIN of a finished video's frames to its first."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksMatchFirstFrame",
            display_name="Match First Frame Statistics",
            category=CATEGORY,
            description="Gives every frame of a finished video the mean and contrast of the first one, channel by "
            "channel of the latent (AdaIN): against colours that drift. Between sampler and VAE Decode. Not for the "
            "built-in models, and on Wan seldom of use: there the first latent frame is of another kind.",
            search_aliases=["adain", "colour drift", "color match", "miva"],
            inputs=[
                inp(io.Latent.Input, "latent", tooltip="A finished video, from the sampler."),
                inp(
                    io.Float.Input, "strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="0 = as it is, 1 = matched.",
                ),
            ],
            outputs=[out(io.Latent, "latent", "For VAE Decode; frame 1 keeps every bit.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, latent, strength=1.0) -> io.NodeOutput:
        from ..motion.models.latent_spaces import SPACES
        from ..motion.sampling.first_frame_statistics import match_first_frame

        checks.in_range("strength", strength, 0.0, 1.0)
        samples = pixels.latent_samples(latent)
        if samples.ndim != 5:
            raise ShapeError(f"the latent is {tuple(samples.shape)}; that of a video, (b, c, t, h, w), is needed")
        if samples.shape[1] == SPACES["builtin"].channels:
            raise ConfigError(
                "this is a latent of a built-in model, whose first frame holds no motion: matching it would stop the "
                "video; leave this node out"
            )
        return io.NodeOutput({**latent, "samples": match_first_frame(samples, strength)})


class EmptyPrompt(io.ComfyNode):
    """A conditioning that says nothing, without a text encoder where there need be none."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksEmptyPrompt",
            display_name="Empty Prompt",
            category=CATEGORY,
            description="An empty prompt of the model's own size, so that no text encoder need be loaded where motion "
            "adapters stand in place of the text (cfg 1, weights that come to 1). Without clip it is zeros, which is "
            "not what a text encoder makes of no words.",
            search_aliases=["zero conditioning", "no prompt", "unconditional", "miva"],
            inputs=[
                inp(io.Model.Input, "model", tooltip="The model to be sampled: a MotionBlocks model, or Wan."),
                inp(
                    io.Clip.Input, "clip", optional=True,
                    tooltip="Encodes no words with this text encoder instead. The built-in models need it: they read "
                    "more of a prompt than adapters replace.",
                ),
            ],
            outputs=[out(io.Conditioning, "conditioning", "For both prompts of Photo to Video or the sampler.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip=None) -> io.NodeOutput:
        if clip is not None:
            return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize("")))
        width, is_pooled = _text_of(model)
        if is_pooled:
            raise ConfigError(
                "this model also reads the prompt as a whole, which adapters do not replace; connect clip, for the "
                "built-in models that of Load Built-in Motion Model"
            )
        return io.NodeOutput([[torch.zeros(1, 1, width, device=devices.output_device()), {}]])


def _text_of(model) -> tuple[int, bool]:
    """Width of a model's text, and whether it reads a pooled one too. Raises ConfigError for models not known here."""
    from .models.base import spec_of
    from .models.native_wan import native_wan

    spec = spec_of(model)
    if spec is not None:
        return spec.config.caption_channels, bool(getattr(spec.config, "pooled_text_embedding", False))
    return native_wan(model).network.text_dim, False
