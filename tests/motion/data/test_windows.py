"""Windows whose numbers the architecture chooses, and windows for VAEs that take several frames a latent."""

import pytest
import torch
from pack.motion.data.clips import Clip
from pack.motion.data.windows import WindowConfig, cut_windows
from pack.motion.errors import ConfigError
from pack.motion.models.architecture import TrainingDefaults
from pack.motion.models.latent_spaces import SPACES

OWN = TrainingDefaults(num_frames=81, stride_min=1, stride_max=2, fps=16.0, targets=("self_attn",))


def clip(num_frames):
    return Clip("a", "", num_frames, 16.0, 8, 8, "mark", lambda indices: torch.zeros(len(indices), 3, 8, 8))


def test_a_zero_means_the_models_own_and_is_told():
    windows, notes = WindowConfig(num_frames=0, stride_min=0, stride_max=0).resolved(OWN, SPACES["wan21"])
    assert (windows.num_frames, windows.stride_min, windows.stride_max) == (81, 1, 2)
    assert notes == tuple(f"{name}: the model's own" for name in ("num_frames 81", "stride_min 1", "stride_max 2"))


def test_what_is_asked_for_stays_where_the_space_holds_it():
    asked = WindowConfig(num_frames=17, stride_min=2, stride_max=2, windows_per_clip=9, resolution=64, seed=5)
    assert asked.resolved(OWN, SPACES["wan21"]) == (asked, ())
    sixteen = WindowConfig(stride_min=2)
    assert sixteen.resolved(OWN, SPACES["dcae"]) == (sixteen, ())


def test_strides_above_all_of_the_models_own_are_told_and_kept():
    asked = WindowConfig(num_frames=17, stride_min=3, stride_max=10)
    windows, (note,) = asked.resolved(OWN, SPACES["wan21"])
    assert windows == asked
    assert note.startswith("stride_min 3 is above the model's own 2: ") and "up to 10 times as fast" in note


@pytest.mark.parametrize("own, fitting", [(81, 81), (16, 17), (17, 17), (20, 21)])
def test_a_count_the_space_cannot_hold_becomes_the_models_own(own, fitting):
    defaults = TrainingDefaults(num_frames=own, stride_min=3, stride_max=10, fps=24.0, targets=("ff",))
    windows, notes = WindowConfig(num_frames=16).resolved(defaults, SPACES["wan21"])
    assert windows.num_frames == fitting
    assert notes == (f"num_frames {fitting}: the model's own, as Wan 2.1 VAE holds it; 16 is not 4k + 1",)


def test_a_stride_that_the_models_own_contradicts_is_refused():
    with pytest.raises(ConfigError, match="stride_min 5 is above stride_max 2"):
        WindowConfig(stride_min=5, stride_max=0).resolved(OWN, SPACES["dcae"])


@pytest.mark.parametrize("have, cut", [(40, 17), (17, 17), (16, 13), (9, 9), (5, 5), (4, 1)])
def test_windows_have_whole_latent_frames_and_short_clips_give_shorter_ones(have, cut):
    windows = cut_windows(clip(have), WindowConfig(num_frames=17, stride_min=1, stride_max=2), temporal_ratio=4)
    assert windows and {window.num_frames for window in windows} == {cut}
    assert all(window.indices[-1] < have for window in windows)


def test_a_clip_too_short_for_two_latent_frames_is_refused_by_name():
    with pytest.raises(ConfigError, match="a: windows of 1 frame; this model needs at least 5"):
        cut_windows(clip(4), WindowConfig(num_frames=17), at_least=5, temporal_ratio=4)
