"""From a file or folder of models/diffusion_models to a MODEL, whatever family it is of."""

import torch

from ...motion.io.networks.video_model import open_video_model
from ...motion.io.networks.video_model_file import describe
from ..host import progress
from .base import assemble
from .limits import check_weights_fit
from .linear_video import LinearVideoHostConfig
from .sana_video import SanaVideoHostConfig

HOST_CONFIGS = {kind.architecture.name: kind for kind in (LinearVideoHostConfig, SanaVideoHostConfig)}


def load_video_model(
    path: str, weight_dtype: torch.dtype | None = None, kernels: str = "auto", disable_dynamic: bool = False
):
    """Read weights and return a fresh, unpatched MODEL. Raises CheckpointError and, for kernels, ConfigError."""
    return load_and_describe(path, weight_dtype, kernels, disable_dynamic)[0]


def load_and_describe(
    path: str, weight_dtype: torch.dtype | None = None, kernels: str = "auto", disable_dynamic: bool = False
):
    """(MODEL, lines for the user). Built outside inference mode, so that the weights can be trained."""
    with torch.inference_mode(False):
        opened = open_video_model(path)
        check_weights_fit(path, opened.num_bytes)
        file = opened.read(progress.bytes_as_progress(progress.progress_step(), 0, opened.num_bytes))
        text = describe(file)
        config = HOST_CONFIGS[file.architecture.name](file.spec)
        patcher = assemble(
            config, file.state_dict, path, weight_dtype=weight_dtype, kernels=kernels, disable_dynamic=disable_dynamic
        )
    patcher.cached_patcher_init = (load_video_model, (path, weight_dtype, kernels))
    patcher.model.origin = dict(file.origin)
    return patcher, f"{text}\n{_kept(patcher.model)}"


def _kept(model) -> str:
    """Number types and operators, as the host's settings and this device made them."""
    stored, computed = model.get_dtype(), getattr(model, "manual_cast_dtype", None) or model.get_dtype()
    names = [str(dtype).removeprefix("torch.") for dtype in (stored, computed)]
    backend = "torch" if model.diffusion_model.kernels == "torch" else "Triton"
    return f"here: kept in {names[0]}, computed in {names[1]}, {backend} operators"
