"""The models that come with the pack: in `weights/`, no download, no file to choose."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .errors import CheckpointError
from .io.networks.builtin_names import BUILTIN_NAMES, builtin_path
from .io.networks.file_motions import file_vocabulary
from .io.networks.linear_video import (
    LinearVideoFile,
    UnfilledLayers,
    build_linear_video,
    fill_module,
    read_linear_video,
)
from .models.conditions import Conditions
from .models.heads.flow_codec import FlowCodec
from .models.linear_video.network import LinearVideoDiT
from .models.model_spec import LinearVideoSpec
from .text.encoder import MotionTextEncoder
from .text.vocabulary import MotionVocabulary

__all__ = ["BUILTIN_NAMES", "BuiltinModel", "builtin_path", "bundle", "load_builtin"]


@dataclass(frozen=True)
class BuiltinModel:
    """Network, text encoder, vocabulary and codec that belong together."""

    spec: LinearVideoSpec
    dit: LinearVideoDiT
    text_encoder: MotionTextEncoder
    vocabulary: MotionVocabulary
    codec: FlowCodec

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """The prompts as conditions, a row each. Raises ConfigError for words that the model does not know."""
        device = next(self.text_encoder.parameters()).device
        context, pooled, mask = self.text_encoder(
            torch.tensor([self.vocabulary.tokenize(prompt) for prompt in prompts], device=device)
        )  # fmt: skip
        return Conditions(context, mask, pooled)


def load_builtin(
    name: str = "motionblocks-tiny", *, device="cpu", dtype: torch.dtype = torch.float32, kernels: str = "auto"
) -> BuiltinModel:
    """Load a built-in model. dtype is what the network computes in; its text encoder stays float32.

    kernels: backend of the operators, "auto", "torch" or "triton". Raises ConfigError for an unknown name or type
    and for "triton" where it cannot be had, CheckpointError for a damaged file.
    """
    return bundle(read_linear_video(builtin_path(name)), device=device, dtype=dtype, kernels=kernels)


def bundle(
    file: LinearVideoFile, *, device="cpu", dtype: torch.dtype = torch.float32, kernels: str = "auto"
) -> BuiltinModel:
    """Put together a model from a file that has a text encoder and the built-in latent space.

    Raises CheckpointError when the file lacks either, or names motions that this pack cannot read.
    """
    spec = file.spec
    if spec.latent.kind != "builtin" or spec.objective != "i2v_residual" or file.text_encoder is None:
        raise CheckpointError(
            f"the model is for {spec.objective} in the latent space {spec.latent.kind!r}, with "
            f"{'a' if file.text_encoder else 'no'} text encoder; here i2v_residual in 'builtin' with one is needed; "
            "use the ComfyUI nodes and the model's own VAE"
        )
    rows, width = file.text_encoder["embedding.weight"].shape
    vocabulary = file_vocabulary(file.metadata, rows)
    encoder = MotionTextEncoder(rows, width, operations=UnfilledLayers, dtype=torch.float32, device="meta")
    fill_module(encoder, file.text_encoder, dtype=torch.float32, device=device)
    dit = build_linear_video(file, kernels=kernels, dtype=dtype, device=device)
    return BuiltinModel(spec, dit, encoder, vocabulary, FlowCodec(spec.latent.working_size))
