"""Widget values of the training node as the library's settings; every range is checked again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...motion.choices import EXPERTS, HIGH_NOISE, LOW_NOISE, WHOLE
from ...motion.data.latent_dataset import WindowConfig
from ...motion.errors import ConfigError
from ...motion.models.wan.config import WanConfig
from ...motion.models.wan.experts import HIGH, LOW, noise_range
from ...motion.training.config import WRITTEN, TrainingConfig
from ..host import checks

SAME_NAME = (
    "mode", "batch_size", "learning_rate", "rank", "seed", "sample_every", "save_every", "caption_dropout", "ema_decay",
    "precision", "gradient_checkpointing", "sigma_sampling", "file_precision", "masked",
)  # fmt: skip
WINDOW_NAMES = ("num_frames", "stride_min", "stride_max", "windows_per_clip", "resolution", "seed")
MAX_TEXT = 20_000
SUFFIXES = {HIGH_NOISE: "_high", LOW_NOISE: "_low", WHOLE: ""}  # of file names, one file an expert
EXPERT_NAMES = {HIGH_NOISE: HIGH, LOW_NOISE: LOW, WHOLE: ""}  # in the library and in files


@dataclass(frozen=True)
class Settings:
    """What the widgets say."""

    config: TrainingConfig
    windows: WindowConfig
    file_prefix: str
    resume_from: str
    allow_changes: bool
    sample_text: str
    shift: float  # of the noise levels, in training and in samples


def read_settings(values: dict, model_shift: float, own: Mapping | None = None) -> Settings:
    """Widget values by name; those not given take the library's defaults. Raises ConfigError.

    own: settings of a node without widgets for them, which more_settings may change.
    """
    checks.in_range("shift", values.get("shift", 0.0), 0.0, 1000.0)
    shift = float(values.get("shift") or model_shift)
    told = {name: values[name] for name in SAME_NAME if name in values}
    told |= {"num_steps": values["steps"]} if "steps" in values else {}
    told |= {"targets": _names(values["targets"])} if "targets" in values else {}
    more = parse_settings(values.get("more_settings", ""))
    twice = sorted(set(more) & {*told, "shift"} - set(own or {}))
    if twice:
        raise ConfigError(f"more_settings holds {', '.join(twice)}, which the node has a widget for; use that")
    told |= {"alpha": float(told["rank"])} if "rank" in told and isinstance(told["rank"], int) else {}
    return Settings(
        config=TrainingConfig.from_dict({**(own or {}), **told, **more, "shift": shift}),
        windows=WindowConfig.from_dict({name: values[name] for name in WINDOW_NAMES if name in values}),
        file_prefix=_text("file_prefix", values.get("file_prefix", "my_motion")),
        resume_from=_text("resume_from", values.get("resume_from", "new")),
        allow_changes=bool(values.get("allow_changed_data", False)),
        sample_text=_text("sample_text", values.get("sample_text", "")),
        shift=shift,
    )


def for_expert(settings: Settings, expert: str, config: WanConfig) -> Settings:
    """The same for one of `EXPERTS`: noise levels on its side of the border alone, in files of its own.

    A sigma_min or sigma_max of the user's own is where the border lies. Raises ConfigError.
    """
    checks.choose("expert", expert, EXPERTS)
    told, (low, high) = settings.config.objective, noise_range(config, EXPERT_NAMES[expert])
    inside = settings.config.changed(sigma_min=told.sigma_min or low, sigma_max=min(told.sigma_max, high))
    return replace(settings, config=inside, file_prefix=settings.file_prefix + SUFFIXES[expert])


def parse_settings(text: str) -> dict:
    """Lines "name = value" (or "name: value"; # begins a comment) as plain values. Raises ConfigError."""
    found: dict = {}
    for line in _text("more_settings", text).replace(";", "\n").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, sign, value = line.replace(":", "=", 1).partition("=")
        name = name.strip()
        if not sign or not value.strip() or name not in WRITTEN:
            raise ConfigError(f"more_settings: {line[:60]!r}; lines such as 'schedule = constant' are needed; known: "
                              f"{', '.join(WRITTEN)}")
        if name in found:
            raise ConfigError(f"more_settings: {name} is given twice; keep one line")
        found[name] = _plain(value.strip())
    return found


def _plain(value: str):
    """A whole number, a number, a truth value, or the text itself."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value.strip("'\"")


def _names(text: str) -> list[str]:
    return [part.strip() for part in _text("targets", text).replace("\n", ",").split(",") if part.strip()]


def _text(name: str, value) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ConfigError(f"{name} is {str(value)[:40]!r}; text of up to {MAX_TEXT} characters is needed")
    return checks.whole_text(name, value).strip()
