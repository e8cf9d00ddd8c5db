"""What a run of the host's sampler is held to, so that core's defaults do not spoil one of our models.

KSampler and CFGGuider are added with cfg 8 and 8.0; a model that was trained without guidance burns out at that.
"""

import math
from numbers import Real

from comfy.samplers import CFGGuider
from comfy_execution.utils import get_executing_context

from ...kernels.foreign_text import safe_logger
from ..host import page
from ..text_encoders.prompts import settle_prompts

OFF = 1.0  # cfg at which the host looks at the positive prompt alone
_log = safe_logger("motionblocks.sampling")


def sample_as_trained(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: settle the prompts and, for a model trained without guidance, cfg. Raises ConfigError.

    Only a plain guider is set to cfg 1, for this run; who chose another one, or another rule for guidance, is obeyed
    and told. What was changed is said once, in the log and under the running node.
    """
    guider = executor.class_obj
    spec = guider.model_patcher.model.spec
    told = settle_prompts(guider.conds, one_motion=spec.space.kind == "builtin")
    given = guider.cfg
    strong = too_strong(guider) if spec.sampling.guidance_scale == OFF else None
    is_plain = type(guider) is CFGGuider and "sampler_cfg_function" not in guider.model_options
    if strong is not None and is_plain:
        told.append(f"cfg is {strong:g}; this model was trained for cfg 1 and is sampled with 1; set cfg to 1")
        guider.cfg = OFF
    elif strong is not None:
        told.append(f"cfg is {strong:g}; this model was trained for cfg 1; other values spoil its colours")
    say(told)
    try:
        return executor(*args, **kwargs)
    finally:
        if guider.cfg == OFF:  # a callback may have set another value meanwhile
            guider.cfg = given


def too_strong(guider) -> float | None:
    """The first of a guider's guidance scales (cfg, cfg1 …) that is not 1; None where all are."""
    scales = (value for name, value in vars(guider).items() if name.startswith("cfg") and isinstance(value, Real))
    return next((float(scale) for scale in scales if not math.isclose(scale, OFF)), None)


def twice_the_time(cfg: float) -> str:
    """What a user is told who pays for guidance by a text that nothing reads."""
    return (f"cfg is {cfg:g}; the motion adapters stand in place of the text, so it only doubles the time: set cfg to "
            "1")  # fmt: skip


def say(lines: list[str]) -> None:
    """Tell the user, in the log and under the running node."""
    for line in lines:
        _log.warning("%s", line)
    running = get_executing_context()
    if lines and running is not None:
        page.show_text("\n".join(lines), running.node_id)
