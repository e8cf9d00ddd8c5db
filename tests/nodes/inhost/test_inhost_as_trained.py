"""Core's defaults around our models: cfg 8, "blurry, ugly" as the negative prompt, two motions joined by Combine."""

import logging

import pytest
import tiny
import torch

FRAMES = 3
UGLY = "blurry, ugly"
NOT_READ = [
    ("a dragon flies", "unknown word 'dragon' in the prompt.*known motions: pan left, pan right"),
    ("(pan left:1.2)", "has a weight; motions have none"),
    ("pan", "needs a direction"),
    ("a" * 2000, "the prompt has 2000 characters"),
]


@pytest.fixture(scope="module")
def builtin(ours):
    return ours["LoadBuiltin"].execute("motionblocks-tiny").args


@pytest.fixture(scope="module")
def tiny_model(ours, models_folder):
    tiny.tiny_file(models_folder / "as_trained_check.safetensors")
    return ours["LoadModel"].execute("as_trained_check.safetensors", "fp32").args[0]


@pytest.fixture
def encode(core, builtin):
    return lambda text: core("CLIPTextEncode", clip=builtin[1], text=text)[0]


@pytest.fixture
def given(ours, builtin, encode):
    """Positive, negative and latent of Photo to Video for these prompts."""
    image = tiny.randn(1, 48, 72, 3).sigmoid()

    def make(positive="pan left", negative="", **more):
        prompts = [encode(text) if isinstance(text, str) else text for text in (positive, negative)]
        return ours["ImageToVideo"].execute(*prompts, builtin[2], image, FRAMES, **more).args[:3]

    return make


def ksampler(core, model, positive, negative, latent, cfg=1.0, steps=2):
    return core(
        "KSampler", model=model, seed=1, steps=steps, cfg=cfg, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image=latent, denoise=1.0,
    )[0]["samples"]  # fmt: skip


def custom(core, model, guider, latent):
    (noise,) = core("RandomNoise", noise_seed=1)
    (sampler,) = core("KSamplerSelect", sampler_name="euler")
    (sigmas,) = core("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0)
    return core(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )[0]["samples"]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records
            if record.levelno >= logging.WARNING and record.name == "motionblocks.sampling"]  # fmt: skip


@pytest.mark.parametrize("cfg", [8.0, 0.0, 2])
def test_a_ksampler_with_any_cfg_gives_what_cfg_1_gives_and_says_so_once(core, builtin, given, caplog, cfg):
    prompts = given()
    plain = ksampler(core, builtin[0], *prompts, cfg=1.0)
    assert warnings(caplog) == []
    assert torch.equal(ksampler(core, builtin[0], *prompts, cfg=cfg), plain)
    assert warnings(caplog) == [
        f"cfg is {cfg:g}; this model was trained for cfg 1 and is sampled with 1; set cfg to 1"
    ]


def test_a_plain_guider_keeps_its_cfg_after_the_run_also_when_the_run_is_cancelled(core, builtin, given):
    from comfy.model_management import InterruptProcessingException

    def cancel(run, call):
        raise InterruptProcessingException()

    model, positive, negative, latent = builtin[0], *given()
    (guider,) = core("CFGGuider", model=model, positive=positive, negative=negative, cfg=7.0)
    first = custom(core, model, guider, latent)
    assert guider.cfg == 7.0 and torch.equal(first, ksampler(core, model, positive, negative, latent))
    guider.model_options = {**guider.model_options, "model_function_wrapper": cancel}
    with pytest.raises(InterruptProcessingException):
        custom(core, model, guider, latent)
    assert guider.cfg == 7.0
    del guider.model_options["model_function_wrapper"]
    guider.set_cfg(3.0)
    assert torch.equal(custom(core, model, guider, latent), first) and guider.cfg == 3.0


def test_other_guiders_and_other_rules_of_guidance_are_obeyed_and_told(core, builtin, given, caplog):
    import comfy.samplers

    class Own(comfy.samplers.CFGGuider):
        pass

    model, positive, negative, latent = builtin[0], *given()
    plain = ksampler(core, model, positive, negative, latent)
    own = Own(model)
    own.set_conds(positive, negative)
    own.set_cfg(4.0)
    (dual,) = core("DualCFGGuider", model=model, cond1=positive, cond2=given("zoom in")[0], negative=negative,
                   cfg_conds=3.0, cfg_cond2_negative=2.0, style="regular")  # fmt: skip
    for guider, cfg in ((own, 4), (dual, 3)):
        caplog.clear()
        assert not torch.equal(custom(core, model, guider, latent), plain)
        assert warnings(caplog) == [f"cfg is {cfg}; this model was trained for cfg 1; other values spoil its colours"]
    patched = model.clone()
    patched.set_model_sampler_cfg_function(lambda args: args["cond_scale"] * args["cond"])
    caplog.clear()
    assert not torch.equal(ksampler(core, patched, positive, negative, latent, cfg=2.0), plain)
    assert len(warnings(caplog)) == 1 and ksampler(core, patched, positive, negative, latent, cfg=1.0).isfinite().all()


def test_a_model_that_was_trained_with_guidance_keeps_the_cfg_it_gets(core, tiny_model, caplog):
    first = tiny.first_latent()
    prompts = (tiny.prompt(1, first=first), tiny.prompt(2, first=first), tiny.start(first=first))
    assert not torch.equal(ksampler(core, tiny_model, *prompts, cfg=8.0), ksampler(core, tiny_model, *prompts, cfg=1.0))
    assert warnings(caplog) == []


@pytest.mark.parametrize("text, words", NOT_READ)
def test_a_positive_prompt_that_cannot_be_read_is_refused_by_our_nodes_and_by_the_sampler(
    core, ours, builtin, given, encode, text, words
):  # fmt: skip
    with pytest.raises(ValueError, match=words):
        given(text)
    with pytest.raises(ValueError, match=words):
        ours["EncodePrompts"].execute(builtin[1], text, "", 12)
    positive, negative, latent = given()
    with pytest.raises(ValueError, match=words):
        ksampler(core, builtin[0], encode(text), negative, latent)
    (basic,) = core("BasicGuider", model=builtin[0], conditioning=encode(text))
    with pytest.raises(ValueError, match=words):
        custom(core, builtin[0], basic, latent)
    assert ksampler(core, builtin[0], positive, negative, latent).isfinite().all()


@pytest.mark.parametrize("text", [UGLY, *(text for text, _ in NOT_READ)])
def test_a_negative_prompt_that_cannot_be_read_counts_as_empty_and_is_told(core, ours, builtin, given, caplog, text):
    model, (positive, negative, latent), (_, empty, _) = builtin[0], given(negative=text), given()
    plain = ksampler(core, model, positive, empty, latent)
    caplog.clear()
    assert torch.equal(ksampler(core, model, positive, negative, latent), plain)
    assert len(warnings(caplog)) == 1 and warnings(caplog)[0].startswith("the negative prompt is left out: ")

    def guided(prompt):
        (dual,) = core("DualCFGGuider", model=model, cond1=positive, cond2=positive, negative=prompt, cfg_conds=1.0,
                       cfg_cond2_negative=2.0, style="regular")  # fmt: skip
        return custom(core, model, dual, latent)

    assert guided(negative).isfinite().all() and torch.equal(guided(negative), guided(empty))
    assert ours["EncodePrompts"].execute(builtin[1], "pan left", text, 12)


def test_what_cannot_be_read_cannot_be_mixed_into_a_prompt_unnoticed(core, builtin, given, encode):
    _, negative, latent = given()
    readable, unread = encode("zoom in"), encode(UGLY)
    half = core("ConditioningAverage", conditioning_to=readable, conditioning_from=unread, conditioning_to_strength=0.5)
    joined = core("ConditioningConcat", conditioning_to=readable, conditioning_from=unread)
    for (mixed,) in (half, joined):
        positive, *_ = given(mixed)
        with pytest.raises(ValueError, match="a prompt that this model cannot read was mixed into it"):
            ksampler(core, builtin[0], positive, negative, latent)
    (turned,) = core("ConditioningAverage", conditioning_to=unread, conditioning_from=readable,
                     conditioning_to_strength=0.5)  # fmt: skip
    with pytest.raises(ValueError, match="unknown word 'blurry'"):
        given(turned)


def test_two_motions_joined_by_combine_are_refused_with_the_way_out(core, builtin, given, encode):
    (joined,) = core("ConditioningCombine", conditioning_1=encode("pan left"), conditioning_2=encode("zoom in"))
    positive, negative, latent = given(joined)
    with pytest.raises(ValueError, match="write both motions into one prompt, such as 'pan left, zoom in'"):
        ksampler(core, builtin[0], positive, negative, latent)
    one, two = (given("pan left", dynamics=dynamics)[0] for dynamics in (4, 16))
    (speeds,) = core("ConditioningCombine", conditioning_1=one, conditioning_2=two)
    with pytest.raises(ValueError, match="joined by Conditioning"):
        ksampler(core, builtin[0], speeds, negative, latent)


def test_combine_may_join_equal_prompts_steps_apart_masks_and_negative_ones(core, builtin, given, encode):
    def combine(one, other):
        return core("ConditioningCombine", conditioning_1=one, conditioning_2=other)[0]

    def during(prompt, start, end):
        return core("ConditioningSetTimestepRange", conditioning=prompt, start=start, end=end)[0]

    def inside(prompt, mask):
        return core("ConditioningSetMask", conditioning=prompt, mask=mask, strength=1.0, set_cond_area="default")[0]

    model, (positive, negative, latent) = builtin[0], given()
    other = given("zoom in")[0]
    plain = ksampler(core, model, positive, negative, latent)
    again = ksampler(core, model, combine(positive, positive), negative, latent)
    assert (again - plain).abs().max() < 1e-4
    left = torch.zeros(1, 8, 8)
    left[:, :, :4] = 1
    for joined in (combine(during(positive, 0.0, 0.5), during(other, 0.5, 1.0)),
                   combine(inside(positive, left), inside(other, 1 - left))):
        out = ksampler(core, model, joined, negative, latent)
        assert out.isfinite().all() and not torch.equal(out, plain)
    assert torch.equal(ksampler(core, model, positive, combine(negative, other), latent), plain)
    overlapping = combine(during(positive, 0.0, 0.6), during(other, 0.5, 1.0))
    with pytest.raises(ValueError, match="joined by Conditioning"):
        ksampler(core, model, overlapping, negative, latent)


def test_models_that_draw_whole_pictures_may_have_prompts_combined(core, tiny_model):
    first = tiny.first_latent()
    one, two, negative = (tiny.prompt(seed, first=first) for seed in (1, 3, 2))
    (joined,) = core("ConditioningCombine", conditioning_1=one, conditioning_2=two)
    assert ksampler(core, tiny_model, joined, negative, tiny.start(first=first)).isfinite().all()
