"""The host's own Wan as a trainee of the library."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict

from torch import Tensor

from ...motion.adapters.base_sample import CHANNELS, BaseSample, wan_sample
from ...motion.adapters.lora import able_layers, weight_shape
from ...motion.adapters.protocol import Adapter
from ...motion.analysis.head_map import HeadWatch
from ...motion.errors import ConfigError
from ...motion.models.architectures import ARCHITECTURES
from ...motion.models.conditions import Conditions
from ...motion.models.wan.spec import WanSpec
from ...motion.sampling.schedules import sigma_to_timestep
from ...motion.training.trainees.base import DescribedNetwork
from ...motion.training.trainees.wan import WanObjective
from ..host import devices
from ..models.native_wan import SCENE, NativeWan, wan_config
from .native_session import NativeSession
from .trainable_copy import NETWORK, worked_in

MARGIN = 1.3  # of what the host is asked to keep free: allocators round up, libraries take workspaces
GIB = 2**30
BASE = "base_sample"  # in the fingerprint


class NativeWanTrainee(WanObjective, DescribedNetwork):
    """See `Trainee` and `WanObjective`: answers as our own network of the same weights does, in the host's layers.

    Only adapters beside it are trained. Raises ConfigError for a MODEL that gradients do not pass.
    """

    def __init__(self, wan: NativeWan, *, checkpointing: bool = False):
        super().__init__(wan.network, native_spec(wan))
        self.wan, self.native = wan, NativeSession(wan, checkpointing=checkpointing)
        self.device = devices.compute_device()
        self.base = base_of(wan)

    def expect(self, shapes) -> None:
        """Tell how large batches are, (b, c, t, h, w), before the session begins, so that room is kept for them."""
        self.native.needed_bytes = int(MARGIN * max(map(self._needed, shapes), default=0))

    def predict(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """See `Trainee`."""
        timestep = sigma_to_timestep(sigma, integer=self.sampling.integer_timesteps)
        return self.native.velocity(latents, timestep, conditions)

    def predict_watched(self, latents: Tensor, sigma: Tensor, conditions: Conditions, watch: HeadWatch) -> Tensor:
        """See `WatchedTrainee`."""
        timestep = sigma_to_timestep(sigma, integer=self.sampling.integer_timesteps)
        return self.native.velocity(latents, timestep, conditions, watch)

    @contextmanager
    def session(self, *, frozen: bool) -> Iterator[None]:
        """See `Trainee`. Raises ConfigError for weights of its own that are to be trained."""
        if not frozen:
            raise ConfigError(ADAPTERS_ONLY)
        with self.native.held():
            yield

    def holding(self, adapter: Adapter) -> AbstractContextManager:
        """See `Trainee`."""
        return self.native.holding(adapter)

    def fingerprint(self, *, with_weights: bool) -> dict:
        """See `Trainee`; of the base a few values, whose difference is told and refuses nothing."""
        parts = {"model": {"config": asdict(self.spec.config), "sampling": self.sampling.to_dict()}}
        return {**parts, BASE: asdict(self.base) | {"values": list(self.base.values)}} if with_weights else parts

    def metadata(self) -> dict[str, str]:
        """What an adapter's file says of its base: number type, channels, values by which another one is noticed."""
        channels = {CHANNELS: str(self.wan.channels)}
        return {"base_precision": self._precision(), **channels, **self.base.to_metadata()}

    def remarks(self, before: dict) -> list[str]:
        """See `Trainee`: a base that is not the one trained beside so far."""
        earlier = BaseSample.of_plain(before.get(BASE))
        if earlier is None or not earlier.is_of_another_base_than(self.base):
            return []
        return ["the base is another one than the run began with; of Wan 2.2 each expert needs a run of its own"]

    def save_memory(self, shape: tuple[int, ...]) -> str:
        """See `Task`: checkpointing first; then ConfigError with the estimate."""
        devices.release_memory()
        if not self.native.checkpointing:
            self.native.checkpointing = True
            return "gradient_checkpointing is on from here"
        b, _, t, h, w = shape
        cell = self.space.spatial_ratio
        raise ConfigError(
            f"out of memory with gradient_checkpointing on: a step on {b} videos of {self.space.frames(t)} frames, "
            f"{w * cell}x{h * cell} px, needs about {self._needed(shape) / GIB:.1f} GiB beside the weights; lower "
            "resolution, num_frames or batch_size, or load the model in fp8"
        )

    def _precision(self) -> str:
        """The number type that most of the base lies in."""
        weights = [layer.weight for layer in able_layers(self.wan.blocks).values()]
        kinds = Counter(getattr(value, "_qdata", value).dtype for value in weights)  # quantised ones say what they mean
        return str(kinds.most_common(1)[0][0]).removeprefix("torch.")

    def _needed(self, shape: tuple[int, ...]) -> int:
        """Bytes of a step beside the weights, for latents of this shape (b, c, t, h, w)."""
        config, native = self.spec.config, self.native
        memory, itemsize = ARCHITECTURES.of(self.spec).memory, native.dtype.itemsize
        kept = memory.training_bytes(config, tuple(shape), itemsize=itemsize, checkpointing=native.checkpointing)
        copies = itemsize * sum(math.prod(weight_shape(layer)) for layer in able_layers(self.wan.blocks).values())
        return kept + (copies // config.num_layers if native.checkpointing else copies)


ADAPTERS_ONLY = "the host's own Wan is trained by a LoRA beside it; set mode to lora"


def native_spec(wan: NativeWan) -> WanSpec:
    """What is known of a MODEL beside its weights: of a small Wan that comes with the pack, what its file says."""
    return wan.patcher.get_attachment(SCENE) or WanSpec(wan_config(wan.network))


def base_of(wan: NativeWan) -> BaseSample:
    """Which base a MODEL is, told by a few of its values, with what LoRAs make of them."""

    def weight(name: str) -> Tensor:
        ((key, chain),) = wan.patcher.get_key_patches(NETWORK + name).items()
        return chain[0][0] if len(chain) == 1 else worked_in(key, chain)

    return wan_sample(len(wan.blocks), weight)
