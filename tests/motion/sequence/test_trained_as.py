"""What files say of the sequences that a network knows."""

import pytest
from pack.motion.errors import ConfigError
from pack.motion.sequence.trained_as import TrainedAs


@pytest.mark.parametrize("told", [TrainedAs(), TrainedAs("separate", "clean", "segment", "1")])
def test_what_was_written_is_read(told):
    assert TrainedAs.of({"rank": "16", **told.to_metadata()}) == told


def test_a_file_that_says_nothing_of_sequences_is_none_of_them():
    assert TrainedAs.of({"rank": "16", "pose_renderer": "1"}) is None


def test_the_paper_is_the_default_and_switches_follow_their_words():
    assert not TrainedAs().clean_timestep and not TrainedAs().in_segments and TrainedAs().mode == "joint"
    assert TrainedAs(timestep="clean").clean_timestep and TrainedAs(attention="segment").in_segments


@pytest.mark.parametrize("entry, value", [
    ("sequence_mode", "both"), ("sequence_timestep", "two"), ("sequence_attention", "causal"),
])  # fmt: skip
def test_unknown_words_are_refused_with_the_known(entry, value):
    with pytest.raises(ConfigError, match=f"{entry} is '{value}'; known are "):
        TrainedAs.of({"sequence_mode": "joint", entry: value})
