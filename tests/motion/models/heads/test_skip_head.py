"""The skip head: off it is not there, shut it changes nothing, open it adds what it reads from the noise."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.models.conditions import Conditions
from pack.motion.models.heads.skip_head import SkipHead, scalings, to_coefficients, to_pixels
from pack.motion.models.linear_video.config import LinearVideoDiTConfig
from pack.motion.models.linear_video.network import LinearVideoDiT
from training_toys import flow_spec, losses_of

SKIP = replace(flow_spec().config, skip_channels=8, skip_deviation=0.3)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def networks():
    """The same network without the head, and with one whose weights are random."""
    torch.manual_seed(0)
    plain, headed = LinearVideoDiT(flow_spec().config), LinearVideoDiT(SKIP)
    missing, unexpected = headed.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("skip_head.") for name in missing)
    return plain, headed


@pytest.fixture
def inputs():
    width = SKIP.caption_channels
    first = numbers(2, 200, 1, 4, 4, seed=1) * 0.2
    seen = torch.cat((first, first + 0.5 * numbers(2, 200, 3, 4, 4, seed=2)), 2)
    return {"latents": seen, "timestep": torch.tensor([400.0, 900.0]), "context": numbers(2, 3, width, seed=3),
            "pooled": numbers(2, width, seed=4), "motion_bucket_id": torch.tensor([3, 12]), "first_latent": first}


def call(network, inputs):
    """What a network answers to the inputs."""
    told = {name: value for name, value in inputs.items() if name not in ("latents", "timestep")}
    return network(inputs["latents"], inputs["timestep"], Conditions(**told))


@torch.no_grad()
def set_gate(head: SkipHead, value: float):
    head.linear_gate.weight.zero_()
    head.linear_gate.bias.fill_(value)


def test_off_is_the_default_and_the_network_has_no_trace_of_it(networks):
    assert LinearVideoDiTConfig().skip_channels == 0
    assert not any("skip" in name for name in networks[0].state_dict())
    before = {name: value for name, value in SKIP.to_dict().items() if not name.startswith("skip")}
    assert LinearVideoDiTConfig.from_dict(before) == flow_spec().config, "files of before the flag read as flag off"


def test_a_shut_gate_is_the_network_without_the_head_to_the_bit(networks, inputs):
    plain, headed = networks
    set_gate(headed.skip_head, -6.0)
    with torch.no_grad():
        assert torch.equal(call(plain, inputs), call(headed, inputs))
        set_gate(headed.skip_head, 3.0)
        assert not torch.equal(call(plain, inputs), call(headed, inputs))


def test_only_rows_with_an_open_gate_change_and_never_frame_0_or_the_flow(networks, inputs):
    plain, headed = networks
    head = headed.skip_head
    with torch.no_grad():
        head.linear_gate.weight.zero_()
        head.linear_gate.weight[:, 0] = 20.0  # the first number of the prompt opens or shuts
        head.linear_gate.bias.zero_()
        inputs["pooled"][:, 0] = torch.tensor([2.0, -2.0])
        velocity = [call(net, inputs) for net in (plain, headed)]
    changed = (velocity[0] != velocity[1]).flatten(3).any(-1)  # (b, c, t)
    assert changed[0, :192, 1:].all() and not changed[1].any()
    assert not changed[:, :, 0].any() and not changed[:, 192:].any()


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.95])
def test_scalings_give_input_and_target_unit_size_and_the_skip_is_the_best_linear_answer(sigma):
    q = 0.3 * numbers(400_000, seed=5).double()
    x = (1 - sigma) * q + sigma * numbers(400_000, seed=6).double()
    c_in, c_skip, c_out = (float(value) for value in scalings(torch.tensor(sigma, dtype=torch.float64), 0.3))
    assert float((c_in * x).std()) == pytest.approx(1, abs=0.01)
    assert float(((q - c_skip * x) / c_out).std()) == pytest.approx(1, abs=0.01)
    assert c_skip == pytest.approx(float((q * x).mean() / x.square().mean()), abs=0.01)


def test_with_a_silent_net_the_answer_is_the_skip_alone(inputs):
    head = SkipHead(SKIP, operations=torch.nn).double()
    set_gate(head, 40.0)
    torch.nn.init.zeros_(head.conv_out.weight)
    torch.nn.init.zeros_(head.conv_out.bias)
    clean = numbers(2, 200, 4, 4, 4, seed=7).double()
    sigma = torch.tensor([0.4, 0.9], dtype=torch.float64)
    seen, first = inputs["latents"].double(), inputs["first_latent"].double()
    with torch.no_grad():
        found = head(clean, seen, sigma, first, torch.arange(4), inputs["pooled"].double(), inputs["motion_bucket_id"])
    for row, level in enumerate(sigma.tolist()):
        c_skip = (1 - level) * 0.09 / ((1 - level) ** 2 * 0.09 + level**2)
        rest = seen[row, :192, 1:] - level * first[row, :192] - (1 - level) * clean[row, :192, 1:]
        assert torch.allclose(found[row, :192, 1:].double(), clean[row, :192, 1:] + c_skip * rest, atol=1e-4)


def test_a_frame_is_told_by_its_neighbours_and_not_by_frames_out_of_reach(inputs):
    head = SkipHead(SKIP, operations=torch.nn)
    said = torch.tensor([0.5]), torch.arange(1, 13)[None], inputs["pooled"][:1], torch.tensor([5]), torch.float32
    scales = head.scales(*said)
    rest, picture = numbers(1, 3, 12, 32, 32, seed=8), numbers(1, 3, 12, 32, 32, seed=9)
    other = rest.clone()
    other[:, :, 0] += 1
    with torch.no_grad():
        moved = [head.estimate(x, picture, torch.tensor([0.5]), scales) for x in (rest, other)]
    changed = (moved[0] != moved[1]).flatten(3).any(-1)[0].any(0)
    assert changed[:2].all() and not changed[6:].any()


def test_coefficients_and_pixels_are_each_others_inverse():
    latents = numbers(2, 192, 3, 2, 2, seed=10)
    assert torch.allclose(to_coefficients(to_pixels(latents)), latents, atol=1e-5)


def test_at_bucket_0_nothing_is_carried(networks, inputs):
    plain, headed = networks
    set_gate(headed.skip_head, 5.0)
    inputs["motion_bucket_id"] = torch.tensor([0, 1])
    with torch.no_grad():
        one, other = call(plain, inputs), call(headed, inputs)
    assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


def test_one_frame_has_nothing_to_carry(networks, inputs):
    plain, headed = networks
    set_gate(headed.skip_head, 5.0)
    inputs["latents"] = inputs["latents"][:, :, :1]
    with torch.no_grad():
        assert torch.equal(call(plain, inputs), call(headed, inputs))


def test_without_a_bucket_the_models_own_default_counts(networks, inputs):
    headed = networks[1]
    del inputs["motion_bucket_id"]
    with torch.no_grad():
        default = call(headed, inputs)
        named = call(headed, inputs | {"motion_bucket_id": torch.full((2,), SKIP.default_motion_bucket)})
    assert torch.equal(default, named)


def test_without_a_flow_head_the_network_gives_the_residual(inputs):
    torch.manual_seed(0)
    dit = LinearVideoDiT(replace(SKIP, flow_channels=0))
    set_gate(dit.skip_head, -6.0)
    with torch.no_grad():
        raw, velocity = call(dit.predict_raw, inputs), call(dit, inputs)
    sigma = (inputs["timestep"] / 1000).view(-1, 1, 1, 1, 1)
    assert torch.allclose(inputs["latents"] - sigma * velocity, raw + inputs["first_latent"], atol=1e-4)


def test_training_counts_what_the_head_adds(inputs):
    spec, clean, noise = replace(flow_spec(), config=SKIP), inputs["latents"], numbers(2, 200, 4, 4, 4, seed=11)
    sigma, raw = torch.tensor([0.4, 0.9]), numbers(2, 200, 4, 4, 4, seed=12)
    batch = {"latents": clean, "noise": noise, "sigma": sigma}
    losses = partial(losses_of, raw, batch, spec, flow_weight=0.0)
    assert losses(skip_head=lambda found, **told: clean)[0].abs().max() == 0
    assert losses(skip_head=lambda found, **told: found)[0].min() > 0


@pytest.mark.parametrize("change", [{"prediction": "velocity", "flow_channels": 0}, {"pooled_text_embedding": False},
                                    {"skip_deviation": 0.0}, {"skip_channels": -1}])
def test_settings_that_cannot_work_are_refused_by_name(change):
    with pytest.raises(ConfigError, match="skip"):
        replace(SKIP, **change)
