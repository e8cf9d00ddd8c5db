"""Looking at the heads of a network that can be trained: which are temporal, and whether a map is one of this network.

Source: Follow-Your-Motion, arXiv 2506.05207, Sec. 3.2; its released code looks once, at nearly pure noise.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..analysis.head_map import HeadMap, HeadWatch
from ..choices import HEAD_METHODS, MASSES
from ..errors import ConfigError, ShapeError
from .trainee import WatchedTrainee

FIRST_SIGMA = 0.9998  # the released code's timestep 1 of 1000 under shift 5
LOW_SIGMA = 0.7  # for a network that never sees so much noise, such as the low-noise expert of Wan 2.2
ROWS = 256  # looked from in all, spread over the frames; a mass is then off by 0.03 at most
MOST_LOOKS = 64


def rows_per_frame(frames: int) -> int:
    """Tokens looked from in each of so many frames, so that they come to about 256."""
    return max(1, ROWS // frames)


def classify_heads(
    trainee: WatchedTrainee, batch: Mapping[str, Tensor], *, sigmas: Sequence[float] = (FIRST_SIGMA,),
    seeds: Sequence[int] = (0,), per_frame: int | None = None, method: str = MASSES, loras: int = 0,
    on_look: Callable[[int, int], None] | None = None, **settings,
) -> HeadMap:  # fmt: skip
    """Look at every head at every noise level with the noise of every seed, in one forward pass each.

    batch: a row of named tensors as a data set has them; "latents" (1, c, t, h, w) scaled, t at least 3. per_frame:
    tokens looked from in a frame, 0 = all, None = about 256 in all. loras: patched layers, for the record. settings:
    rule, alpha and target_fraction. on_look(done, total) may end it by raising.
    Raises ConfigError and ShapeError.
    """
    looks = [(float(sigma), int(seed)) for sigma in sigmas for seed in seeds]
    if not 1 <= len(looks) <= MOST_LOOKS or not all(0.001 <= sigma <= 1.0 for sigma, _ in looks):
        raise ConfigError(f"{len(looks)} looks at noise levels {', '.join(f'{s:g}' for s in sigmas) or 'none'}; 1 to "
                          f"{MOST_LOOKS} looks at levels from 0.001 to 1 are needed")  # fmt: skip
    if method not in HEAD_METHODS:
        raise ConfigError(f"method is {str(method)[:40]!r}; it must be one of: {', '.join(HEAD_METHODS)}")
    clean = batch["latents"]
    if clean.ndim != 5 or len(clean) != 1:
        raise ShapeError(f"latents are {tuple(clean.shape)}; one clip (1, c, t, h, w) is needed")
    config = trainee.spec.config
    frames, height, width = clean.shape[2], *(side // config.patch_size for side in clean.shape[3:])
    count = rows_per_frame(frames) if per_frame is None else per_frame
    count = 0 if count >= height * width else count
    found = []
    with trainee.session(frozen=True), torch.no_grad():
        here = {name: value.to(trainee.device) for name, value in batch.items()}
        told = trainee.conditions(here)
        for done, (sigma, seed) in enumerate(looks):
            if on_look is not None:
                on_look(done, len(looks))
            watch = HeadWatch(frames, height * width, per_frame=count, seed=seed, method=method)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(here["latents"])
            state = (1 - sigma) * here["latents"] + sigma * noise
            trainee.predict_watched(state, torch.full((1,), sigma, device=state.device), told, watch)
            found.append(watch.figures(config.num_layers))
    if on_look is not None:
        on_look(len(looks), len(looks))
    space, time = torch.stack(found).unbind(1)
    return HeadMap(
        space, time, tuple(looks), frames, height, width, count, method, loras=loras,
        base=trainee.fingerprint(with_weights=True), **settings,
    )  # fmt: skip


def map_remarks(found: HeadMap, trainee: WatchedTrainee) -> list[str]:
    """What to tell of a map that was made on another base. Raises ConfigError for one of a network of other sizes."""
    config = trainee.spec.config
    sizes = (config.num_layers, config.num_attention_heads)
    if (found.num_layers, found.num_heads) != sizes:
        raise ConfigError(
            f"the head map is of {found.num_layers} layers with {found.num_heads} heads, this model has {sizes[0]} "
            f"with {sizes[1]}; classify its own heads"
        )
    now = trainee.fingerprint(with_weights=True)
    of_base = getattr(trainee, "remarks", None)
    if of_base is not None and found.base.keys() == now.keys():
        same = not of_base(dict(found.base))
    else:
        same = dict(found.base) == now
    return [] if same else ["the head map was made on another base; types may differ: classify the heads of this one"]
