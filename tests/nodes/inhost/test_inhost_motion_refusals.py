"""Learning one clip's motion: what is refused by name, what ends a run, and that the MODEL is as it was after each."""

import errno
import math
import os

import comfy.model_base
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models
import pytest
import tiny_native_wan as tiny
import torch
from motion_nodes import classified, lora_file, moving, prepared, trained
from native_training import TinyText, TinyVision, differences, native_model, seen, tiny_vae, used
from pack.motion.adapters.head_lora import head_lora
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files import atomic
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.training.states import list_states, read_state
from pack.motion.training.objectives import motion_loss
from pack.nodes.training_run import live_view
from pack.nodes.training_run.folders import training_root
from press_cancel import cancelled_after
from test_inhost_native_refusals import GGMLLinear, PackedInt8Linear, int8_of_the_host
from test_inhost_native_wan_gate import OTHER_CLASSES, around, network, patcher

Cancelled = comfy.model_management.InterruptProcessingException


@pytest.fixture(scope="module")
def prepare(ours):
    with torch.inference_mode():
        vae = tiny_vae()
    return lambda **more: prepared(ours, vae, **more)


@pytest.fixture(scope="module")
def clip(prepare):
    with torch.inference_mode():
        return prepare(clip_vision=TinyVision())["motion_clip"]


@pytest.fixture(scope="module")
def positive():
    return TinyText().encode_from_tokens_scheduled("a light")


@pytest.fixture
def classify(ours, clip, positive):
    return lambda model, **more: classified(ours, model, clip, positive, **more)


@pytest.fixture
def train(ours, clip, positive):
    return lambda prefix, model, **more: trained(ours, prefix, model, more.pop("motion_clip", clip), positive, **more)


@pytest.fixture
def half(classify):
    """A map of the tiny Wan, half of whose heads are said to be temporal."""
    return classify(tiny.native(), target_fraction=0.5)["head_map"]


@pytest.fixture
def both_refuse(train, classify, half):
    """Both nodes refuse a MODEL in these words and leave it as it was."""

    def check(model, said):
        before = seen(model)
        for run in (classify, lambda given: train("refused", given, head_map=half)):
            with pytest.raises(ConfigError, match=said):
                run(model)
        assert differences(before, seen(model)) == []

    return check


def newest_state(name):
    """The newest whole state of the only run of this name."""
    (run,) = (training_root() / name).iterdir()
    return read_state(list_states(run)[0])


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_every_other_class_of_wan_is_refused_by_name_by_both_nodes(both_refuse, name):
    config = comfy.supported_models.WAN21_T2V({"disable_unet_model_creation": True})
    model = patcher(getattr(comfy.model_base, name)(config))
    model.model.diffusion_model = network(in_dim=32)
    both_refuse(model, rf"this MODEL is .*\b{name}\b.* of 32 input channels; plain Wan is needed.*Load Diffusion Model")


@pytest.mark.parametrize("sizes, said", [
    ({"model_type": "i2v", "in_dim": 48}, "Wan Fun-Control .WAN21, 48 input channels; 16 and 36 are known.*plain Wan"),
    ({"in_dim": 36, "in_dim_ref_conv": 16}, "Fun-Control with a reference image .*36 input channels.*plain Wan"),
])  # fmt: skip
def test_fun_control_is_refused_by_type_and_channels_by_both_nodes(both_refuse, sizes, said):
    both_refuse(around(network(**sizes)), said)


@pytest.mark.parametrize("layer", [GGMLLinear, PackedInt8Linear])
def test_gguf_and_int8_of_other_packs_are_refused_by_both_nodes(both_refuse, layer):
    operations = type("Operations", (comfy.ops.manual_cast,), {"Linear": layer})
    both_refuse(tiny.native(custom_operations=operations), f"{layer.__name__}.*load the bf16, fp16 or fp8")


if hasattr(comfy.ops, "mixed_precision_ops"):  # newer hosts read INT8 themselves

    def test_int8_of_the_host_is_refused_by_both_nodes(both_refuse):
        both_refuse(int8_of_the_host(), "packed weights .*INT8.*load the bf16, fp16 or fp8")


if hasattr(comfy.ops, "scaled_fp8_ops"):  # older hosts

    def test_fp8_that_multiplies_in_fp8_is_refused_by_both_nodes(both_refuse):
        fast = comfy.ops.scaled_fp8_ops(fp8_matrix_mult=True, scale_input=True)
        both_refuse(tiny.native(custom_operations=fast), "multiplies in fp8 .*gradients do not pass.*load the bf16")


@pytest.mark.parametrize("options", [{}, {"custom_operations": comfy.ops.fp8_ops}], ids=["plain", "fast"])
def test_a_base_in_fp8_is_trained_beside_and_stays_as_it_was(train, options):
    model = native_model(dtype=torch.float8_e4m3fn, **options)
    model.model.eval()
    before = seen(model)
    done = train("in_fp8", model)
    assert differences(before, seen(model)) == [] and all(map(math.isfinite, done["loss"]["loss"]))
    assert read_safetensors(lora_file("in_fp8_00001"))[1]["base_precision"] == "float8_e4m3fn"
    lora_file("in_fp8_00001").unlink()


def test_frames_that_wans_vae_does_not_hold_come_with_a_number_that_it_does(prepare):
    for more, said in (({"num_frames": 16}, "16; Wan holds 4k \\+ 1 frames, here 9 to 1001: use 17"),
                       ({"images": moving(3)}, "3 frames at 16 fps.*at least 9.*take a longer clip")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            prepare(**more)


def test_a_clip_without_a_caption_is_trained_with_a_warning_before_and_in_the_report(train, prepare, monkeypatch):
    told, original = [], live_view.Page.say
    monkeypatch.setattr(live_view.Page, "say", lambda page, text: told.append(text) or original(page, text))
    done = train("wordless", tiny.native(), motion_clip=prepare(caption="")["motion_clip"])
    assert any("no caption: what it shows cannot be told from how it moves; name what is seen" in line for line in told)
    assert "no caption" in done["report"] and read_safetensors(lora_file("wordless_00001"))[1]["caption"] == ""


def test_heads_of_one_type_are_told_by_one_node_and_refused_by_the_other_with_a_way_out(train, classify):
    model = native_model()
    before = seen(model)
    assert "all heads are spatial: nothing to tell apart; set target_fraction to 0.3" in classify(model)["report"]
    with pytest.raises(ConfigError, match="all 4 heads are spatial by rule release.*set target_fraction to 0.3"):
        train("refused", model, head_map=None)
    assert differences(before, seen(model)) == []
    assert classify(model, target_fraction=0.3)["head_map"].temporal.sum() == 1


def test_a_map_of_another_base_is_used_with_a_warning_and_one_of_other_sizes_refused(train, classify):
    model = native_model(seed=1)
    before = seen(model)
    other = classify(tiny.native(), target_fraction=0.5)["head_map"]
    done = train("another_base", model, head_map=other)
    assert "the head map was made on another base; types may differ: classify the heads of this one" in done["report"]
    with pytest.raises(ConfigError, match="of 3 layers with 2 heads, this model has 2 with 2; classify its own heads"):
        train("refused", model, head_map=classify(tiny.native(blocks=3), target_fraction=0.5)["head_map"])
    assert differences(before, seen(model)) == []


def test_loras_on_the_base_are_trained_beside_recorded_and_told(train, classify):
    model = native_model()
    with torch.inference_mode(False):
        lora = head_lora(model.model.diffusion_model, torch.tensor([[True, False]] * 2), rank=2, alpha=2.0)
        for value in lora.parameters().values():
            value.data.normal_(generator=torch.Generator().manual_seed(1)).div_(6)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora.tensors(), 1.0, 0.0)
    used(patched)
    before, base = seen(patched), seen(model)
    done = train("with_loras", patched)
    assert "8 layers of the model carry LoRAs or other patches: the motion is learned beside them" in done["report"]
    assert read_safetensors(lora_file("with_loras_00001"))[1]["base_patches"] == "8"
    assert differences(before, seen(patched), sampled=True) == [] and differences(base, seen(model), sampled=True) == []


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_and_changes_nothing(train, monkeypatch, half):
    model = native_model()
    before = seen(model)
    monkeypatch.setattr(motion_loss, "motion_loss", lambda answer, truth, kind: answer.flatten(1).mean(1) * math.nan)
    said = "step 3 of 4: loss nan.*not finite.*weights were not changed and the last good state is .*lower the learning"
    with pytest.raises(CheckpointError, match=said):
        train("nan", model, head_map=half)
    assert differences(before, seen(model)) == [] and newest_state("nan").step == 2
    assert lora_file("nan_spatial_00001").is_file() and not lora_file("nan_00001").exists()


def test_cancel_while_a_clip_is_encoded_or_heads_are_looked_at_passes_and_leaves_nothing(prepare, train, classify):
    model = native_model()
    for run in (prepare, lambda: classify(model), lambda: train("looking", model, head_map=None)):
        before = seen(model)
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(Cancelled):
            run()
        assert differences(before, seen(model)) == []
    assert not lora_file("looking_00001").exists() and not any((training_root() / "looking" / "run-0001").iterdir())


@pytest.mark.parametrize("step, files", [(1, ["_spatial"]), (2, ["_spatial"]), (3, ["", "_spatial"])])
def test_cancel_in_either_stage_saves_state_and_what_has_been_trained_by_then(train, monkeypatch, half, step, files):
    model, name, said = native_model(), f"cancelled_{step}", []
    before = seen(model)
    monkeypatch.setattr(live_view.Page, "say", lambda page, text: said.append(text))
    with cancelled_after(monkeypatch, step):
        train(name, model, head_map=half)
    assert differences(before, seen(model)) == [] and newest_state(name).step == step
    assert f"stopped after step {step}" in said[-1]
    for part in ("", "_spatial"):
        path = lora_file(f"{name}{part}_00001")
        assert path.exists() == (part in files)
        if path.exists():
            tensors, told = read_safetensors(path)
            assert told["training_stopped_early"] == f"after step {step} of 4"
            assert any(value.any() for key, value in tensors.items() if key.endswith("lora_up.weight"))


def test_cancel_while_a_sample_is_drawn_saves_what_has_been_trained(train, monkeypatch, half, ours):
    from pack.nodes.training_run import previews

    model, drawn, original = native_model(), [], previews.SamplePlan.draw
    before = seen(model)

    def press(plan, *given):
        drawn.append(1)
        if len(drawn) == 3:  # before the first step, after step 2, after step 4
            comfy.model_management.interrupt_current_processing()
        return original(plan, *given)

    monkeypatch.setattr(previews.SamplePlan, "draw", press)
    with torch.inference_mode():
        vae = tiny_vae()
    with pytest.raises(Cancelled):
        train("drawing", model, head_map=half, vae=vae, sample_every=2, temporal_steps=4)
    assert differences(before, seen(model)) == [] and newest_state("drawing").step == 4
    assert lora_file("drawing_00001").is_file()


def test_a_run_does_not_go_on_with_another_clip_map_or_stage_unless_it_is_allowed(train, prepare, classify, half):
    model = native_model()
    before = seen(model)
    train("first", model, head_map=half)
    other = prepare(images=moving(seed=5), clip_vision=TinyVision())["motion_clip"]
    quarter = classify(model, target_fraction=0.25)["head_map"]
    again = {"head_map": half, "resume_from": "latest", "temporal_steps": 4}
    for change, said in (({"motion_clip": other}, "its frames changed"), ({"head_map": quarter}, "heads of was "),
                         ({"heads": "temporal"}, "heads was all, is temporal")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"was saved by another run: .*{said}.*put these back, or allow"):
            train("first", model, **{**again, **change})
    done = train("first", model, **again, motion_clip=other, allow_changed_data=True)
    assert len(done["loss"]["loss"]) == 6 and differences(before, seen(model)) == []


class FullDisk:
    """No file is written to the end while it is full."""

    def __init__(self, monkeypatch):
        self.is_full, real = False, os.fsync

        def fsync(handle):
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle)

        monkeypatch.setattr(atomic.os, "fsync", fsync)


def test_a_disk_that_is_full_before_or_while_it_trains_is_told_and_the_run_goes_on_later(train, monkeypatch, half):
    model, disk, original = native_model(), FullDisk(monkeypatch), live_view.Page.step
    before = seen(model)
    disk.is_full = True
    with pytest.raises(CheckpointError, match="No space left on device"):
        train("full_disk", model, head_map=half)
    disk.is_full = False

    def fills(page, report, losses):
        disk.is_full = report.step >= 3
        original(page, report, losses)

    with monkeypatch.context() as held, pytest.raises(CheckpointError, match="loras.*No space left on device"):
        held.setattr(live_view.Page, "step", fills)
        train("full_disk", model, head_map=half, save_every=2)
    assert differences(before, seen(model)) == []
    assert not lora_file("full_disk_00001").exists() and not list(lora_file("x").parent.glob(".motionblocks-*"))
    disk.is_full = False
    done = train("full_disk", model, head_map=half, save_every=2, resume_from="latest")
    assert len(done["loss"]["loss"]) == 4 and lora_file("full_disk_00001").is_file()
