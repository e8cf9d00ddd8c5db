"""The objectives that kinds of models are trained by, by name."""

from collections.abc import Callable

from torch import Tensor

from ..config import ObjectiveConfig
from ..trainee import Trainee
from .clean_estimate import CleanEstimate
from .flow import Flow, FlowAfterFirst
from .masked_streams import MaskedStreams
from .noise_levels import NoiseLevels
from .objective import Objective
from .residual import Residual

OBJECTIVES = {kind.name: kind for kind in (Residual, Flow, FlowAfterFirst, CleanEstimate)}


def own_objective(trainee: Trainee, config: ObjectiveConfig) -> Objective:
    """What this network's kind of model is trained by, with these settings."""
    return OBJECTIVES[trainee.own_objective].of(config, trainee)


def motion_objective(trainee: Trainee, config: ObjectiveConfig) -> Objective:
    """What a motion adapter beside this network is trained by: its own, or one with a clean first frame."""
    return FlowAfterFirst.of(config, trainee) if trainee.clean_first_frame else own_objective(trainee, config)


def masked_objective(
    trainee: Trainee, config: ObjectiveConfig, scores_of: Callable[[Tensor], Tensor]
) -> MaskedStreams:  # fmt: skip
    """What a masked motion adapter beside this network is trained by. scores_of: see `MaskedStreams`."""
    return MaskedStreams(NoiseLevels.of(config, trainee.sampling), scores_of)
