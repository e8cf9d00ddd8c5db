"""The motions a model file knows travel in its metadata."""

import json

import pytest
from pack.motion.builtin_model import bundle, load_builtin
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.networks.builtin_names import builtin_path
from pack.motion.io.networks.file_motions import builtin_models_that_know, file_motions, file_vocabulary
from pack.motion.io.networks.linear_video import read_linear_video, save_linear_video
from pack.motion.text.vocabulary import MOTIONS


def test_a_file_that_names_none_knows_the_nine_of_the_first_edition():
    assert file_motions({}) == MOTIONS and len(MOTIONS) == 9
    assert load_builtin("motionblocks-tiny").vocabulary.words == MOTIONS


def test_named_motions_are_read_in_their_order():
    words = ("rain", "pan left", "slide up")
    assert file_vocabulary({"motions": json.dumps(words)}, 4).words == words


@pytest.mark.parametrize("entry", [
    "", "[", "{}", "[]", "[1]", '["fly"]', '["rain", "rain"]', '"rain"', "[" * 10000, "[" * 90 + "]" * 90, "5", "null",
    "true", "NaN", '{"rain": 1}', '[["rain"]]', '["rain", null]', '["pan "]', json.dumps(["rain"] * 2000),
])  # fmt: skip
def test_an_entry_that_is_no_list_of_motions_is_refused(entry):
    with pytest.raises(CheckpointError, match="'motions'"):
        file_motions({"motions": entry})


def test_another_number_of_rows_than_motions_is_refused_with_both_numbers():
    with pytest.raises(CheckpointError, match="3 motions.*2 are named"):
        file_vocabulary({"motions": '["rain", "snow"]'}, 4)


def test_a_saved_file_takes_its_motions_along_and_its_errors_list_them(tmp_path):
    tiny = read_linear_video(builtin_path("motionblocks-tiny"))
    words = ["pan left", "slide left", "bounce"]
    text = {**tiny.text_encoder, "embedding.weight": tiny.text_encoder["embedding.weight"][:4]}
    path = tmp_path / "own.safetensors"
    save_linear_video(path, tiny.spec, tiny.state_dict, text, extra_metadata={"motions": json.dumps(words)})
    vocabulary = bundle(read_linear_video(path)).vocabulary
    assert vocabulary.words == tuple(words)
    assert vocabulary.tokenize("slide left")[0] == 2
    with pytest.raises(ConfigError, match="pan left, slide left, bounce"):
        vocabulary.tokenize("rain")


@pytest.mark.parametrize("word", ["snow", "snowing", "bounce", "waterfall"])
def test_a_word_of_another_builtin_model_is_refused_with_its_name(word):
    vocabulary = load_builtin("motionblocks-tiny").vocabulary
    with pytest.raises(ConfigError, match=f"unknown word '{word}'.*the model motionblocks-small knows it.*pan left"):
        vocabulary.tokenize(word)
    assert builtin_models_that_know("dragon") == [] and len(builtin_models_that_know("zoom")) == 2
