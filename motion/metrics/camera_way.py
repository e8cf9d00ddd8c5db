"""How far the picture as a whole moves through a clip, as a length that fits every shape and number of frames.

Median flow depends on where a photo has its texture: near the middle of a zoom little moves. So shift, zoom and turn
are fitted first, and the way of points a quarter of the long side from the middle stands for all.
"""

import cmath
import math
from collections.abc import Callable

from torch import Tensor

from .motion_track import shrink
from .optical_flow import CameraMotion, pair_motion

RADIUS = 0.25  # of the long side: the circle of points whose way is taken
STEP_PX = 3.0  # frames closer than this to the last one that counted are passed over: rounding would add up


def way_of(motion: CameraMotion, long_side: float) -> float:
    """Way of one motion about the middle, in % of the long side: root mean square over the circle of RADIUS.

    motion: in the unit of long_side.
    """
    turned = cmath.rect(motion.zoom, math.radians(motion.degrees))
    return 100 * math.hypot(motion.dx / long_side, motion.dy / long_side, abs(turned - 1) * RADIUS)


def camera_way(frames: Tensor, *, on_step: Callable[[int, int], None] | None = None) -> float:
    """Length of the way that the picture as a whole takes from the first frame to the last, in % of its long side.

    frames: (t, h, w, c), t >= 2, c 1 or 3, in [0, 1], sides at least 16 px. There and back counts twice; what only a
    part of the picture does counts nothing. on_step(done, total) may raise to cancel.
    Raises ShapeError as `optical_flow.dense_flow`, ConfigError without cv2.
    """
    small, _ = shrink(frames)
    long_side = max(small.shape[1:3])
    before, total, since = small[0], 0.0, 0.0
    for index, frame in enumerate(small[1:], 1):
        since = way_of(pair_motion(before, frame), long_side)
        if since * long_side / 100 > STEP_PX:
            before, total, since = frame, total + since, 0.0
        if on_step:
            on_step(index, len(small) - 1)
    return total + since
