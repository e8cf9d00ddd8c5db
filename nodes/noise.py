"""Nodes that prepare noise: NOISE objects whose low frequencies already know the start picture."""

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..motion.errors import ConfigError, ShapeError
from ..motion.limits import MAX_SEED
from .host import checks, pixels
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/sampling"
METHODS = ("dct", "fft", "none")
KEPT_COLOUR, NOISE_COLOUR = (0.95, 0.55, 0.15), (0.12, 0.12, 0.14)


def noise_inputs() -> list:
    """What noise that knows the start picture is made from."""
    return [
        inp(io.Model.Input, "model", tooltip="The model to be sampled: noise lives in its latent space."),
        inp(
            io.Latent.Input, "latent",
            tooltip="Latent of the start picture (frame 1 counts): from Photo to Video or VAE Encode.",
        ),
        inp(
            io.Int.Input, "noise_seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
            tooltip="Seed of the noise, as in Random Noise.",
        ),
    ]  # fmt: skip


def content_level(model, tau: float, apply_shift: bool) -> tuple[float, str]:
    """Noise level of the start picture and how this model mixes it: (sigma_tau, "flow" or "ddpm").

    Raises ConfigError for models that mix neither way.
    """
    from comfy import model_sampling as kinds

    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, kinds.CONST) and hasattr(sampling, "sigma"):
        if not apply_shift:
            return tau, "flow"
        return float(sampling.sigma(torch.tensor(tau * getattr(sampling, "multiplier", 1.0)))), "flow"
    is_ddpm = isinstance(sampling, kinds.EPS) and type(sampling).__bases__[0] is kinds.ModelSamplingDiscrete
    if is_ddpm and not isinstance(sampling, kinds.EDM):
        sigma = float(sampling.sigma(torch.tensor(tau * (sampling.num_timesteps - 1))))
        return sigma / (1 + sigma**2) ** 0.5, "ddpm"
    names = "/".join(base.__name__ for base in type(sampling).__bases__)
    raise ConfigError(f"this model mixes noise by {names}; DCT Init knows flow and DDPM models; use Random Noise")


class StartNoise:
    """NOISE of the host: seeded noise, its low frequencies exchanged for those of a start latent in model space."""

    def __init__(self, seed: int, first: Tensor | None, refine):
        self.seed = seed
        self.first = first
        self.refine = refine

    def generate_noise(self, input_latent: dict) -> Tensor:
        """Noise like the latent to be sampled, on the CPU. Honours batch_index."""
        import comfy.sample

        samples = pixels.latent_samples(input_latent, "the latent to sample")
        noise = comfy.sample.prepare_noise(samples, self.seed, input_latent.get("batch_index"))
        if self.first is None:
            return noise
        first = self.first.to(noise.device)
        return self.refine(first.unsqueeze(2) if (first.ndim, noise.ndim) == (4, 5) else first, noise)


class DCTInit(io.ComfyNode):
    """Noise for SamplerCustomAdvanced that already holds the start picture's coarse layout."""

    @classmethod
    def define_schema(cls):
        share = {"min": 0.0, "max": 1.0, "step": 0.01}
        return schema(
            node_id="MotionBlocksDCTInit",
            display_name="DCT Init",
            category=CATEGORY,
            description="Noise whose low frequencies come from the start picture, noised to level tau (MiraMo's "
            "DCTInit). Works with any flow or DDPM model, pictures and videos. For SamplerCustomAdvanced.",
            search_aliases=["dct noise", "freeinit", "noise refinement", "structured noise"],
            inputs=[
                *noise_inputs(),
                inp(
                    io.Combo.Input, "method", options=list(METHODS), default="dct",
                    tooltip="dct: the paper's. fft: the FreeInit baseline (Gaussian filter). none: plain noise, to "
                    "compare with.",
                ),
                inp(
                    io.Float.Input, "keep", default=0.23, **share,
                    tooltip="Share of low frequencies taken from the picture along height and width; for fft the "
                    "filter's width. 0 = plain noise. On an 8x8 latent 0.23 keeps one coefficient.",
                ),
                inp(
                    io.Float.Input, "tau", default=0.975, min=0.0, max=1.0, step=0.001, optional=True,
                    tooltip="How noisy the picture's part is: 1 = pure noise, 0 = clean. 0.975 to 0.995 is usual.",
                ),
                inp(
                    io.Boolean.Input, "apply_shift", default=True, optional=True,
                    tooltip="Move tau by the model's own shift (flow models), as its schedule does.",
                ),
                inp(
                    io.Float.Input, "keep_time", default=1.0, **share, optional=True, advanced=True,
                    tooltip="Share of low frequencies along time. 1 = all, as in the paper.",
                ),
                inp(
                    io.Float.Input, "keep_width", default=0.0, **share, optional=True, advanced=True,
                    tooltip="Share along the width alone (dct); 0 = the same as keep.",
                ),
            ],
            outputs=[out(io.Noise, "noise", "For SamplerCustomAdvanced.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, latent, noise_seed, method="dct", keep=0.23, tau=0.975, apply_shift=True, keep_time=1.0,
        keep_width=0.0,
    ) -> io.NodeOutput:  # fmt: skip
        checks.choose("method", method, METHODS)
        checks.in_range("noise_seed", noise_seed, 0, MAX_SEED)
        shares = {"keep": keep, "tau": tau, "keep_time": keep_time, "keep_width": keep_width}
        for name, value in shares.items():
            checks.in_range(name, value, 0.0, 1.0)
        samples = pixels.latent_samples(latent)
        if method == "none":
            return _result(cls, StartNoise(noise_seed, None, None), "plain noise", torch.zeros(1, 1))
        first = first_in_model_space(model, samples, "DCT Init")
        sigma, mixing = content_level(model, tau, apply_shift)
        refine = _refiner(method, sigma, mixing, keep, keep_width or keep, keep_time)
        text, kept = _describe(method, samples.shape, sigma, keep, keep_width or keep, keep_time)
        return _result(cls, StartNoise(noise_seed, first, refine), text, kept)


def first_in_model_space(model, samples: Tensor, node: str) -> Tensor:
    """Frame 1 as the model sees it. Raises ShapeError for an empty latent or another latent space. node: who asks."""
    if not samples.any():
        raise ShapeError(
            f"the latent is empty (all zeros); {node} needs the start picture: connect the latent of Photo to Video "
            "or of VAE Encode"
        )
    space = model.get_model_object("latent_format")
    if samples.shape[1] != space.latent_channels:
        raise ShapeError(
            f"the latent has {samples.shape[1]} channels, the model {space.latent_channels}; encode the picture with "
            "the VAE of this model"
        )
    first = pixels.first_frame(samples)
    if space.latent_dimensions == 3 and first.ndim == 4:
        first = first.unsqueeze(2)
    return model.get_model_object("process_latent_in")(first.clone())


def _refiner(method: str, sigma: float, mixing: str, keep: float, keep_width: float, keep_time: float):
    """Function (first latent, noise) -> refined noise."""
    from ..motion.conditioning.noise_init import dct_init, fft_init

    def refine(first: Tensor, noise: Tensor) -> Tensor:
        if method == "fft":
            return fft_init(first, noise, sigma_tau=sigma, stop_space=keep, stop_time=keep_time, mixing=mixing)
        return dct_init(
            first, noise, sigma_tau=sigma, keep_height=keep, keep_width=keep_width, keep_time=keep_time, mixing=mixing
        )

    return refine


def _describe(method: str, shape, sigma: float, keep: float, keep_width: float, keep_time: float) -> tuple[str, Tensor]:
    """What is kept, as a line and as a map (h, w) with 1 = taken from the picture."""
    from ..motion.conditioning.noise_init import fft_mask, kept_box

    h, w = shape[-2:]
    t = shape[2] if len(shape) == 5 else 1
    if method == "fft":
        mask = fft_mask((t, h, w), stop_space=keep, stop_time=keep_time)
        kept = torch.fft.fftshift(mask[0])
        return f"fft: Gaussian filter of width {keep:g}\non {t}x{h}x{w} frequencies\npicture at sigma {sigma:.5f}", kept
    box = kept_box((1, 1, t, h, w), keep_height=keep, keep_width=keep_width, keep_time=keep_time)
    kept = torch.zeros(h, w)
    kept[: box[1], : box[2]] = float(all(box))
    text = f"dct: {box[0]}x{box[1]}x{box[2]} of {t}x{h}x{w} frequencies\n(frames x rows x columns)"
    return f"{text}\nfrom the picture at sigma {sigma:.5f}", kept


def _result(cls, noise: StartNoise, text: str, kept: Tensor) -> io.NodeOutput:
    """NOISE with the line and the map of kept frequencies as its preview."""
    amount = kept.float().unsqueeze(-1)
    rows = amount * torch.tensor(KEPT_COLOUR) + (1 - amount) * torch.tensor(NOISE_COLOUR)
    shown = ui.PreviewImage(pixels.picture(rows), cls=cls).as_dict() | text_under(cls, text).as_dict()
    return io.NodeOutput(noise, ui=shown)
