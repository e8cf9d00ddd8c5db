"""Motion adapters on our own MODELs: weight 0 is the model bit for bit, a run means what it means without a host,
and nothing stays on what came in."""

import comfy.context_windows
import comfy.model_management
import own_motion_adapters as own
import pytest
import tiny
import tiny_sana
import torch
from pack.motion.adapters.lora import LoRA
from pack.motion.adapters.stack import AdapterStack
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.conditions import Conditions
from pack.nodes.models.own_adapters import attach, attached_stack, detach

SIZE = {"num_frames": tiny.FRAMES, "grid": (tiny.SIDE // 2, tiny.SIDE // 2)}


@pytest.fixture(scope="module")
def pair(models_folder):
    return own.model_at(models_folder / "own_adapters.safetensors", qk_norm=True)


@pytest.fixture(scope="module")
def adapter(pair):
    return own.drawn(pair[1])


def asked(model, x, t, context, **conditions):
    """The velocity of one call with all that stands on a MODEL, as sampling calls it."""
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    return model.model.diffusion_model(x, t, context, transformer_options=options, **conditions)


def drawn_lora(network):
    lora = LoRA(network, targets=("attn1", "attn2", "ff"), rank=2, alpha=2.0)
    for number, value in enumerate(lora.parameters().values()):
        value.data.copy_(tiny.randn(*value.shape, seed=number) / 4)
    return lora


@pytest.mark.parametrize("entry", [
    {"weight": 0.0}, {"step_curve": "0"}, {"frame_curve": "0:0, 1:0"}, {"mask": torch.zeros(1, 5, 7)},
])  # fmt: skip
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_weight_0_is_the_model_bit_for_bit(core, pair, adapter, entry, cfg):
    model, _ = pair
    plain = own.sample(core, model, cfg=cfg)
    assert torch.equal(own.sample(core, attach(model, own.stack(adapter, **entry)), cfg=cfg), plain)
    assert not torch.equal(own.sample(core, attach(model, own.stack(adapter)), cfg=cfg), plain)


@pytest.mark.parametrize("kind", ["miva", "lora", "two"])
@pytest.mark.parametrize("form", ["delta", "paper"])
def test_a_call_in_the_host_is_that_of_our_network_without_one(pair, adapter, kind, form):
    model, network = pair
    adapters = {"miva": [adapter], "lora": [drawn_lora(network)], "two": [adapter, own.drawn(network, seed=3)]}[kind]
    mask = torch.rand(tiny.FRAMES, 9, 9, generator=torch.Generator().manual_seed(1))
    made = own.stack(*adapters, weight=0.4, step_curve="0:0.6, 1:1", frame_curve="0:1, 1:0.5", mask=mask, form=form)
    made = AdapterStack(made.entries, shift=model.model.spec.sampling.shift, form=form)
    x, t = tiny.randn(2, tiny.CHANNELS, tiny.FRAMES, tiny.SIDE, tiny.SIDE), torch.tensor([700.0, 300.0])
    context = tiny.randn(2, 5, tiny.TEXT, seed=8)
    t = t.round()
    with torch.no_grad(), made.during(network):
        expected = network(x, t, Conditions(context))
        found = asked(attach(model, made), x, t, context)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert (expected - network(x, t, Conditions(context))).abs().max() > 1e-3


def test_frame_1_stays_the_start_image_for_every_sampler(core, pair, adapter):
    model = attach(pair[0], own.stack(adapter, weight=0.6))
    first = tiny.first_latent()
    for sampler in ("euler", "euler_ancestral", "heun", "dpmpp_2m_sde"):
        out = own.sample(core, model, sampler=sampler, first=first)
        assert (out[:, :, :1] - first).abs().max() <= 1e-5, sampler


def test_a_step_curve_follows_the_hosts_percent_under_the_shift_of_the_run(core, pair, adapter):
    (shifted,) = core("ModelSamplingSD3", model=attach(pair[0], own.stack(adapter, step_curve="0:0, 0.6:0, 0.61:1")),
                      shift=5.0)  # fmt: skip
    heard = []
    shifted.add_wrapper_with_key("diffusion_model", "watch", lambda executor, *args, **more: heard.append(
        "adapters" in more) or executor(*args, **more))  # fmt: skip
    own.sample(core, shifted, steps=4)
    assert heard == [False, False, False, True]  # at 0, 0.25, 0.5 and 0.75 of the run


def test_a_frame_curve_runs_over_the_whole_video_also_in_context_windows(core, pair, adapter, monkeypatch):
    model = attach(pair[0], own.stack(adapter, frame_curve="0:0, 1:1"))
    model.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=4, context_overlap=1,
        context_stride=1, closed_loop=False, dim=2,
    )  # fmt: skip
    heard, original = [], AdapterStack.attached

    def watched(self, module, **more):
        heard.append((more["num_frames"], more["frames"].tolist()))
        return original(self, module, **more)

    monkeypatch.setattr(AdapterStack, "attached", watched)
    first = tiny.first_latent()
    own.sample(core, model, steps=1, first=first, latent={"samples": first.repeat(1, 1, 7, 1, 1)})
    (_, begin), (total, rest) = heard
    assert total == 7 and begin == [0, 1, 2, 3]
    assert rest[0] == 0 and rest[-4:] == [3, 4, 5, 6]  # the start image in front; newer hosts put an anchor behind it


def test_a_builtin_clip_longer_than_trained_is_weighed_at_the_frames_its_blocks_see(ours):
    model, *_ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    network = model.model.diffusion_model
    x = torch.zeros(1, 200, 31, 8, 8)
    total, seen = network.frames_seen(x, numbers=list(range(31)), clip=(31, 16, "same move"))
    assert total == 31 and seen.tolist() == list(range(0, 31, 2))
    total, seen = network.frames_seen(x, numbers=list(range(31)), clip=(31, 16, "go on"))
    assert total == 31 and seen.tolist() == list(range(31))


def test_another_weight_reloads_nothing(core, pair, adapter, monkeypatch):
    model, _ = pair
    comfy.model_management.unload_all_models()
    own.sample(core, attach(model, own.stack(adapter, weight=0.5)))

    version, unloaded, original = model.model.current_weight_patches_uuid, [], type(model).unpatch_model

    def watched(self, device_to=None, unpatch_weights=True):
        unloaded.extend([self.model] if unpatch_weights else [])
        return original(self, device_to, unpatch_weights)

    monkeypatch.setattr(type(model), "unpatch_model", watched)
    own.sample(core, attach(model, own.stack(adapter, weight=0.7)))
    assert model.model not in unloaded and model.model.current_weight_patches_uuid == version
    comfy.model_management.unload_all_models()
    assert model.model in unloaded


def test_the_host_loads_the_adapters_weights_with_the_model(core, pair, adapter):
    model = attach(pair[0], own.stack(adapter))
    (beside,) = model.get_additional_models()
    held = {id(value) for value in beside.model.parameters()}
    assert held == {id(value) for value in adapter.parameters().values()}
    assert beside.model_size() == sum(4 * value.numel() for value in adapter.parameters().values())
    own.sample(core, model)
    loaded = [item.model for item in comfy.model_management.current_loaded_models]
    assert any(item is not None and item.model is beside.model for item in loaded)


ENDS = {"finished": None, "was cancelled": comfy.model_management.InterruptProcessingException(),
        "failed": RuntimeError("out of something")}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_the_model_is_as_it_was_after_a_run_that(core, pair, adapter, monkeypatch, end):
    model, network = pair
    plain, before = own.sample(core, model), own.by_value(model)
    made = attach(model, own.stack(adapter, drawn_lora(network)))
    attached = own.by_value(made)
    if ENDS[end] is not None:
        original, calls = type(adapter)._prompt, []

        def failing(self, site):
            calls.append(1)
            if len(calls) == 3:
                raise ENDS[end]
            return original(self, site)

        monkeypatch.setattr(type(adapter), "_prompt", failing)
        with pytest.raises(type(ENDS[end])):
            own.sample(core, made)
        assert len(calls) == 3
        monkeypatch.undo()
    else:
        own.sample(core, made)
    assert own.by_value(made) == attached and own.by_value(model) == before
    assert torch.equal(own.sample(core, model), plain)


def test_a_second_stack_takes_the_place_of_the_first_and_off_is_off(core, pair, adapter):
    model, network = pair
    other = own.stack(own.drawn(network, seed=5))
    twice, once = attach(attach(model, own.stack(adapter)), other), attach(model, other)
    assert torch.equal(own.sample(core, twice), own.sample(core, once))
    assert attached_stack(twice.clone()).entries == other.entries and attached_stack(model) is None
    assert torch.equal(own.sample(core, detach(twice)), own.sample(core, model))
    assert detach(twice).get_additional_models() == []


def test_texts_are_kept_for_a_run_although_adapters_are_there(core, pair, adapter, monkeypatch):
    from pack.nodes.models import linear_video

    kept = []
    monkeypatch.setattr(linear_video, "texts_of_a_run", lambda options, rows: kept.append(
        options.get("motionblocks_texts")) or {})  # fmt: skip
    own.sample(core, attach(pair[0], own.stack(adapter, weight=0.5)))
    assert len(kept) == 2 and None not in kept


def told(core, model, monkeypatch, **more):
    from pack.nodes.models import own_adapters as module

    heard = []
    monkeypatch.setattr(module, "say", heard.extend)
    own.sample(core, model, **more)
    return heard


def test_a_sum_of_weights_far_from_1_and_guidance_for_nothing_are_said(core, pair, adapter, monkeypatch):
    model, network = pair
    other = own.drawn(network, seed=4)
    said = told(core, attach(model, own.stack(adapter, other)), monkeypatch, cfg=3.0)
    assert said == ["the weights of the motion adapters come to 2; 1 is most stable",
                    "cfg is 3; the motion adapters stand in place of the text, so it only doubles the time: set cfg to "
                    "1"]  # fmt: skip
    left = torch.zeros(1, 6, 6)
    left[:, :, :4] = 1  # in whole tokens
    halves = AdapterStack(tuple(
        entry for made, mask in ((adapter, left), (other, 1 - left)) for entry in own.stack(made, mask=mask).entries
    ))  # fmt: skip
    assert told(core, attach(model, halves), monkeypatch) == []
    assert told(core, attach(model, own.stack(adapter, weight=0.5)), monkeypatch, cfg=3.0) == [
        "the weights of the motion adapters come to 0.5; 1 is most stable"]  # fmt: skip
    assert told(core, attach(model, own.stack(adapter, step_curve="0:1, 0.5:1.5, 1:1")), monkeypatch) == [
        "the weights of the motion adapters come to 1.5; 1 is most stable"]  # fmt: skip
    assert told(core, attach(model, own.stack(drawn_lora(network), weight=3.0)), monkeypatch, cfg=3.0) == []


@pytest.mark.parametrize("before", [True, False])
def test_a_block_patch_of_another_node_is_kept_whichever_comes_first(core, pair, adapter, before):
    def double(given, extra):
        return {"img": 2 * extra["original_block"](given)["img"]}

    def patched(model):
        copy = model.clone()
        copy.set_model_patch_replace(double, "dit", "double_block", 0)
        return copy

    model, stack = pair[0], own.stack(adapter)
    both = attach(patched(model), stack) if before else patched(attach(model, stack))
    seen = own.sample(core, both)
    assert not torch.equal(seen, own.sample(core, patched(model)))
    assert not torch.equal(seen, own.sample(core, attach(model, stack)))
    other_way = patched(attach(model, stack)) if before else attach(patched(model), stack)
    assert torch.equal(seen, own.sample(core, other_way))
    nothing = own.stack(adapter, weight=0.0)
    alone = attach(patched(model), nothing) if before else patched(attach(model, nothing))
    assert torch.equal(own.sample(core, alone), own.sample(core, patched(model)))


@pytest.mark.parametrize("kind", ["miva", "lora"])
def test_a_mask_of_another_number_of_frames_is_refused_before_anything_is_loaded(
    core, pair, adapter, monkeypatch, kind
):  # fmt: skip
    acts = adapter if kind == "miva" else drawn_lora(pair[1])
    model = attach(pair[0], own.stack(acts, mask=torch.ones(3, 6, 6)))
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *args, **more: pytest.fail("loaded"))
    with pytest.raises(ShapeError, match="mask has 3 frames; 1 is needed, or 4 as the video has"):
        own.sample(core, model)


def test_other_models_are_refused(pair, adapter, models_folder):
    _, other = own.model_at(models_folder / "own_wider.safetensors", frame_index_embedding=True)
    wrong = own.drawn(own.model_at(models_folder / "own_three.safetensors")[1])
    wrong.blocks.append(wrong.blocks[0])
    with pytest.raises(ConfigError, match="was made for a network whose transformer_blocks.2"):
        attach(pair[0], own.stack(wrong))
    attach(pair[0], own.stack(own.drawn(other)))  # of the same sizes: not told apart here, but by its file

    class Foreign:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ConfigError, match="this MODEL is Linear; a MotionBlocks model is needed"):
        attach(Foreign(), own.stack(adapter))


def test_sana_video_has_no_places_inside_and_takes_a_lora(core, adapter, models_folder, ours):
    name = tiny_sana.folder_of(models_folder, "wan21", "own_sana")
    (sana,) = ours["LoadModel"].execute(name, "fp32").args
    with pytest.raises(ConfigError, match="takes no adapters in its blocks"):
        attach(sana, own.stack(adapter))
    network = sana.model.diffusion_model
    lora = LoRA(network, targets=("attn1",), rank=2, alpha=2.0)
    for value in lora.parameters().values():
        value.data.add_(0.1)
    x, t, context = tiny.randn(1, 16, 3, 4, 4), torch.tensor([500.0]), tiny.randn(1, 5, 24)
    plain = asked(sana, x, t, context)
    assert torch.equal(asked(attach(sana, own.stack(lora, weight=0.0)), x, t, context), plain)
    assert not torch.equal(asked(attach(sana, own.stack(lora, frame_curve="0:0, 1:1")), x, t, context), plain)
