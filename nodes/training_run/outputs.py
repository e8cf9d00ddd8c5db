"""The outputs of the training node, made of a finished run."""

import comfy.sd
import torch
from comfy_api.latest import io, ui

from ...motion.io.adapters.adapter_file import read_adapter
from ...motion.io.networks.linear_video import LinearVideoFile
from ..host.text_under import text_under
from ..models.linear_video import build_patcher
from ..models.listed_adapters import ListedAdapter
from .live_view import curve_of
from .request import Request
from .run import Outcome
from .trainable_copy import kernels_of


def node_output(cls, request: Request, done: Outcome) -> io.NodeOutput:
    """Model, LoRA, losses, samples, report and path; report, strips and loss curve under the node.

    Strips (h, w, 3) are one IMAGE: all have one size, since all start from one photo.
    """
    trained, lora = _trained(request, done)
    report, samples, losses, shown = _shown(cls, request, done)
    return io.NodeOutput(trained, lora, {"loss": losses}, samples, report, done.path, ui=shown)


def adapter_output(cls, request: Request, done: Outcome) -> io.NodeOutput:
    """Adapter, losses, samples, report and path, as `node_output`; the adapter as its file holds it."""
    listed = ListedAdapter(read_adapter(done.path))
    report, samples, losses, shown = _shown(cls, request, done)
    return io.NodeOutput((listed,), {"loss": losses}, samples, report, done.path, ui=shown)


def _shown(cls, request: Request, done: Outcome) -> tuple:
    """Report, samples and losses, and all of them as they stand under the node."""
    report, samples, losses = text_under(cls, done.report), torch.stack(done.strips), list(done.result.losses)
    shown = ui.PreviewImage(samples, cls=cls).as_dict() | report.as_dict()
    curve = curve_of(losses, request.config.loop.num_steps)
    return report.value, samples, losses, shown | {"motionblocks_loss": [curve]}


def _trained(request: Request, done: Outcome) -> tuple:
    """The trained MODEL and the LoRA weights ({} in mode full). The model given stays as it is."""
    if request.config.adapter.mode == "lora":
        trained, _ = comfy.sd.load_lora_for_models(request.model, None, done.weights, 1.0, 0.0)
        return trained, done.weights
    with torch.inference_mode(False):
        file = LinearVideoFile(request.spec, done.weights, None, done.metadata)
        return build_patcher(file, done.path, kernels=kernels_of(request.model)), {}
