"""Rope Time Scale on the host's own Wan: where frames stand, beside what others set, and back again."""

import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from comfy.patcher_extension import WrappersMP
from native_training import differences, native_model, seen
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.rotary import sparse_places
from pack.nodes.models.native_wan_adapters import attach
from pack.nodes.models.native_wan_places import KEY, frame_places
from tiny_wan import apart
from wan_adapters import CrossFrame

TOKENS = tiny.GRID[0] * tiny.GRID[1]
TIME = 22  # of the 64 pairs of a head, those that turn with time


@pytest.fixture(scope="module")
def model():
    return native_model()


@pytest.fixture
def place(ours):
    def run(model, mode="factor", **more):
        return ours["RopeTimeScale"].execute(model, mode=mode, **more).args[0]

    return run


def call(model, frames=5, options=None, dtype=torch.float32, **more):
    """One call of the network as the MODEL's options have it: its answer, and the turns that block 1 was given."""
    heard = []

    def listen(given, extra):
        heard.append(given["pe"])
        return extra["original_block"](given)

    told = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
            "patches_replace": {"dit": {("double_block", 1): listen}}}  # fmt: skip
    x, context = tiny.randn(1, 16, frames, tiny.SIDE, tiny.SIDE).to(dtype), tiny.randn(1, 6, tiny.TEXT).to(dtype)
    network = model.model.diffusion_model
    with torch.no_grad():
        out = network(x, torch.tensor([700.0]), context, transformer_options={**told, **(options or {})}, **more)
    (turns,) = heard
    return out, turns


def test_whole_places_are_the_hosts_own_to_the_bit_and_off_takes_them_back(model, place, core):
    plain = call(model)
    for placed in (place(model), place(model, "stride", num_frames=17), place(model, "off")):
        assert all(torch.equal(one, other) for one, other in zip(call(placed), plain))
    assert not torch.equal(call(place(model, factor=2.0))[0], plain[0])
    assert place(place(model, factor=2.0), "off").wrappers.get(WrappersMP.DIFFUSION_MODEL, {}).get(KEY, []) == []
    assert torch.equal(tiny.sample(core, place(model)), tiny.sample(core, model))


@pytest.mark.parametrize("mode", ["stride", "paper", "center"])
def test_frames_of_a_longer_clip_are_turned_as_our_own_wan_turns_them(model, place, mode):
    with torch.inference_mode(False):
        own = WanDiT(tiny.config())
        own.load_state_dict(tiny.weights())
    x, context = tiny.randn(1, 16, 5, tiny.SIDE, tiny.SIDE), tiny.randn(1, 6, tiny.TEXT)
    told = Conditions(context, frame_indices=sparse_places(mode, 5, 21))
    with torch.no_grad():
        truth = own(x, torch.tensor([700.0]), told)
    found, _ = call(place(model, mode, num_frames=81))
    assert apart(found, truth) < 2e-5 and apart(found, call(model)[0]) > 1e-4


def test_stride_is_what_the_host_makes_of_fewer_steps(model, place):
    network = model.model.diffusion_model
    host = network.rope_encode(21, tiny.SIDE, tiny.SIDE, steps_t=5, device=torch.device("cpu"), dtype=torch.float32)
    assert torch.equal(call(place(model, "stride", num_frames=81))[1], host)


def test_a_factor_sets_frames_so_many_times_as_far_apart():
    assert frame_places("factor", 4, 1, 0.5).tolist() == [0.0, 0.5, 1.0, 1.5]
    assert frame_places("stride", 1, 21, 1.0).tolist() == [0.0]


def test_places_stay_whole_numbers_of_float32_where_the_model_computes_in_less(place):
    model = tiny.native(dtype=torch.bfloat16)
    turns = call(place(model, "paper", num_frames=81), dtype=torch.bfloat16)[1]
    exact = call(place(native_model(), "paper", num_frames=81))[1]
    assert torch.equal(turns[..., :TIME, :, :].float(), exact[..., :TIME, :, :])


def test_another_one_behind_it_takes_its_place_and_the_model_stays_as_it_was(model, place, core):
    plain = tiny.sample(core, model)
    comfy.model_management.unload_all_models()
    before = seen(model)
    twice = place(place(model, factor=3.0), factor=1.5)
    assert torch.equal(call(twice)[0], call(place(model, factor=1.5))[0])
    assert not torch.equal(tiny.sample(core, twice), plain)
    comfy.model_management.unload_all_models()
    assert differences(before, seen(model)) == [] and torch.equal(tiny.sample(core, model), plain)
    assert torch.equal(call(model)[0], call(native_model())[0])


def test_what_the_host_scales_besides_time_stays(model, place):
    """rope_options are those of core's node ScaleROPE; hosts before it do not look at them."""
    scaled = {"rope_options": {"scale_t": 3.0, "shift_t": 2.0, "scale_y": 2.0, "shift_y": 0.0, "scale_x": 1.0,
                               "shift_x": 1.0}}  # fmt: skip
    theirs, ours = call(model, options=scaled)[1], call(place(model, factor=1.5), options=scaled)[1]
    assert torch.equal(ours[..., TIME:, :, :], theirs[..., TIME:, :, :])
    assert torch.equal(ours[..., :TIME, :, :], call(place(model, factor=1.5))[1][..., :TIME, :, :])


def test_motion_adapters_before_or_behind_it_act_alike(model, place, core):
    stack = AdapterStack((StackEntry(CrossFrame(256), 1.0),))

    def with_adapters(model):
        return attach(model, stack, clean_first_frame=False)

    one, other = place(with_adapters(model), factor=1.5), with_adapters(place(model, factor=1.5))
    first = tiny.sample(core, one)
    assert torch.equal(first, tiny.sample(core, other))
    assert not torch.equal(first, tiny.sample(core, with_adapters(model)))
    assert not torch.equal(first, tiny.sample(core, place(model, factor=1.5)))


@pytest.mark.parametrize("kind", ["image", "expert"])
def test_models_that_begin_with_a_picture_take_it_too(place, core, kind):
    model = tiny.native(kind)
    plain = tiny.sample(core, model, steps=1, cfg=1.0)
    assert torch.equal(tiny.sample(core, place(model), steps=1, cfg=1.0), plain)
    assert not torch.equal(tiny.sample(core, place(model, factor=1.5), steps=1, cfg=1.0), plain)


def test_a_video_longer_than_the_clip_it_is_spread_over_is_refused_when_it_is_sampled(model, place, core):
    with pytest.raises(ConfigError, match="the video has 17 frames.*num_frames = 9; set num_frames to 17"):
        tiny.sample(core, place(model, "stride", num_frames=9))
    with pytest.raises(ConfigError, match="frames beside the video's"):
        call(place(model, factor=2.0), time_dim_concat=tiny.randn(1, 16, 1, tiny.SIDE, tiny.SIDE))


@pytest.mark.parametrize("change, said", [
    ({"mode": "mine"}, "mode is 'mine'"), ({"factor": 0.0}, "factor is 0"), ({"num_frames": 4}, "num_frames is 4"),
    ({"mode": "stride", "num_frames": 80}, "80.*77 or 81"),
])  # fmt: skip
def test_what_cannot_be_set_is_refused_in_words(model, place, change, said):
    with pytest.raises(ConfigError, match=said):
        place(model, **{"mode": "factor", **change})


def test_other_models_are_refused_by_name(place, ours):
    with pytest.raises(ConfigError, match="this MODEL is .*plain Wan is needed"):
        place(ours["LoadBuiltin"].execute("motionblocks-tiny").args[0])
