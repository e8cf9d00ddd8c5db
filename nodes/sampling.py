"""Nodes for the paper's own schedule and solver: SIGMAS and SAMPLER."""

from comfy_api.latest import io

from ..motion.errors import ConfigError
from ..motion.sampling.schedules import MAX_STEPS, SCHEDULES
from .host import checks
from .host.compat import inp, out, schema

CATEGORY = "MotionBlocks/sampling"


def flow_shift(model) -> float:
    """The shift of a flow model, as a patch such as ModelSamplingSD3 left it. Raises ConfigError for other models."""
    from comfy.model_sampling import CONST

    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, CONST) or not 0 < getattr(sampling, "shift", 0) <= 1000:
        raise ConfigError(
            f"this model samples by {type(sampling).__bases__[0].__name__}; a flow model with a shift is needed; use "
            "the core node BasicScheduler for others"
        )
    return float(sampling.shift)


class FlowScheduler(io.ComfyNode):
    """The noise levels of the paper's solver as SIGMAS."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksFlowScheduler",
            display_name="Flow Scheduler",
            category=CATEGORY,
            description="Noise levels spaced as in SANA, SANA-Video and MiraMo, with the shift of the model (file or "
            "ModelSamplingSD3). For SamplerCustomAdvanced.",
            search_aliases=["flow sigmas", "flow dpm", "miramo sigmas", "sana video sigmas", "flow match euler"],
            inputs=[
                inp(io.Model.Input, "model", tooltip="A flow model; its shift is used."),
                inp(
                    io.Int.Input, "num_steps", default=25, min=1, max=MAX_STEPS, step=1,
                    tooltip="Model calls. SANA-Video: 50. MiraMo files: 25. Built-in model: 8.",
                ),
                inp(
                    io.Float.Input, "denoise", default=1.0, min=0.01, max=1.0, step=0.01, optional=True,
                    tooltip="Below 1 only the last part is walked, from a latent that is kept in part.",
                ),
                inp(
                    io.Combo.Input, "schedule", options=list(SCHEDULES), default="flow_dpm", optional=True,
                    tooltip="flow_dpm: the grid of Flow DPM 2M (SANA, MiraMo, SANA-Video text to video). "
                    "flow_match_euler: the grid of SANA-Video image to video, for the sampler euler.",
                ),
            ],
            outputs=[out(io.Sigmas, "sigmas", "num_steps + 1 falling levels, ending at 0.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, num_steps, denoise=1.0, schedule="flow_dpm") -> io.NodeOutput:
        from ..motion.sampling import schedules

        grid = schedules.SCHEDULES[checks.choose("schedule", schedule, SCHEDULES)]
        checks.in_range("num_steps", num_steps, 1, MAX_STEPS)
        checks.in_range("denoise", denoise, 0.01, 1.0)
        total = min(int(num_steps / denoise), MAX_STEPS)
        return io.NodeOutput(grid(total, shift=flow_shift(model))[-(num_steps + 1) :].float())


def sample_flow_dpm_2m(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """`flow_dpm_2m` in the form of the host's samplers: model(x, sigma, **extra_args) -> clean."""
    from ..motion.sampling.solvers import flow_dpm_2m

    walked = [x]

    def denoise(latents, sigma):
        walked[0] = latents
        return model(latents, sigma, **(extra_args or {}))

    def on_step(step, num_steps, clean):
        if callback is not None:
            level = sigmas[step]
            callback({"x": walked[0], "i": step, "sigma": level, "sigma_hat": level, "denoised": clean})

    return flow_dpm_2m(denoise, x, sigmas, on_step=on_step)


class FlowDPM2M(io.ComfyNode):
    """The paper's second-order solver as SAMPLER."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksFlowDPM2M",
            display_name="Flow DPM 2M",
            category=CATEGORY,
            description="DPM-Solver++ 2M for flow models, first order in the first and last step, as SANA and MiraMo "
            "use it. For SamplerCustomAdvanced, with sigmas that end at 0.",
            search_aliases=["flow dpm solver", "dpm++ 2m flow"],
            inputs=[],
            outputs=[out(io.Sampler, "sampler", "For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from comfy.samplers import KSAMPLER

        return io.NodeOutput(KSAMPLER(sample_flow_dpm_2m))
