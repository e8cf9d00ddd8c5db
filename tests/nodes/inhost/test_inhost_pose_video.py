"""Pose Video on the host's own Wan: what is given stays clean at every call, and everything else works as before."""

import contextlib

import comfy.sampler_helpers
import pytest
import tiny_native_wan as tiny
import torch
from native_training import differences, seen
from pack.motion.choices import JOINT, SEPARATE
from pack.motion.errors import ShapeError
from pack.motion.sequence.layout import SequenceLayout
from pack.nodes.models.native_wan import SPACE
from pack.nodes.models.prefix import KEY, KINDS, taken_off
from pose_parts import pictures, pose_video, sampled, vae
from test_inhost_company import extra_node

FRAMES = 8
SAMPLERS = ("euler", "uni_pc", "dpmpp_2m")


@pytest.fixture(scope="module", params=["text", "expert"])
def model(request):
    return tiny.native(request.param)


@pytest.fixture(scope="module")
def expert():
    return tiny.native("expert")


@contextlib.contextmanager
def shown_to(model):
    """What the network itself is given: [(x, timestep), …]."""
    shown, network = [], model.model.diffusion_model
    before = network._forward

    def forward(x, timestep, *args, **more):
        shown.append((x.detach().clone(), timestep.detach().clone()))
        return before(x, timestep, *args, **more)

    network._forward = forward
    try:
        yield shown
    finally:
        network.__dict__.pop("_forward", None)


@contextlib.contextmanager
def stopped_at(model, call):
    """Whoever asks the network for the call-th time is stopped, as by a user."""
    network, calls = model.model.diffusion_model, []
    before = network._forward

    def forward(*args, **more):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return before(*args, **more)

    network._forward = forward
    try:
        yield
    finally:
        network.__dict__.pop("_forward", None)


def given_of(made):
    """The given latents as the network ought to see them."""
    return SPACE.scaled(made["sequence"].given)


def all_clean(shown, made, count):
    """Whether the given frames are those of the sequence, to the bit, in every row of every call."""
    given = given_of(made)
    n = given.shape[2]
    is_clean = [torch.equal(x[:, :16, :n], given.expand(len(x), -1, -1, -1, -1)) for x, _ in shown]
    return len(shown) >= count and all(is_clean) and all(x[:, :16, n:].std() > 0.05 for x, _ in shown)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cfg, batch", [(1.0, 1), (5.0, 2)])
def test_what_is_given_is_clean_at_every_call(core, ours, model, sampler, cfg, batch):
    made = pose_video(ours, model)
    with shown_to(model) as shown:
        out = sampled(core, made, sampler=sampler, cfg=cfg, batch=batch, steps=4)
    assert all_clean(shown, made, 4) and out["samples"].shape == (batch, 16, 2, 8, 8)
    assert all(x.shape[2] == 5 and set(t.flatten().tolist()) == {float(t.flatten()[0])} for x, t in shown)


def test_the_sampler_sees_the_target_alone_and_the_whole_sequence_is_what_memory_is_estimated_for(core, ours, expert,
                                                                                               monkeypatch):
    made, asked = pose_video(ours, expert), []
    real = comfy.sampler_helpers.estimate_memory
    monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory",
                        lambda model, shape, conds: asked.append(list(shape)) or real(model, shape, conds))
    sampled(core, made)
    assert asked == [[1, 16, 5, 8, 8]] and made["latent"]["samples"].shape[2] == 2


def test_beside_the_latents_a_mask_says_1_where_frames_are_given_and_no_target_is_shown(core, ours, expert):
    made = pose_video(ours, expert)
    with shown_to(expert) as shown:
        sampled(core, made)
    beside = shown[0][0][:, 16:]
    assert (beside[:, :4, :3] == 1).all() and not beside[:, :4, 3:].any()
    given = given_of(made)
    assert torch.equal(beside[:, 4:, :3], given)
    video = torch.cat((pictures(1), pictures(FRAMES, 1), torch.full((FRAMES, 64, 64, 3), 0.5)))
    torch.testing.assert_close(beside[:, 4:], SPACE.scaled(vae().encode(video)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", [JOINT, SEPARATE])
def test_it_equals_a_full_latent_whose_given_part_is_kept_clean_by_a_mask(core, ours, model, mode):
    """Spec 4.2: full length, noise mask, the host's noising of masked parts taken out; euler and CFG 5."""
    made = pose_video(ours, model, mode=mode)
    layout, given = made["sequence"].layout, made["sequence"].given
    out = sampled(core, made, cfg=5.0)["samples"]
    full = model.clone()
    full.add_object_patch("scale_latent_inpaint", lambda latent_image=None, **_: latent_image)
    zeros = torch.zeros(1, 16, layout.target_latents, 8, 8)
    mask = layout.frame_mask().view(1, 1, -1, 1, 1).expand(-1, -1, -1, 8, 8)
    prompts = {name: [[text, _whole(made, more, layout)] for text, more in made[name]]
               for name in ("positive", "negative")}  # fmt: skip
    noise = torch.randn(1, 16, layout.target_latents, 8, 8, generator=torch.Generator().manual_seed(5))
    noise = torch.cat((torch.zeros(1, 16, layout.given_latents, 8, 8), noise), dim=2)
    got = _with_noise(core, full, prompts, torch.cat((given, zeros), dim=2), mask, noise)
    assert torch.equal(got[:, :, layout.given_latents :], out)


def _whole(made, more, layout):
    """A prompt of Pose Video for the sequence as a whole."""
    if "concat_latent_image" not in more:
        return more
    given = made["sequence"].given
    shown = torch.cat((given, more["concat_latent_image"]), dim=2)
    mask = layout.frame_mask().view(1, 1, -1, 1, 1).expand(-1, -1, -1, 8, 8)
    return {**more, "concat_latent_image": shown, "concat_mask": mask.contiguous()}


def _with_noise(core, model, prompts, latents, mask, noise):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompts["positive"], prompts["negative"])
    guider.set_cfg(5.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)
    return guider.sample(noise, latents, comfy.samplers.sampler_object("euler"), sigmas, denoise_mask=mask, seed=5)


def test_given_frames_may_be_told_level_0(core, ours, model):
    made = pose_video(ours, model, timestep="clean")
    with shown_to(model) as shown:
        out = sampled(core, made, cfg=5.0)["samples"]
    for x, t in shown:
        assert t.shape == (len(x), 5) and not t[:, :3].any() and (t[:, 3:] == t[:, 3:4]).all() and t[0, 3] > 0
    assert not torch.equal(out, sampled(core, pose_video(ours, model), cfg=5.0)["samples"])


def test_in_segments_given_frames_never_look_at_the_target_and_others_overrides_are_asked(core, ours, model):
    """The tokens behind block 1 of given frames, under two targets."""
    def given_tokens(attention, seed, options=None):
        made, heard = pose_video(ours, model, attention=attention), []

        def listen(given, extra):
            out = extra["original_block"](given)
            heard.append(out["img"])
            return out

        copy = made["model"].clone()
        copy.set_model_patch_replace(listen, "dit", "double_block", 1)
        if options:
            copy.model_options["transformer_options"] |= options
        sampled(core, made, model=copy, seed=seed, steps=1)
        return heard[0][:, : 3 * 16]

    assert torch.equal(given_tokens("segment", 1), given_tokens("segment", 2))
    assert not torch.equal(given_tokens("all", 1), given_tokens("all", 2))
    asked = []

    def override(func, *args, **kwargs):
        asked.append(args[0].shape[1])
        return func(*args, **kwargs)

    same = given_tokens("segment", 1, {"optimized_attention_override": override})
    assert torch.equal(same, given_tokens("segment", 1)) and {3 * 16, 2 * 16} <= set(asked)


@pytest.mark.parametrize("order", ["before", "after"])
def test_easy_cache_works_on_either_side(core, ours, expert, order):
    node = extra_node("nodes_easycache", "EasyCache")

    def cached(model):
        return node.execute(model, 3.0, 0.0, 1.0, False).args[0]

    plain = pose_video(ours, expert)
    made = pose_video(ours, cached(expert)) if order == "before" else {**plain, "model": cached(plain["model"])}
    with shown_to(expert) as shown:
        out = sampled(core, made, steps=12)["samples"]
    assert all_clean(shown, made, 2) and len(shown) < 12
    other = {**plain, "model": cached(plain["model"])} if order == "before" else pose_video(ours, cached(expert))
    assert torch.equal(out, sampled(core, other, steps=12)["samples"])


def test_two_experts_are_sampled_one_after_the_other(core, ours, expert):
    low = tiny.native("expert", seed=1)
    high_made, low_made = pose_video(ours, expert), pose_video(ours, low)

    def stage(made, latent, start, end, noise):
        return core("KSamplerAdvanced", model=made["model"], add_noise=noise, noise_seed=5, steps=4, cfg=1.0,
                    sampler_name="euler", scheduler="simple", positive=made["positive"], negative=made["negative"],
                    latent_image=latent, start_at_step=start, end_at_step=end,
                    return_with_leftover_noise="enable" if end < 4 else "disable")[0]  # fmt: skip

    with shown_to(expert) as first, shown_to(low) as second:
        half = stage(high_made, high_made["latent"], 0, 2, "enable")
        whole = stage(low_made, half, 2, 4, "disable")
    assert all_clean(first, high_made, 2) and all_clean(second, low_made, 2)
    assert len(first) == len(second) == 2 and whole["samples"].isfinite().all()
    assert whole["motionblocks_sequence"].layout == SequenceLayout(FRAMES)


def test_another_pose_video_takes_the_place_of_the_first(core, ours, expert):
    once = pose_video(ours, expert)
    twice = pose_video(ours, pose_video(ours, expert, skeletons=pictures(FRAMES, 9))["model"])
    assert all(len(twice["model"].wrappers[kind][KEY]) == 1 for kind in KINDS)
    with shown_to(expert) as shown:
        out = sampled(core, twice)["samples"]
    assert shown[0][0].shape[2] == 5 and torch.equal(out, sampled(core, once)["samples"])


def test_the_model_that_came_in_is_as_it_was_after_runs_and_errors(core, ours, expert):
    out, before = tiny.sample(core, expert, cfg=1.0), seen(expert)
    made = pose_video(ours, expert)
    sampled(core, made)
    with pytest.raises(ShapeError, match="connect the output latent of Pose Video"):
        sampled(core, {**made, "latent": {"samples": torch.zeros(1, 16, 3, 8, 8)}})
    with pytest.raises(KeyboardInterrupt), stopped_at(made["model"], 2):
        sampled(core, made)
    assert not differences(before, seen(expert), sampled=True)
    assert torch.equal(tiny.sample(core, expert, cfg=1.0), out)
    assert torch.equal(tiny.sample(core, taken_off(made["model"]), cfg=1.0), out)


@pytest.mark.parametrize("mode", [JOINT, SEPARATE])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 16, 17])
def test_every_length_comes_out_with_exactly_as_many_frames_as_were_asked(core, ours, expert, mode, count):
    made = pose_video(ours, expert, frames=count, mode=mode)
    out = sampled(core, made, steps=1, batch=2)
    (images,) = ours["DecodePoseVideo"].execute(out, vae()).args
    assert images.shape == (2 * count, 64, 64, 3) and images.min() >= 0 and images.max() <= 1
    said = "the last pose is repeated" in made["plan"]
    assert said is (made["sequence"].layout.padded_frames != count)
    tiled = ours["DecodePoseVideo"].execute(out, vae(), tile_size=64).args[0]
    assert torch.equal(tiled, images)


def test_the_decode_is_of_the_whole_sequence_of_which_the_target_is_kept(core, ours, expert):
    made = pose_video(ours, expert)
    out = sampled(core, made)
    images = ours["DecodePoseVideo"].execute(out, vae(), sequence=made["sequence"]).args[0]
    whole = vae().decode(torch.cat((made["sequence"].given, out["samples"]), dim=2))[0]
    assert torch.equal(images, whole[-FRAMES:]) and torch.equal(images, whole[9:])
    alone = vae().decode(out["samples"])[0]
    assert len(alone) == FRAMES - 3
