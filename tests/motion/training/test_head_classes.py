"""Looking at a network's heads: planted ones are told apart, no bit changes, maps of other networks are noticed."""

from dataclasses import replace

import pytest
import torch
from pack.motion.choices import HEAD_RULES
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.training.head_classes import classify_heads, map_remarks, rows_per_frame
from planted_heads import CONFIG, LAYERS, PLANTED, batch, trainee


@pytest.mark.parametrize("rule", HEAD_RULES)
@pytest.mark.parametrize("per_frame", [0, 12])
def test_planted_heads_are_told_apart_by_both_rules_from_sixty_rows(rule, per_frame):
    found = classify_heads(trainee(), batch(), per_frame=per_frame, rule=rule)
    assert torch.equal(found.temporal, PLANTED)
    assert (found.frames, found.height, found.width, found.per_frame) == (5, 8, 8, per_frame)


def test_looking_changes_no_bit_of_the_answer_and_leaves_the_network_as_it_was():
    network = trainee(checkpointing=True)
    given, heard = batch(), []
    told, sigma = network.conditions(given), torch.tensor([0.9])
    before = [block.self_attn.attention for block in network.module.blocks]
    with torch.no_grad():
        plain = network.predict(given["latents"], sigma, told)
        seen = network.predict_watched(given["latents"], sigma, told, lambda *read: heard.append(read[0]))
    assert torch.equal(plain, seen) and heard == list(range(LAYERS))
    assert before == [block.self_attn.attention for block in network.module.blocks]
    with pytest.raises(KeyboardInterrupt):
        network.predict_watched(given["latents"], sigma, told, _press)
    assert before == [block.self_attn.attention for block in network.module.blocks]


def _press(*read):
    raise KeyboardInterrupt


def test_every_noise_level_and_seed_is_a_look_of_its_own():
    calls = []
    found = classify_heads(trainee(), batch(), sigmas=(0.9, 0.5), seeds=(0, 1), on_look=lambda *at: calls.append(at))
    assert found.looks == ((0.9, 0), (0.9, 1), (0.5, 0), (0.5, 1)) and calls == [(n, 4) for n in range(5)]
    assert found.per_frame == rows_per_frame(5) == 51 and found.changing == 0.0
    again = classify_heads(trainee(), batch(), sigmas=(0.9, 0.5), seeds=(0, 1))
    assert torch.equal(found.space, again.space) and found.fingerprint == again.fingerprint


def test_the_method_svg_tells_planted_heads_apart_too():
    found = classify_heads(trainee(), batch(frames=7), method="svg")
    assert torch.equal(found.temporal, PLANTED)


def test_cancel_in_the_middle_passes_and_leaves_gradients_as_they_were():
    network = trainee()

    def press(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify_heads(network, batch(), seeds=(0, 1), on_look=press)
    assert all(value.requires_grad for value in network.module.parameters())


def test_a_map_of_the_same_base_is_taken_silently_one_of_another_is_told_and_other_sizes_are_refused():
    found = classify_heads(trainee(), batch())
    assert map_remarks(found, trainee()) == []
    assert "another base" in map_remarks(found, trainee(~PLANTED))[0]
    deeper = replace(CONFIG, num_layers=3)
    with pytest.raises(ConfigError, match="of 2 layers with 4 heads, this model has 3 with 4; classify its own"):
        map_remarks(found, trainee(torch.zeros(3, 4), deeper))


@pytest.mark.parametrize("more, said", [
    ({"sigmas": ()}, "0 looks at noise levels none"), ({"sigmas": (1.5,)}, "levels from 0.001 to 1"),
    ({"seeds": range(65)}, "65 looks"), ({"method": "mine"}, "method is 'mine'"), ({"rule": "mine"}, "rules release"),
])  # fmt: skip
def test_what_cannot_be_looked_at_is_refused_in_words(more, said):
    with pytest.raises(ConfigError, match=said):
        classify_heads(trainee(), batch(), **more)


def test_two_latent_frames_are_too_few():
    with pytest.raises(ShapeError, match="2 latent frames; 3 are needed"):
        classify_heads(trainee(), batch(frames=2))
    with pytest.raises(ShapeError, match="one clip"):
        classify_heads(trainee(), {**batch(), "latents": torch.zeros(2, 16, 5, 8, 8)})
