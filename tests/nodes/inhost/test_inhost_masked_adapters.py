"""A masked motion adapter on the host's own Wan: when masks are made, what they steer, and what is refused."""

import functools
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import tiny_native_wan as tiny
import torch
from native_training import differences, seen, tiny_vae
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.models.conditions import Conditions
from pack.motion.models.subject_masks import SubjectMasks
from pack.motion.models.wan.network import WanDiT
from pack.motion.sampling.mask_stream import MaskStream
from pack.nodes.host import page
from pack.nodes.models.native_wan_blocks import KEY
from pack.nodes.models.native_wan_masks import MASKS, SEED_MARK, FirstMask

SIDE = 8 * tiny.SIDE  # px


@functools.cache
def base(kind="text", seed=0):
    return tiny.native(kind, seed=seed)


@functools.cache
def vae():
    with torch.inference_mode():
        return tiny_vae()


def first_mask(columns=24):
    """White from the left."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., :columns] = 1
    return mask


@pytest.fixture(scope="module")
def folder(models_folder):
    made = Path(folder_paths.models_dir) / "motion_adapters"
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture
def saved(folder):
    """Write a drawn adapter; returns its name."""

    def write(name="bird", masked=True, seed=0):
        with torch.inference_mode(False):
            miva = MIVA(WanDiT(tiny.config()), MIVAConfig(rank=3, masked=masked), seed=seed)
            for number, value in enumerate(miva.parameters().values()):
                value.data.add_(tiny.randn(*value.shape, seed=number + seed) / 8)
            if masked:
                miva.reader.copy_(tiny.randn(17, seed=40) / 4)
            save_adapter(folder / f"{name}.safetensors", miva)
        return f"{name}.safetensors"

    return write


@pytest.fixture
def applied(ours, saved):
    """A MODEL with a masked adapter, from the mask of the first frame on."""

    def put(model, weight=1.0, mask=None, stack=None, **amounts):
        listed = ours["LoadAdapter"].execute(saved(), weight, stack=stack, **amounts).args[0]
        mask = first_mask() if mask is None else mask
        return ours["ApplyAdapters"].execute(model, listed, "delta", vae(), mask).args[0]

    return put


@pytest.fixture
def lines(monkeypatch):
    """What stands under the nodes."""
    told, original = [], page.page_text
    monkeypatch.setattr(page, "page_text", lambda text: told.append(text) or original(text))
    return told


def run(core, model, **more):
    return tiny.sample(core, model, first=tiny.first_latent(), **{"cfg": 1.0, "steps": 5, **more})


def apart(one, two):
    return (one - two).abs().max().item()


def watched(model, seen_calls):
    """The MODEL with a look at every call of its network: noise level, masks, rows, adapters in the blocks."""
    copy = model.clone()

    def look(executor, x, t, *args, **more):
        options = next(given for given in (*args, *more.values()) if isinstance(given, dict) and "sigmas" in given)
        seen_calls.append((float(t.flatten()[0]) / 1000, options.get(MASKS), len(x), options[KEY].adapters))
        return executor(x, t, *args, **more)

    copy.add_wrapper_with_key("diffusion_model", "zz_look", look)
    return copy


@pytest.mark.parametrize("amounts", [{"weight": 0.0}, {"step_curve": "0"}])
def test_weight_0_is_the_model_itself_bit_for_bit_and_asks_for_nothing(core, ours, saved, applied, amounts):
    plain = tiny.sample(core, base())
    listed = ours["LoadAdapter"].execute(saved(), **amounts).args[0]
    bare = ours["ApplyAdapters"].execute(base(), listed).args[0]
    assert torch.equal(tiny.sample(core, bare), plain) and plain.std() > 0.1
    assert torch.equal(tiny.sample(core, applied(base(), **amounts), sampler="uni_pc"),
                       tiny.sample(core, base(), sampler="uni_pc"))  # fmt: skip


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_of_50_steps_8_make_masks_before_the_video_and_all_are_steered(core, figure, applied, cfg):
    calls = []
    run(core, watched(applied(base()), calls), steps=50, cfg=cfg)
    masks = [index for index, (_, told, _, _) in enumerate(calls) if told.are_shown]
    videos = [call for call in calls if not call[1].are_shown]
    figure(f"masked adapter, 50 steps, cfg {cfg:g}: calls on masks", len(masks))
    assert len(masks) == 8 and len(videos) == 50 and {call[2] for call in videos} == {1 if cfg == 1 else 2}
    assert {calls[index][2] for index in masks} == {1}
    levels = [call[0] for call in videos]
    assert [round(calls[index][0], 6) for index in masks] == [round(levels[step], 6) for step in range(0, 40, 5)]
    assert all(calls[index + 1][0] == calls[index][0] for index in masks), "before the video of their step"
    groups = [id(call[1]) for call in videos]
    changes = [step for step in range(1, 50) if groups[step] != groups[step - 1]]
    assert changes == list(range(5, 40, 5)), "each estimate steers from its own step on, the last to the end"
    assert all(call[1].scores.shape == (1, tiny.FRAMES, 16) for call in videos)


def test_it_is_what_our_own_wan_makes_of_the_same_files_and_noise(core, figure, saved, applied, folder):
    """Euler by hand, in the library: masks first where they are due, frame 1 of both clean."""
    steps, first = 5, tiny.first_latent()
    with torch.inference_mode(False), torch.no_grad():
        dit = WanDiT(tiny.config())
        dit.load_state_dict(tiny.weights())
        model = applied(base())
        sampling, latents_in = model.get_model_object("model_sampling"), model.model.process_latent_in
        places = torch.linspace(0, 1, steps + 1)[:-1]
        sigmas = [float(sampling.sigmas[-(1 + int(len(sampling.sigmas) * float(place)))]) for place in places] + [0.0]
        noise = torch.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE, generator=torch.manual_seed(5))
        mask_noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(5 ^ SEED_MARK))
        latent, known = FirstMask(vae(), first_mask()).encoded(noise.shape)
        adapter, start, x = load_adapter(folder / saved(), dit), latents_in(first), noise * sigmas[0]
        stream = MaskStream(latents_in(latent), known, sigmas, mask_noise, adapter.scores)
        context = tiny.randn(1, 5, tiny.TEXT, seed=1)

        def clean(x, sigma, masks):
            stack = AdapterStack((StackEntry(adapter),), temporal_ratio=4)
            with stack.during(dit):
                return x - sigma * dit(x, torch.tensor([1000 * sigma]), Conditions(context, masks=masks))

        for sigma, after in zip(sigmas, sigmas[1:]):
            if stream.is_due(sigma):
                stream.take(clean(stream.latents, sigma, SubjectMasks()))
            shown = torch.cat((start, x[:, :, 1:]), dim=2)
            made = torch.cat((start, clean(shown, sigma, stream.masks)[:, :, 1:]), dim=2)
            x = made + after / sigma * (x - made)
    expected = model.model.process_latent_out(x)
    found = run(core, model)
    off = apart(found[:, :, 1:], expected[:, :, 1:]) / expected.abs().max().item()
    figure("masked adapter, native Wan beside our own: largest relative difference", off)
    assert off < 1e-4


def test_frame_1_is_exact_and_the_mask_steers(core, saved, applied, ours):
    out = run(core, applied(base()))
    assert torch.equal(out[:, :, :1], tiny.first_latent()) and torch.equal(out, run(core, applied(base())))
    other = run(core, applied(base(), mask=first_mask(48)))
    listed = ours["LoadAdapter"].execute(saved("plain", masked=False)).args[0]
    plain = run(core, ours["ApplyAdapters"].execute(base(), listed).args[0])
    assert apart(out, other) > 1e-3 and apart(out, plain) > 1e-3
    assert apart(run(core, applied(base()), seed=6), out) > 1e-3
    assert torch.equal(run(core, applied(base()), sampler="ddim")[:, :, :1], tiny.first_latent())


def test_a_second_stage_that_begins_in_the_middle_runs(core, applied):
    out = run(core, applied(base()), denoise=0.5)
    assert out.isfinite().all() and torch.equal(out[:, :, :1], tiny.first_latent())


def test_beside_a_plain_adapter_masks_are_made_by_the_masked_one_alone(core, ours, saved, applied, lines):
    stack = ours["LoadAdapter"].execute(saved("plain", masked=False, seed=7), 0.5).args[0]
    model, calls = applied(base(), 0.5, stack=stack), []
    assert "bird.safetensors follows its subject from first_frame_mask on; plain.safetensors knows no" in lines[-1]
    both = run(core, watched(model, calls))
    alone_calls = []
    run(core, watched(applied(base(), 0.5), alone_calls))
    one, other = ([told.scores for _, told, _, _ in each if not told.are_shown] for each in (calls, alone_calls))
    assert all(torch.equal(a, b) for a, b in zip(one, other)), "the plain one leaves the masks alone"
    assert apart(both, run(core, applied(base(), 0.5))) > 1e-3


def test_a_first_mask_that_nothing_reads_is_told(ours, saved, lines):
    listed = ours["LoadAdapter"].execute(saved("plain", masked=False)).args[0]
    ours["ApplyAdapters"].execute(base(), listed, "delta", vae(), first_mask())
    assert "first_frame_mask has no effect: no adapter here was trained with masks" in lines[-1]
    ours["LoadAdapter"].execute(saved())
    assert lines[-1].startswith("masked motion adapter: ")


def fault(error, at):
    """An attention override that fails at its call `at`."""
    calls = []

    def override(func, *args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise error
        return func(*args, **kwargs)

    return override


@pytest.mark.parametrize("at", [2, 5], ids=["on the masks", "on the video"])
@pytest.mark.parametrize("error", [comfy.model_management.InterruptProcessingException(), RuntimeError("out of it")])
def test_after_a_cancel_or_an_error_the_next_run_is_as_if_nothing_had_been(core, applied, error, at):
    plain, expected = tiny.sample(core, base()), run(core, applied(base()))
    before, model = seen(base()), applied(base())
    options = repr(model.model_options)
    model.model_options["transformer_options"]["optimized_attention_override"] = fault(error, at)
    with pytest.raises(type(error)):
        run(core, model)
    model.model_options["transformer_options"].pop("optimized_attention_override")
    assert repr(model.model_options) == options and differences(before, seen(base()), sampled=True) == []
    assert torch.equal(run(core, model), expected) and torch.equal(run(core, model), expected)
    assert torch.equal(tiny.sample(core, base()), plain)


def test_guidance_is_said_to_cost_time(core, applied, caplog):
    run(core, applied(base()), cfg=4.0, steps=1)
    assert [record for record in caplog.records if "cfg is 4; " in record.message]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "heun", "lcm"])
def test_other_samplers_are_refused_before_anything_loads(core, applied, sampler):
    model = applied(base())
    comfy.model_management.unload_all_models()
    with pytest.raises(ConfigError, match=f"sampler is {sampler}.*in step with euler: set sampler_name to euler"):
        run(core, model, sampler=sampler)
    assert not comfy.model_management.current_loaded_models


def test_batches_are_refused(core, applied):
    with pytest.raises(ConfigError, match="2 videos are sampled at once; a masked adapter makes one at a time"):
        run(core, applied(base()), batch=2)


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_caches_are_refused(core, applied, node):
    (cached,) = core(node, model=applied(base()), reuse_threshold=3.0, start_percent=0.15, end_percent=0.95,
                     verbose=False)  # fmt: skip
    with pytest.raises(ConfigError, match="EasyCache or LazyCache leaves calls out, which a masked adapter's masks"):
        run(core, cached)


def test_a_missing_vae_or_mask_is_refused_when_it_is_applied(ours, saved):
    listed = ours["LoadAdapter"].execute(saved()).args[0]
    for given in ({}, {"vae": vae()}, {"first_frame_mask": first_mask()}):
        with pytest.raises(ConfigError, match="needs to know where its subject is: connect first_frame_mask.* and vae"):
            ours["ApplyAdapters"].execute(base(), listed, **given)


@pytest.mark.parametrize(("mask", "error", "said"), [
    (torch.zeros(1, 8, 8), ConfigError, "first_frame_mask is empty"),
    (torch.ones(2, 8, 8), ShapeError, "first_frame_mask has 2 masks; 1 is needed"),
    (torch.full((1, 8, 8), 2.0), ShapeError, "mask holds values from 2 to 2; 0 to 1 is needed"),
    (torch.full((1, 8, 8), float("nan")), ShapeError, "mask holds values"),
])  # fmt: skip
def test_masks_that_cannot_be_are_refused(ours, saved, mask, error, said):
    listed = ours["LoadAdapter"].execute(saved()).args[0]
    with pytest.raises(error, match=said):
        ours["ApplyAdapters"].execute(base(), listed, "delta", vae(), mask)


def test_the_vae_of_another_model_is_refused(ours, saved):
    other = ours["LoadBuiltin"].execute("motionblocks-tiny").args[2]
    listed = ours["LoadAdapter"].execute(saved()).args[0]
    with pytest.raises(ConfigError, match="vae is not Wan's, which encodes first_frame_mask"):
        ours["ApplyAdapters"].execute(base(), listed, "delta", other, first_mask())


def test_two_masked_adapters_at_once_are_refused(ours, saved):
    stack = ours["LoadAdapter"].execute(saved("cat", seed=3)).args[0]
    both = ours["LoadAdapter"].execute(saved(), stack=stack).args[0]
    with pytest.raises(ConfigError, match="2 masked adapters are in the stack, and one at a time makes its masks"):
        ours["ApplyAdapters"].execute(base(), both, "delta", vae(), first_mask())


def test_a_masked_adapter_is_refused_on_image_to_video_and_on_a_linear_model(ours, saved):
    listed = ours["LoadAdapter"].execute(saved()).args[0]
    for model in (base("expert"), ours["LoadBuiltin"].execute("motionblocks-tiny").args[0]):
        with pytest.raises((ConfigError, ValueError)):
            ours["ApplyAdapters"].execute(model, listed, "delta", vae(), first_mask())
