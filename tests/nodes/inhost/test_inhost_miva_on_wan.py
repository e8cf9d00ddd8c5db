"""Apply Motion Adapters with MIVA files on the host's own Wan: bits, frame 1, samplers, experts, and every refusal."""

import functools
import json
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import tiny_native_wan as tiny
import torch
from native_training import differences, seen
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.adapters.adapter_file import save_adapter
from pack.motion.models.wan.network import WanDiT
from pack.nodes.host import page
from pack.nodes.models.native_wan import wan_config
from test_inhost_native_wan_first_frame import SAMPLERS, two_experts
from test_inhost_native_wan_gate import around, network

SMALL = {"rank": 3}


@functools.cache
def base(kind="text", seed=0):
    return tiny.native(kind, seed=seed)


@pytest.fixture(scope="module")
def folder(models_folder):
    made = Path(folder_paths.models_dir) / "motion_adapters"
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture
def saved(folder):
    """Write a drawn adapter for a kind of tiny Wan; metadata beside its own. Returns its name."""

    def write(name, kind="text", seed=0, **metadata):
        with torch.inference_mode(False):
            miva = MIVA(WanDiT(tiny.config(kind)), MIVAConfig(**SMALL), seed=seed)
            for number, value in enumerate(miva.parameters().values()):
                value.data.add_(tiny.randn(*value.shape, seed=number + seed) / 8)
            save_adapter(folder / f"{name}.safetensors", miva, metadata)
        return f"{name}.safetensors"

    return write


@pytest.fixture
def applied(ours, saved):
    """A MODEL with an adapter of these amounts."""

    def put(model, name="wave", form="delta", kind="text", weight=1.0, metadata=None, **amounts):
        listed = ours["LoadAdapter"].execute(saved(name, kind, **(metadata or {})), weight, **amounts).args[0]
        return ours["ApplyAdapters"].execute(model, listed, form).args[0]

    return put


def start(kind="expert"):
    """What image to video reads of a start image."""
    beside = {"concat_latent_image": tiny.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE),
              "concat_mask": torch.ones(1, 1, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}  # fmt: skip
    return {"positive": tiny.prompt(1, **beside), "negative": tiny.prompt(2, **beside)}


def apart(one, two):
    return (one - two).abs().max().item()


@pytest.mark.parametrize("amounts", [{"weight": 0.0}, {"step_curve": "0"}, {"frame_curve": "0:0, 1:0"}])
@pytest.mark.parametrize("kind", ["text", "expert"])
def test_weight_0_is_the_model_itself_bit_for_bit_and_asks_for_no_start_image(core, applied, kind, amounts):
    given = {} if kind == "text" else start()
    plain = tiny.sample(core, base(kind), **given)
    assert torch.equal(tiny.sample(core, applied(base(kind), kind=kind, **amounts), **given), plain)
    assert plain.std() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frame_1_is_the_start_image_with_every_sampler(core, figure, applied, sampler):
    first = tiny.first_latent()
    out = tiny.sample(core, applied(base()), first=first, sampler=sampler, steps=4, cfg=1.0)
    figure(f"MIVA, frame 1 with {sampler}: largest error", apart(out[:, :, :1], first))
    assert torch.equal(out[:, :, :1], first) and out[:, :, 1:].std() > 0.1


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_frame_1_is_the_start_image_across_two_experts(core, figure, applied, sampler):
    first = tiny.first_latent()
    high, low = applied(base(), "wave_high"), applied(base(seed=1), "wave_low")
    between, out = two_experts(core, high, low, first, sampler)
    figure(f"MIVA, frame 1 across two experts with {sampler}: largest error", apart(out[:, :, :1], first))
    assert torch.equal(out[:, :, :1], first) and between[:, :, :1].std() > 0.1


def test_image_to_video_begins_with_the_models_own_start_image_and_nothing_is_written(core, applied):
    model = applied(base("expert"), kind="expert")
    out = tiny.sample(core, model, first=None, **start())
    assert apart(out, tiny.sample(core, base("expert"), **start())) > 1e-3
    told = start()
    with_first = {"positive": tiny.prompt(1, tiny.first_latent(), **told["positive"][0][1]),
                  "negative": told["negative"]}  # fmt: skip
    assert torch.equal(tiny.sample(core, model, **with_first), out)


def test_curves_and_masks_share_an_adapter_out(core, applied):
    first, left = tiny.first_latent(), torch.zeros(1, 8, 8)
    left[..., :4] = 1
    given = {"whole": {}, "left": {"mask": left}, "late": {"frame_curve": "0:0, 0.5:0, 1:1"},
             "early": {"step_curve": "0:1, 0.5:0"}, "half": {"weight": 0.5}}  # fmt: skip
    outs = {name: tiny.sample(core, applied(base(), **amounts), first=first, cfg=1.0, steps=3)
            for name, amounts in given.items()}  # fmt: skip
    for name in outs:
        assert name == "whole" or apart(outs[name], outs["whole"]) > 1e-3
        assert torch.equal(outs[name][:, :, :1], first)
    with pytest.raises(ShapeError, match="mask has 5 frames; 1 is needed, or 17 .* not its latent frames"):
        tiny.sample(core, applied(base(), mask=torch.ones(5, 8, 8)), first=first)


def test_text_is_replaced_at_weight_1_and_guidance_is_said_to_cost_time(core, applied, caplog):
    first, model = tiny.first_latent(), applied(base())
    one = tiny.sample(core, model, first=first, cfg=1.0)
    other = tiny.sample(core, model, cfg=1.0, positive=tiny.prompt(9, first), negative=tiny.prompt(8, first))
    assert apart(one, other) <= 1e-4 * one.abs().max()
    assert not [record for record in caplog.records if "doubles the time" in record.message]
    tiny.sample(core, model, first=first, cfg=5.0)
    assert [record for record in caplog.records if "cfg is 5; " in record.message]


def test_in_form_paper_weight_0_still_takes_the_text_and_begins_with_the_start_image(core, applied):
    first = tiny.first_latent()
    out = tiny.sample(core, applied(base(), form="paper", weight=0.0), first=first, cfg=1.0)
    assert torch.equal(out[:, :, :1], first)
    assert apart(out, tiny.sample(core, base(), first=first, cfg=1.0)) > 1e-3


@pytest.fixture
def lines(monkeypatch):
    """What stands under the nodes."""
    told, original = [], page.page_text
    monkeypatch.setattr(page, "page_text", lambda text: told.append(text) or original(text))
    return told


HIGH = {"training": json.dumps({"sigma_min": 0.875}), "expert": "high_noise"}


def test_steps_outside_the_noise_levels_of_an_adapter_are_told_once_a_run(core, applied, caplog):
    first = tiny.first_latent()
    tiny.sample(core, applied(base(), "wave_high", metadata=HIGH), first=first, steps=4, cfg=1.0)
    said = [record.message for record in caplog.records if "was trained at noise levels" in record.message]
    assert len(said) == 1 and said[0].startswith("wave_high.safetensors was trained at noise levels 0.875 to 1, and ")
    assert "each expert has an adapter of its own" in said[0]
    caplog.clear()
    tiny.sample(core, applied(base(), "wave_all"), first=first, steps=4, cfg=1.0)
    assert not [record for record in caplog.records if "noise levels" in record.message]


def test_an_adapter_of_the_other_expert_is_told_where_it_is_applied(ours, saved, lines):
    from pack.nodes.models.native_wan import native_wan
    from pack.nodes.training_run.native_trainee import base_of

    told = base_of(native_wan(base())).to_metadata() | HIGH | {"input_channels": "16"}
    listed = ours["LoadAdapter"].execute(saved("wave_high", **told)).args[0]
    ours["ApplyAdapters"].execute(base(), listed)
    assert "another base" not in lines[-1]
    ours["ApplyAdapters"].execute(base(seed=1), listed)
    assert "the adapter: it was trained on another base (high noise) than this model; of Wan 2.2 each" in lines[-1]


def test_adapters_of_text_to_video_and_of_image_to_video_are_refused_on_each_other(ours, saved):
    for kind, other, said in (("text", "expert", "made for Wan text to video"), ("expert", "text", "made for a model")):
        before = seen(base(other))
        listed = ours["LoadAdapter"].execute(saved(f"of_{kind}", kind)).args[0]
        with pytest.raises(CheckpointError, match=f"of_{kind}.safetensors: {said}.*train one for it"):
            ours["ApplyAdapters"].execute(base(other), listed)
        assert differences(before, seen(base(other))) == []


def test_adapters_of_different_bases_in_one_stack_are_refused(ours, saved, folder):
    with torch.inference_mode(False):
        wide = WanDiT(type(tiny.config())(**{**vars(tiny.config()), "num_layers": 3}))
        save_adapter(folder / "of_three.safetensors", MIVA(wide, MIVAConfig(**SMALL)))
    stack = ours["LoadAdapter"].execute("of_three.safetensors").args[0]
    both = ours["LoadAdapter"].execute(saved("wave"), stack=stack).args[0]
    with pytest.raises(CheckpointError, match="of_three.*made for a network whose num_layers is '3'; here it is '2'"):
        ours["ApplyAdapters"].execute(base(), both)


def test_vace_and_the_5b_model_are_refused_by_name(ours, saved):
    import comfy.model_base
    import comfy.supported_models
    from test_inhost_native_wan_gate import patcher

    listed = ours["LoadAdapter"].execute(saved("wave")).args[0]
    config = comfy.supported_models.WAN21_T2V({"disable_unet_model_creation": True})
    for name, title in (("WAN21_Vace", "Wan 2.1 VACE"), ("WAN22", "Wan 2.2 5B")):
        with pytest.raises(ConfigError, match=rf"this MODEL is {title}.*plain Wan is needed"):
            ours["ApplyAdapters"].execute(patcher(getattr(comfy.model_base, name)(config)), listed)
    with pytest.raises(ConfigError, match="Wan Fun-Control"):
        ours["ApplyAdapters"].execute(around(network(model_type="i2v", in_dim=48)), listed)


def test_a_missing_start_image_and_one_of_another_size_are_refused_before_the_model_loads(core, applied):
    model = applied(base())
    comfy.model_management.unload_all_models()
    with pytest.raises(ConfigError, match="positive prompt has no start image, which these motion adapters need"):
        tiny.sample(core, model)
    with pytest.raises(ShapeError, match=r"start image's latent is \(1, 16, 1, 8, 10\)"):
        tiny.sample(core, model, first=tiny.randn(1, 16, 1, 8, 10))
    assert not comfy.model_management.current_loaded_models


def test_context_windows_are_refused(core, ours, saved):
    listed = ours["LoadAdapter"].execute(saved("wave")).args[0]
    windowed = base().clone()
    windowed.model_options["context_handler"] = object()
    with pytest.raises(ConfigError, match="context windows"):
        ours["ApplyAdapters"].execute(windowed, listed)


def patched(model):
    copy = model.clone()

    def doubled(args, extra):
        return {"img": 2 * extra["original_block"](args)["img"]}

    copy.set_model_patch_replace(doubled, "dit", "double_block", 0)
    return copy


def test_a_block_patch_of_before_is_kept_and_one_of_after_is_refused(core, applied):
    first = tiny.first_latent()
    out = tiny.sample(core, applied(patched(base())), first=first, cfg=1.0)
    assert apart(out, tiny.sample(core, applied(base()), first=first, cfg=1.0)) > 1e-3
    with pytest.raises(ConfigError, match="doubled replaces Wan's block 0 after the motion adapters were applied"):
        tiny.sample(core, patched(applied(base())), first=first, cfg=1.0)


def test_easycache_runs_and_frame_1_stays(core, applied):
    (cached,) = core("EasyCache", model=applied(base()), reuse_threshold=3.0, start_percent=0.15, end_percent=0.95,
                     verbose=False)  # fmt: skip
    first = tiny.first_latent()
    out = tiny.sample(core, cached, first=first, steps=8, cfg=1.0)
    assert torch.equal(out[:, :, :1], first) and out.isfinite().all()


def test_a_cancelled_run_leaves_the_model_as_it_was(core, applied):
    model, first = base(), tiny.first_latent()
    plain = tiny.sample(core, model)
    acts = applied(model)

    def cancel(executor, *args, **more):
        comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    acts.add_wrapper_with_key("diffusion_model", "cancel", cancel)
    before = seen(model)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(core, acts, first=first)
    assert differences(before, seen(model), sampled=True) == [] and torch.equal(tiny.sample(core, model), plain)


def test_a_lora_in_the_adapter_folder_acts_and_begins_with_no_start_image(core, ours, folder):
    from pack.motion.adapters.lora import LoRA

    with torch.inference_mode(False):
        lora = LoRA(base().model.diffusion_model, targets=("self_attn",), rank=2, alpha=2.0)
        for value in lora.parameters().values():
            value.data.add_(0.05)
        save_adapter(folder / "a_lora.safetensors", lora)
    made = ours["ApplyAdapters"].execute(base(), ours["LoadAdapter"].execute("a_lora.safetensors").args[0]).args[0]
    assert apart(tiny.sample(core, made), tiny.sample(core, base())) > 1e-4


def test_an_adapter_in_a_lora_loader_leaves_wan_as_it_is(core, saved, folder, loras_folder):
    (loras_folder / "wan_wave.safetensors").write_bytes((folder / saved("wave")).read_bytes())
    (loaded,) = core("LoraLoaderModelOnly", model=base(), lora_name="wan_wave.safetensors", strength_model=1.0)
    assert torch.equal(tiny.sample(core, loaded), tiny.sample(core, base()))


def test_sizes_of_the_hosts_network_are_those_of_ours():
    for kind in ("text", "image", "expert"):
        assert wan_config(base(kind).model.diffusion_model) == tiny.config(kind)


def test_an_empty_prompt_serves_and_another_weight_reloads_nothing(core, ours, applied):
    model, first = applied(base()), tiny.first_latent()
    (empty,) = ours["EmptyPrompt"].execute(base()).args
    positive = [[empty[0][0], {"first_latent": first, "first_latent_space": "wan21"}]]
    one = tiny.sample(core, model, cfg=1.0, positive=positive, negative=positive)
    assert apart(one, tiny.sample(core, model, first=first, cfg=1.0)) <= 1e-4 * one.abs().max()
    loaded = [item.model.model for item in comfy.model_management.current_loaded_models]
    half = applied(base(), weight=0.5)
    tiny.sample(core, half, cfg=1.0, positive=positive, negative=positive)
    assert half.model is model.model and base().model in [*loaded]
