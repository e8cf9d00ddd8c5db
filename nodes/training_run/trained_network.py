"""The network of a run: a copy of one of our own MODELs, or the host's own Wan where it lies."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from ...motion.data.latent_dataset import LatentDataset
from ...motion.models.conditions import Conditions
from ...motion.training.trainee import Trainee
from ...motion.training.trainees.linear_video import LinearVideoTrainee
from ..host import devices
from . import trainable_copy
from .native_trainee import NativeWanTrainee
from .request import Request
from .settings import EXPERT_NAMES


class CopiedNetwork:
    """One of ours: its patches are worked into a copy, which is trained or stands still beside an adapter."""

    def __init__(self, request: Request):
        """Raises ConfigError for a MODEL whose copy would lack what other nodes did to it."""
        trainable_copy.refuse_what_is_no_weight(request.model)
        self.request, self.network = request, None

    def trainee(self, dataset: LatentDataset) -> Trainee:
        """The copy, ready to be trained; other models are off the device then."""
        request, loop = self.request, self.request.config.loop
        devices.unload_models()
        self.network = trainable_copy.trainable_copy(
            request.model, request.spec, devices.compute_device(), frozen=request.config.adapter.mode == "lora"
        )
        return LinearVideoTrainee(
            self.network, request.spec, checkpointing=loop.gradient_checkpointing, blocks_on_cpu=loop.blocks_on_cpu
        )

    @contextmanager
    def sampling(self) -> Iterator[Callable[..., Tensor]]:
        """The network as samples are drawn from it; its mode comes back as it was."""
        was_training = self.network.training
        self.network.eval()
        try:
            yield self.network
        finally:
            self.network.train(was_training)

    def metadata(self) -> dict[str, str]:
        """What the file of weights says of the base."""
        return dict(getattr(self.request.model.model, "origin", {}))

    def close(self) -> None:
        self.network = None


class NativeNetwork:
    """The host's own Wan: an adapter is trained beside it, in one session from the first sample to the last."""

    def __init__(self, request: Request):
        """Raises ConfigError for a MODEL that gradients do not pass."""
        self.request = request
        saving = request.config.loop.gradient_checkpointing
        self._trainee = NativeWanTrainee(request.wan, checkpointing=saving)
        self._open = ExitStack()

    def trainee(self, dataset: LatentDataset) -> Trainee:
        """See `CopiedNetwork`."""
        config = self.request.config
        videos = config.loop.batch_size * (2 if config.adapter.masked else 1)  # masks are a video beside each
        self._trainee.expect((videos, *shape) for shape in dataset.shapes)
        self._open.enter_context(self._trainee.native.held())
        return self._trainee

    @contextmanager
    def sampling(self) -> Iterator[Callable[..., Tensor]]:
        """See `CopiedNetwork`. The VAE of a sample may move weights off the device: they come back."""
        self._trainee.native.load()
        try:
            yield self._velocity
        finally:
            self._trainee.native.load()

    def metadata(self) -> dict[str, str]:
        """See `CopiedNetwork`."""
        expert = EXPERT_NAMES[self.request.expert]
        return self._trainee.metadata() | ({"expert": expert} if expert else {})

    def close(self) -> None:
        self._open.close()

    def _velocity(self, latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        return self._trainee.native.velocity(latents, timestep, conditions)


def network_of(request: Request) -> CopiedNetwork | NativeNetwork:
    """Raises ConfigError as the two do."""
    return CopiedNetwork(request) if request.wan is None else NativeNetwork(request)
