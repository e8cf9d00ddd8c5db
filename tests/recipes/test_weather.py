"""Rain and snow beside a trained network: its own words stay what they are, and the head learns from keys alone."""

import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.errors import ConfigError
from pack.motion.models.heads.skip_head import SkipHead
from pack.motion.training.config import TrainingConfig
from pack.motion.training.task import SampleKey
from pack.motion.training.trainer import Trainer
from pack.recipes.weather import WeatherRecipe, WeatherTask, add_words, build_head, fit_gate, prompts_of, with_head

RECIPE = WeatherRecipe(size=64, crop=32, num_frames=3, num_textures=4)


@pytest.fixture(scope="module")
def task():
    tiny = load_builtin("motionblocks-tiny")
    spec = with_head(tiny.spec, channels=8, deviation=0.1)
    encoder, words = add_words(tiny.text_encoder, tiny.vocabulary.words, RECIPE.aside, seed=0)
    return WeatherTask(build_head(spec, seed=0), encoder, words, RECIPE)


def keys(*indices, step=0):
    return [SampleKey(5, step, index) for index in indices]


def test_new_words_leave_the_old_ones_as_they_are_and_say_still_with_an_accent(task):
    tiny = load_builtin("motionblocks-tiny")
    words = tiny.vocabulary.words
    before, after = tiny.text_encoder.embedding.weight, task.encoder.embedding.weight
    assert task.vocabulary.words == (*words, "rain", "snow") and torch.equal(after[: len(before)], before)
    still = before[words.index("still") + 1]
    aside = (after[-2:] - still).norm(dim=1) / still.norm()
    assert torch.allclose(aside, torch.full((2,), RECIPE.aside), atol=1e-5)


def test_words_that_are_there_already_are_refused(task):
    with pytest.raises(ConfigError, match="neither rain nor snow"):
        add_words(task.encoder, task.vocabulary.words, 0.3, seed=0)


def test_a_sample_depends_on_its_key_and_not_on_who_else_is_drawn(task):
    together, alone = task.draw(keys(0, 1, 2)), task.draw(keys(1))
    assert alone.captions == together.captions[1:2]
    for name in ("picture", "fallen", "noise", "sigma", "indices", "bucket", "ids"):
        assert torch.allclose(getattr(alone, name), getattr(together, name)[1:2], atol=1e-5), name


def test_something_falls_in_every_sample_and_frame_0_is_never_among_them(task):
    batch = task.draw(keys(*range(20)))
    assert (batch.fallen.abs().amax((1, 2, 3, 4)) > 0.05).float().mean() > 0.9
    assert {text for text in batch.captions if "," in text} and batch.indices.min() >= 1 and batch.bucket.min() >= 1


def test_the_fitted_gate_opens_for_every_prompt_with_weather_and_is_shut_to_the_bit_for_all_others(task):
    margin = fit_gate(task.head, task.encoder, task.vocabulary.words)
    ids, falls = prompts_of(task.vocabulary.words)
    with torch.no_grad():
        gate = task.head.gate(task.encoder(ids)[1], torch.full((len(ids),), 12))
    assert margin > 4 and falls.any() and not falls.all()
    assert (gate[falls] > 0.98).all() and (gate[~falls] == 0).all()


@pytest.mark.slow
def test_the_head_learns_to_tell_weather_from_noise_and_the_text_stays(task):
    tiny = load_builtin("motionblocks-tiny")
    head = SkipHead(with_head(tiny.spec, 8, 0.1).config, operations=torch.nn)
    head.load_state_dict(task.head.state_dict())
    learner = WeatherTask(head, task.encoder, task.vocabulary.words, RECIPE)
    before = task.encoder.embedding.weight.clone()
    config = TrainingConfig.of(num_steps=20, batch_size=4, learning_rate=8e-3, warmup_steps=2, mode="full")
    losses = Trainer(learner, config).run().losses
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert torch.equal(task.encoder.embedding.weight, before)
