"""Learning one clip's motion beside the host's own Wan: clips, heads, two stages, files, and what is refused."""

import json
import math
from pathlib import Path

import comfy.sd
import comfy.utils
import pytest
import tiny_native_wan as tiny
import torch
from motion_nodes import classified, lora_file, moving, prepared, trained
from native_training import TinyText, TinyVision, differences, native_model, native_trainee, seen, tiny_vae, used
from pack.motion.adapters.head_lora import head_lora
from pack.motion.analysis.head_map import HeadMap
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.networks.base_licence import OF_PACK, OF_WAN
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.rotary import sparse_places
from pack.motion.training.head_classes import classify_heads
from pack.nodes.models.native_wan import native_wan
from press_cancel import cancelled_after
from tiny_wan import apart

PLANTED = torch.tensor([[True, False], [False, True]])


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return tiny_vae()


@pytest.fixture(scope="module")
def prepare(ours, vae):
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
    """Run the node on a tiny Wan, half of whose heads are said to be temporal."""
    return lambda prefix, model, **more: trained(ours, prefix, model, more.pop("motion_clip", clip), positive, **more)


def planted(kinds=PLANTED):
    """A MODEL whose heads look along time or stay in space as `kinds` says, (layers, 2)."""
    weights, turning = tiny.weights(blocks=len(kinds)), 44
    for layer, row in enumerate(kinds):
        for part in "qk":
            name = f"blocks.{layer}.self_attn.{part}"
            bias = torch.zeros(256)
            for head, is_temporal in enumerate(row):
                mine = bias[128 * head : 128 * head + 128]
                if is_temporal:
                    mine[turning:] = math.sqrt(turning / (128 - turning))
                else:
                    mine[:turning] = 1.0
            weights |= {f"{name}.weight": torch.zeros(256, 256), f"{name}.bias": bias}
        weights |= {f"blocks.{layer}.self_attn.norm_q.weight": torch.full((256,), 6.0),
                    f"blocks.{layer}.self_attn.norm_k.weight": torch.ones(256)}  # fmt: skip
    model = tiny.loaded(weights)
    used(model)
    return model


def test_a_clip_is_chosen_shown_and_encoded_from_images_a_video_or_clips(prepare, ours):
    done = prepare()
    made = done["motion_clip"]
    assert done["frames"].shape == (5, 32, 48, 3) and done["caption"] == "a light"
    assert "9 frames at 16 fps" in done["plan"] and "5 of them are trained, 2 latent frames: 0 2 4 6 8" in done["plan"]
    assert made.sparse["latents"].shape == (16, 2, 4, 6) and made.whole["latents"].shape == (16, 3, 4, 6)
    assert made.alone.shape == (5, 16, 1, 4, 6) and made.sparse["concat_latents"].shape == (20, 2, 4, 6)
    assert not any(value.is_inference() for value in (*made.sparse.values(), made.alone, made.first))

    class Video:
        def get_components(self):
            return type("Parts", (), {"images": moving(), "frame_rate": 16.0})

    same = prepare(images=None, source_fps=0.0, video=Video())["motion_clip"]
    assert torch.equal(same.sparse["latents"], made.sparse["latents"])
    clips, *_ = ours["ClipsFromImages"].execute(moving(), fps=16.0, caption="its own").args
    own = prepare(images=None, source_fps=0.0, clips=clips, caption="")
    assert own["caption"] == "its own" and own["motion_clip"].fingerprint == made.fingerprint
    assert "no caption" in prepare(caption="")["plan"]


@pytest.mark.parametrize("more, said", [
    ({"images": None}, "nothing is connected; connect one of clips"), ({"source_fps": 0.0}, "source_fps is 0"),
    ({"num_frames": 16}, "num_frames is 16; .*use 17"), ({"sparse_frames": 16}, "sparse_frames is 16; .*use 17"),
    ({"images": moving(3)}, "has 3 frames at 16 fps.*at least 9"), ({"start": 60.0}, "start is 60 s"),
])  # fmt: skip
def test_clips_that_do_not_serve_are_refused_in_words(prepare, more, said):
    with pytest.raises(ValueError, match=said):
        prepare(**more)


def test_a_slow_source_is_told(prepare):
    assert "10 frames a second, fewer than 16" in prepare(source_fps=10.0)["plan"]


@pytest.mark.parametrize("rule", ["release", "paper"])
def test_planted_heads_are_told_apart_and_the_model_stays_as_it_was(classify, prepare, rule):
    model = planted()
    before = seen(model)
    done = classify(model, rule=rule)
    assert torch.equal(done["head_map"].temporal, PLANTED) and differences(before, seen(model)) == []
    assert "2 of 4 heads are temporal" in done["report"] and done["picture"].ndim == 4
    again = classify(model, rule=rule, text=done["text"], target_fraction=0.25)
    assert again["head_map"].temporal.sum() == 1
    assert torch.equal(again["head_map"].space, done["head_map"].space)
    assert "another base" in classify(native_model(), text=done["text"])["report"]


@pytest.mark.parametrize("rule", ["release", "paper"])
def test_sixteen_planted_heads_are_all_right_from_sixty_rows(rule, figure):
    kinds = torch.rand(8, 2, generator=torch.Generator().manual_seed(3)) < 0.4
    batch = {"latents": tiny.randn(1, 16, 5, 16, 16), "context": tiny.randn(1, 6, tiny.TEXT)}
    trainee = native_trainee(planted(kinds))
    with torch.inference_mode(False):
        given = {name: value.clone() for name, value in batch.items()}
        found = classify_heads(trainee, given, per_frame=12, rule=rule)
    right = int((found.temporal == kinds).sum())
    figure(f"planted heads of 16 that rule {rule} tells from 60 of 320 rows", right)
    assert right == 16 and 0 < int(kinds.sum()) < 16 and 5 * found.per_frame == 60


def test_several_looks_tell_how_far_types_drift_and_loras_are_counted(classify):
    model = tiny.native()
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora_of(model, PLANTED).tensors(), 1.0, 0.0)
    done = classify(patched, sigmas="0.9, 0.7", seeds=2)
    assert "4 looks" in done["report"] and "% of heads change their type" in done["report"]
    assert "8 layers of the model carry LoRAs" in done["report"] and len(done["head_map"].looks) == 4


def lora_of(model, chosen):
    with torch.inference_mode(False):
        lora = head_lora(model.model.diffusion_model, chosen, rank=2, alpha=2.0)
        draw = torch.Generator().manual_seed(1)
        for value in lora.parameters().values():
            value.data.copy_(torch.randn(value.shape, generator=draw) / 6)
    return lora


def test_the_file_on_the_whole_model_answers_as_the_heads_that_were_trained(figure):
    model = tiny.native()
    lora = lora_of(model, torch.tensor([[True, False], [False, False]]))
    latents, context = tiny.randn(1, 16, 3, 4, 4), tiny.randn(1, 6, tiny.TEXT)
    sigma, told = torch.tensor([0.7]), Conditions(context)
    trainee = native_trainee(model)
    with trainee.session(frozen=True), torch.no_grad(), lora.attached():
        truth = trainee.predict(latents.clone(), sigma, told)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora.tensors(), 1.0, 0.0)
    assert len(patched.patches) == 4
    other = native_trainee(patched)
    with other.session(frozen=True), torch.no_grad():
        found = other.predict(latents.clone(), sigma, told)
    figure("LoRA of one head through core's loader against the trained form", apart(found, truth))
    assert apart(found, truth) < 1e-5
    with trainee.session(frozen=True), torch.no_grad():
        assert apart(trainee.predict(latents.clone(), sigma, told), truth) > 1e-4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frames_at_places_of_their_own_are_turned_as_our_own_wan_turns_them(checkpointing):
    model = tiny.native()
    with torch.inference_mode(False):
        own = WanDiT(tiny.config())
        own.load_state_dict(tiny.weights())
    latents, context = tiny.randn(2, 16, 3, 4, 4), tiny.randn(2, 6, tiny.TEXT)
    timestep, trainee = torch.tensor([900.0, 300.0]), native_trainee(model, checkpointing=checkpointing)
    with trainee.session(frozen=True), torch.no_grad():
        given = (latents.clone(), timestep.clone())
        plain = trainee.native.velocity(*given, Conditions(context.clone()))
        whole = trainee.native.velocity(*given, Conditions(context.clone(), frame_indices=torch.arange(3.0)))
        assert torch.equal(plain, whole)
        for places in (sparse_places("paper", 3, 5), torch.tensor([[0.0, 2.0, 4.0], [0.0, 1.5, 7.25]])):
            told = Conditions(context.clone(), frame_indices=places)
            found = trainee.native.velocity(*given, told)
            assert apart(found, own(*given, told)) < 2e-5 and apart(found, plain) > 1e-4


def test_the_small_wan_of_the_pack_has_the_packs_licence_other_wan_its_own(ours):
    model = ours["LoadBuiltin"].execute("motionblocks-wan").args[0]
    assert native_wan(model).licence() == {"license": OF_PACK}
    assert native_wan(tiny.native()).licence() == {"license": OF_WAN}


def test_two_stages_make_two_files_that_core_applies_whole_and_leave_the_model_alone(train, core, vae, positive):
    model = native_model()
    before = seen(model)
    done = train("moves", model, vae=vae, sample_positive=positive, heads="temporal")
    assert differences(before, seen(model)) == []
    assert Path(done["path"]) == lora_file("moves_00001") and lora_file("moves_spatial_00001").is_file()
    tensors, told = read_safetensors(Path(done["path"]))
    kind = [told[name] for name in ("stage", "heads", "caption", "input_channels", "rank", "frame_places")]
    assert kind == ["temporal", "temporal", "a light", "16", "2", "stride"]
    assert told["license"] == OF_WAN and json.loads(told["frames"]) == [0, 2, 4, 6, 8]
    found = HeadMap.from_json(told["head_map"])
    assert found.fingerprint == done["head_map"].fingerprint and told["training_steps"] == "4"
    for layer, row in enumerate(found.temporal):
        up = tensors.get(f"diffusion_model.blocks.{layer}.self_attn.q.lora_up.weight")
        for head, is_temporal in enumerate(row):
            moved = up is not None and bool(up[128 * head : 128 * head + 128].any())
            assert moved == bool(is_temporal)
    patched, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(done["path"]), 1.0, 0.0)
    assert len(patched.patches) == len(tensors) // 3 == len(done["model"].patches)
    assert len(done["loss"]["loss"]) == 4 and done["samples"].shape[0] == 2 and done["samples"].isfinite().all()
    assert "spatial stage: 2 steps" in done["report"] and "temporal stage: 2 steps" in done["report"]
    assert read_safetensors(lora_file("moves_spatial_00001"))[1]["stage"] == "spatial"


def test_a_run_stopped_at_the_border_goes_on_to_the_same_bits(train, monkeypatch, classify):
    model = native_model()
    given = {"head_map": classify(model, target_fraction=0.5)["head_map"], "save_every": 1}
    whole = train("whole", model, **given)
    with cancelled_after(monkeypatch, 2):
        train("cut", model, **given)
    assert read_safetensors(lora_file("cut_spatial_00001"))[1]["training_stopped_early"] == "after step 2 of 4"
    assert not lora_file("cut_00001").exists()
    resumed = train("cut", model, **given, resume_from="latest")
    one, other = (read_safetensors(Path(done["path"]))[0] for done in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ConfigError, match="heads of was"):
        train("cut", model, **{**given, "head_map": classify(model, target_fraction=0.25)["head_map"]},
              resume_from="latest", allow_changed_data=False)  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "expert"])
def test_a_model_that_begins_with_a_picture_trains_its_motion_alone(train, kind):
    expert = {"expert": "high noise"} if kind == "expert" else {}
    done = train(f"i2v_{kind}", tiny.native(kind), **expert)
    assert len(done["loss"]["loss"]) == 2 and "the spatial stage is left out" in done["report"]
    name = f"i2v_{kind}" + ("_high" if expert else "")
    tensors, told = read_safetensors(lora_file(f"{name}_00001"))
    assert not lora_file(f"{name}_spatial_00001").exists()
    assert told.get("expert", "") == ("high_noise" if expert else "")
    if expert:
        assert json.loads(told["training"])["sigma_min"] == 0.9


def test_what_is_told_of_loras_on_the_base(train, classify):
    model = tiny.native()
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora_of(model, PLANTED).tensors(), 1.0, 0.0)
    done = train("patched", patched, temporal_steps=1, spatial_steps=1)
    assert "8 layers of the model carry LoRAs" in done["report"]
    assert read_safetensors(Path(done["path"]))[1]["base_patches"] == "8"


@pytest.mark.parametrize("change, said", [
    ({"motion_clip": object()}, "motion_clip is object; connect Prepare Motion Clip"),
    ({"preset": "mine"}, "preset is 'mine'"), ({"stage": "mine"}, "stage is 'mine'"),
    ({"head_map": object()}, "head_map is object"), ({"expert": "mine"}, "expert is 'mine'"),
    ({"head_map": None}, "all 4 heads are spatial by rule release.*target_fraction"),
    ({"more_settings": "caption_dropout = 0.5"}, "caption_dropout is above 0"),
    ({"sample_positive": [[torch.zeros(1, 4, 7), {}]]}, r"text of \(1, 4, 7\); this model reads width 4096"),
    ({"sample_positive": []}, "sample_positive holds 0 prompts"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_words(train, change, said):
    with pytest.raises(ValueError, match=said):
        train("refused", tiny.native(), **change)


def test_models_that_give_no_gradients_are_refused_by_both_nodes(train, classify, ours):
    compiled = tiny.native()
    compiled.model_options["torch_compile_kwargs"] = {}
    given = classify(tiny.native(), target_fraction=0.5)["head_map"]
    for run in (classify, lambda model: train("refused", model, head_map=given)):
        with pytest.raises(ConfigError, match="compiled"):
            run(compiled)
    linear = ours["LoadBuiltin"].execute("motionblocks-tiny").args[0]
    with pytest.raises(ConfigError, match="attn_temporal. are apart already, so it has no heads.*Train Motion LoRA"):
        classify(linear)


def test_a_map_of_a_deeper_model_is_refused(train, classify):
    deeper = classify(tiny.native(blocks=3), target_fraction=0.5)["head_map"]
    with pytest.raises(ConfigError, match="of 3 layers with 2 heads, this model has 2 with 2"):
        train("refused", tiny.native(), head_map=deeper)


def test_a_loss_that_is_not_finite_ends_it_with_the_model_as_it_was(train, monkeypatch):
    from pack.motion.training.objectives import motion_loss

    model = native_model()
    before = seen(model)
    monkeypatch.setattr(motion_loss, "motion_loss", lambda answer, truth, kind: answer.flatten(1).mean(1) * math.nan)
    with pytest.raises(ValueError, match="step 3 of 4: loss nan"):
        train("nan", model)
    assert differences(before, seen(model)) == []
