"""Where the frames of a video stand in time for the host's Wan while it is sampled, in place of 0, 1, 2 …

Put into a copy of a call's transformer_options, so that nothing is changed on the network and nothing stays.
"""

from collections.abc import Callable

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...motion.choices import OFF
from ...motion.errors import ConfigError
from ...motion.models.wan.rotary import sparse_places
from .native_wan import SPACE, native_wan
from .native_wan_blocks import PLACE, patches_of

KEY = "motionblocks_frame_places"  # of our wrapper
FACTOR = "factor"  # a mode of its own beside PLACES: every frame so many times as far


def at_places(model, mode: str, num_frames: int, factor: float):
    """A copy of a plain Wan MODEL whose frames stand at places of their own, in place of such an order before.

    mode: see `frame_places`; off takes an order back. Raises ConfigError for other MODELs.
    """
    native_wan(model)
    copy = model.clone()
    copy.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    if mode != OFF:
        whole = (num_frames - 1) // SPACE.temporal_ratio + 1
        copy.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _around_a_call(mode, whole, factor))
    return copy


def frame_places(mode: str, num_latents: int, whole_latents: int, factor: float) -> Tensor:
    """(t,) float32: where the latent frames of a video stand.

    mode: factor, or one of PLACES: where those of `num_latents` sparse frames stand in a clip of `whole_latents`, as
    `sparse_places` says. Raises ConfigError for a video that is longer than the clip.
    """
    if mode == FACTOR:
        return (torch.arange(num_latents, dtype=torch.float64) * factor).float()
    if num_latents == 1:
        return torch.zeros(1)
    if num_latents > whole_latents:
        frames = [(count - 1) * SPACE.temporal_ratio + 1 for count in (num_latents, whole_latents)]
        raise ConfigError(
            f"the video has {frames[0]} frames, and Rope Time Scale is to spread it over num_frames = {frames[1]}; "
            f"set num_frames to {frames[0]} or more, or mode to factor"
        )
    return sparse_places(mode, num_latents, whole_latents)


def _around_a_call(mode: str, whole_latents: int, factor: float) -> Callable:
    """DIFFUSION_MODEL wrapper."""

    def wrapper(executor, x, t, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **more):
        options, network = transformer_options or {}, executor.class_obj
        if time_dim_concat is not None:
            raise ConfigError(MORE_FRAMES)
        places = frame_places(mode, x.shape[2], whole_latents, factor)
        options = _with_places(options, network, places, _grid(network, x))
        return executor(x, t, context, clip_fea, time_dim_concat, options, **more)

    return wrapper


MORE_FRAMES = (
    "a prompt brings frames beside the video's, such as subject images, and Rope Time Scale cannot tell where they "
    "stand; disconnect the node that adds them, or Rope Time Scale"
)


def _grid(network: nn.Module, x: Tensor) -> int:
    """Tokens of a frame."""
    _, h, w = network.patch_size
    return -(-x.shape[3] // h) * -(-x.shape[4] // w)


def _with_places(options: dict, network: nn.Module, places: Tensor, tokens: int) -> dict:
    """A copy of transformer_options in which every block turns frames by these places; other patches stay inside."""
    turns = _Turns(network, places, tokens)
    found = patches_of(options)
    ours = {(PLACE, index): _patch(turns, found.get((PLACE, index))) for index in range(len(network.blocks))}
    return {**options, "patches_replace": {**options.get("patches_replace", {}), "dit": {**found, **ours}}}


class _Turns:
    """The host's turns of a call with the part of time replaced; made once, for all blocks have the same."""

    def __init__(self, network: nn.Module, places: Tensor, tokens: int):
        self._network, self._places, self._tokens = network, places, tokens
        self._host, self._ours = None, None

    def of(self, host: Tensor) -> Tensor:
        """host: (1, n, 1, d / 2, 2, 2). In float32 whatever is computed in: bfloat16 would make 16.75 of 16.8."""
        if self._host is not host:
            embedder, count = self._network.rope_embedder, len(self._places)
            if host.shape[1] != count * self._tokens:
                raise ConfigError(MORE_FRAMES)
            ids = torch.zeros(1, count, 3, device=host.device)
            ids[..., 0] = self._places.to(host.device)
            width = embedder.axes_dim[0] // 2
            time = embedder(ids).movedim(1, 2)[..., :width, :, :].repeat_interleave(self._tokens, dim=1)
            self._host, self._ours = host, torch.cat((time.to(host), host[..., width:, :, :]), dim=-3)
        return self._ours


def _patch(turns: _Turns, before: Callable | None) -> Callable:
    """A block patch of the host that turns by ours. before: the one that runs the block, if any."""

    def run(given: dict, extra: dict) -> dict:
        given = {**given, "pe": turns.of(given["pe"])}
        return extra["original_block"](given) if before is None else before(given, extra)

    return run
