"""The two networks that share the noise levels of a Wan 2.2 A14B model.

Source: the published configs wan_t2v_A14B.py and wan_i2v_A14B.py of Wan 2.2, `boundary`.
"""

from .config import PUBLISHED, WanConfig

HIGH, LOW = EXPERTS = ("high_noise", "low_noise")
BOUNDARY = {False: 0.875, True: 0.9}  # of sigma, by whether there is a start video
ALL_LEVELS = "all noise levels are trained; if this is an expert of Wan 2.2 A14B, whose sizes it has, "


def noise_range(config: WanConfig, expert: str) -> tuple[float, float]:
    """The sigmas (least, largest) that a network is asked at; expert: of EXPERTS, "" for one that has them all."""
    boundary = BOUNDARY[config.concat_channels > 0]
    return {HIGH: (boundary, 1.0), LOW: (0.0, boundary)}.get(expert, (0.0, 1.0))


def may_be_expert(config: WanConfig) -> bool:
    """Whether a network has the sizes of an expert; Wan 2.1 14B text to video has them too."""
    return config in (PUBLISHED["A14B T2V"], PUBLISHED["A14B I2V"])
