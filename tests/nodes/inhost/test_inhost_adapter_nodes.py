"""Nodes of motion adapters: files in, stack on the model, and every bad input named."""

import json
import os
from pathlib import Path

import folder_paths
import own_motion_adapters as own
import pytest
import tiny
import tiny_native_wan
import torch
from pack.motion.adapters.lora import LoRA
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.adapters.adapter_file import save_adapter
from pack.nodes.host import page
from pack.nodes.models.own_adapters import attach, attached_stack


@pytest.fixture(scope="module")
def pair(models_folder):
    return own.model_at(models_folder / "adapter_nodes.safetensors", qk_norm=True)


@pytest.fixture(scope="module")
def folder():
    return Path(folder_paths.models_dir) / "motion_adapters"


@pytest.fixture(scope="module")
def saved(pair, folder):
    """Two adapters and a LoRA in the folder; returns the adapters."""
    folder.mkdir(exist_ok=True)
    made = {"sway": own.drawn(pair[1], seed=1), "pulse": own.drawn(pair[1], seed=2)}
    told = {"base_model": "adapter_nodes", "training_steps": "120", "trained_size": "48x48 px, 4 frames"}
    for name, adapter in made.items():
        save_adapter(folder / f"{name}.safetensors", adapter, {**told, "motion": name})
    with torch.inference_mode(False):
        lora = LoRA(pair[1], targets=("attn1",), rank=2, alpha=2.0)
        for value in lora.parameters().values():
            value.data.add_(0.05)
        save_adapter(folder / "plain_lora.safetensors", lora)
    return made | {"lora": lora}


@pytest.fixture
def load(ours, saved):
    return lambda name, **more: ours["LoadAdapter"].execute(f"{name}.safetensors", **more).args[0]


@pytest.fixture
def under(monkeypatch):
    """What the nodes show under themselves."""
    lines, original = [], page.page_text
    monkeypatch.setattr(page, "page_text", lambda text: lines.append(text) or original(text))
    return lines


def test_the_folders_are_models_and_output_and_hold_safetensors_only(ours, saved, folder):
    paths, kinds = folder_paths.folder_names_and_paths["motion_adapters"]
    output = os.path.join(folder_paths.get_output_directory(), "motion_adapters")
    assert paths[-2:] == [str(folder), output] and kinds == {".safetensors"}
    (folder / "old.pt").write_bytes(b"pickle")
    Path(output).mkdir(exist_ok=True)
    trained = Path(output) / "fresh_00001.safetensors"
    trained.write_bytes((folder / "sway.safetensors").read_bytes())
    node = ours["LoadAdapter"]
    assert node.validate_inputs("fresh_00001.safetensors") is True
    (listed,) = node.execute("fresh_00001.safetensors").args[0]
    assert listed.file.source == str(trained)
    names = node.INPUT_TYPES()["required"]["adapter_name"]
    assert "old.pt" not in json.dumps(str(names)) and "sway.safetensors" in json.dumps(str(names))
    trained.unlink()
    for name in ("fresh_00001.safetensors", "old.pt", "../sway.safetensors", "no.safetensors"):
        assert "is not in models/motion_adapters or output/motion_adapters" in node.validate_inputs(name), name
        with pytest.raises(CheckpointError, match="made by Train Motion Adapter, or a LoRA, is needed"):
            node.execute(name)
    assert node.validate_inputs(None) is True
    stamp = node.fingerprint_inputs("sway.safetensors")
    os.utime(folder / "sway.safetensors", ns=(1, 1))
    assert node.fingerprint_inputs("sway.safetensors") != stamp
    assert node.fingerprint_inputs("no.safetensors")


def test_those_that_come_with_the_pack_are_listed_first_and_move_a_photo(core, ours, under):
    node = ours["LoadAdapter"]
    names = node.INPUT_TYPES()["required"]["adapter_name"]
    listed = names[1]["options"] if len(names) > 1 and "options" in names[1] else names[0]
    assert listed[:2] == ["shipped: jelly", "shipped: pan_left"]
    assert node.validate_inputs("shipped: jelly") is True and node.fingerprint_inputs("shipped: jelly")[-1].isdigit()
    assert "is not in models/motion_adapters" in node.validate_inputs("shipped: ../motionblocks-tiny")
    model, *_ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    made = ours["ApplyAdapters"].execute(model, node.execute("shipped: jelly").args[0]).args[0]
    assert attached_stack(made).entries[0].adapter.config.rank == 16 and "base: motionblocks-tiny, " in under[0]


def test_a_file_tells_its_motion_base_and_size(load, saved, under):
    load("sway", weight=0.5, step_curve="0:1, 0.5:0.3", frame_curve="0:0, 1:1", mask=torch.ones(4, 6, 8))
    count = sum(value.numel() for value in saved["sway"].tensors().values())
    assert f"motion adapter: {count:,} numbers, rank 3" in under[-1].split("\n")
    for line in ("motion: sway", "base: adapter_nodes, 2 blocks of width 32", "trained: 48x48 px, 4 frames, 120 steps",
                 "weight 0.5, over the steps 0:1, 0.5:0.3, over the frames 0:0, 1:1, mask of 8x6 px, 4 frames"):
        assert line in under[-1].split("\n"), under[-1]
    load("plain_lora")
    assert under[-1].split("\n") == ["LoRA beside 8 layers, rank 2", "weight 1"]


def test_a_stack_is_chained_and_laid_on_the_model(core, ours, pair, load, saved, under):
    model, network = pair
    mask = torch.zeros(1, 6, 6)
    mask[:, :, :2] = 1
    stack = load("pulse", weight=0.4, mask=mask, stack=load("sway", weight=0.6, step_curve="0:1, 1:0.5"))
    (made,) = ours["ApplyAdapters"].execute(model, stack).args
    expected = attach(model, AdapterStack((
        StackEntry(saved["sway"], 0.6, "0:1, 1:0.5"), StackEntry(saved["pulse"], 0.4, mask=mask),
    )))  # fmt: skip
    assert torch.equal(own.sample(core, made), own.sample(core, expected))
    assert under[-1].split("\n") == ["sway.safetensors: weight 0.6, over the steps 0:1, 1:0.5",
                                     "pulse.safetensors: weight 0.4, mask of 6x6 px"]  # fmt: skip
    other_way = load("sway", weight=0.6, step_curve="0:1, 1:0.5", stack=load("pulse", weight=0.4, mask=mask))
    (turned,) = ours["ApplyAdapters"].execute(model, other_way).args
    torch.testing.assert_close(own.sample(core, turned), own.sample(core, made), atol=1e-5, rtol=1e-5)
    assert attached_stack(model) is None


def test_the_papers_form_and_a_lora_beside_an_adapter(core, ours, pair, load):
    model, _ = pair
    plain = own.sample(core, model)
    nothing = load("sway", weight=0.0)
    delta, paper = (ours["ApplyAdapters"].execute(model, nothing, form).args[0] for form in ("delta", "paper"))
    assert torch.equal(own.sample(core, delta), plain) and not torch.equal(own.sample(core, paper), plain)
    with_lora = ours["ApplyAdapters"].execute(model, load("plain_lora", stack=load("sway"))).args[0]
    alone = ours["ApplyAdapters"].execute(model, load("sway")).args[0]
    assert (own.sample(core, with_lora) - own.sample(core, alone)).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="form is 'both'; it must be one of: delta, paper"):
        ours["ApplyAdapters"].execute(model, nothing, "both")


def test_add_to_stack_multiplies_weights_and_takes_the_place_of_curves_and_masks(ours, load, under):
    loaded = load("sway", weight=0.5, step_curve="0:1, 1:0", mask=torch.ones(1, 3, 3))
    (first,) = ours["AddToStack"].execute(loaded, 0.5).args[0]
    assert (first.weight, first.step_curve, first.frame_curve) == (0.25, "0:1, 1:0", "")
    assert first.mask is loaded[0].mask or torch.equal(first.mask, loaded[0].mask)
    assert first.file is loaded[0].file
    other = torch.ones(1, 5, 5)
    made = ours["AddToStack"].execute(loaded, 1.0, " 0.2 ", "0:0, 1:1", other, load("pulse")).args[0]
    assert [item.name for item in made] == ["pulse.safetensors", "sway.safetensors"]
    assert (made[1].step_curve, made[1].frame_curve, made[1].mask.shape) == ("0.2", "0:0, 1:1", (1, 5, 5))
    assert under[-1].startswith("pulse.safetensors: weight 1\nsway.safetensors: weight 0.5, over the steps 0.2")
    with pytest.raises(ConfigError, match="the stack is empty"):
        ours["AddToStack"].execute(())


def test_combine_shares_one_sum_out_by_a_slider(ours, load):
    two = load("pulse", weight=3.0, stack=load("sway", weight=1.0))
    made = ours["CombineAdapters"].execute(two, load("plain_lora", weight=2.0), 0.25).args[0]
    assert [item.weight for item in made] == pytest.approx([0.1875, 0.5625, 0.25])
    made = ours["CombineAdapters"].execute(two, load("sway"), 1.0, 0.8).args[0]
    assert [item.weight for item in made] == pytest.approx([0, 0, 0.8])
    with pytest.raises(ConfigError, match="the weights of second come to -1; more than 0 is needed"):
        ours["CombineAdapters"].execute(two, load("sway", weight=-1.0))
    with pytest.raises(ConfigError, match="balance is 2; it must be 0.0 to 1.0"):
        ours["CombineAdapters"].execute(two, two, 2)


BAD = {
    "a weight of 1e9": ({"weight": 1e9}, ConfigError, "weight is 1000000000.0; it must be -4.0 to 4.0"),
    "a weight that is no number": ({"weight": float("nan")}, ConfigError, "weight is nan; it must be"),
    "an unsorted curve": ({"step_curve": "0.5:1, 0.2:0"}, ConfigError, "stands at 0.2; positions lie in 0..1"),
    "a curve with NaN": ({"frame_curve": "0:nan"}, ConfigError, "value 'nan' is no number"),
    "a curve of a comma": ({"step_curve": ","}, ConfigError, "point '' is no position:value"),
    "an empty mask": ({"mask": torch.zeros(1, 8, 8)}, ConfigError, "mask of sway.safetensors is empty, so it would"),
    "a mask beyond 1": ({"mask": torch.full((1, 8, 8), 2.0)}, ShapeError, "mask holds values from 2 to 2"),
    "a stack of something else": ({"stack": {"samples": 1}}, ConfigError, "stack is dict; connect the output adapters"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(load, what):
    given, kind, text = BAD[what]
    with pytest.raises(kind, match=text):
        load("sway", **given)


def test_a_weight_that_grows_too_large_on_the_way_is_refused(ours, load):
    with pytest.raises(ConfigError, match="weight of sway.safetensors is 12; it must be -4 to 4"):
        ours["AddToStack"].execute(load("sway", weight=4.0), 3.0)


def test_the_same_adapter_twice_and_a_loose_sum_are_said(ours, pair, load, under):
    ours["ApplyAdapters"].execute(pair[0], load("sway", stack=load("sway")))
    assert under[-1].split("\n")[2:] == ["the weights of the motion adapters come to 2; 1 is most stable",
                                         "sway.safetensors is in the stack twice; its weights add up"]  # fmt: skip
    mask = torch.ones(1, 4, 4)
    ours["ApplyAdapters"].execute(pair[0], load("sway", mask=mask, stack=load("sway", mask=mask)))
    assert len(under[-1].split("\n")) == 2  # a run looks at what the masks come to


def test_adapters_of_another_base_are_refused_and_the_model_stays(core, ours, pair, load, folder, models_folder):
    model, _ = pair
    plain, before = own.sample(core, model), own.by_value(model)
    wide = {"num_attention_heads": 3, "num_cross_attention_heads": 3}
    spec = tiny.tiny_spec()
    config = type(spec.config)(**{**vars(spec.config), **wide})
    with torch.inference_mode(False):
        from pack.motion.models.linear_video.network import LinearVideoDiT

        save_adapter(folder / "wider.safetensors", own.drawn(LinearVideoDiT(config)))
    with pytest.raises(CheckpointError, match="wider.safetensors: made for a network whose width is '48'; here it is "):
        ours["ApplyAdapters"].execute(model, load("wider", stack=load("sway")))
    wan = tiny_native_wan.native()
    with pytest.raises(ConfigError, match=r"sway.* was made for another model \(linear video model\); this MODEL is"):
        ours["ApplyAdapters"].execute(wan, load("sway"))
    with pytest.raises(CheckpointError, match="plain_lora.safetensors"):
        ours["ApplyAdapters"].execute(wan, load("plain_lora"))
    assert own.by_value(model) == before and torch.equal(own.sample(core, model), plain)


def test_a_lora_of_wan_goes_on_wan_with_curves_and_masks(core, ours, load, folder):
    wan = tiny_native_wan.native()
    with torch.inference_mode(False):
        lora = LoRA(wan.model.diffusion_model, targets=("self_attn",), rank=2, alpha=2.0)
        for value in lora.parameters().values():
            value.data.add_(0.05)
        save_adapter(folder / "of_wan.safetensors", lora)
    made = ours["ApplyAdapters"].execute(wan, load("of_wan", step_curve="0:1, 1:0.5")).args[0]
    off = ours["ApplyAdapters"].execute(wan, load("of_wan", weight=0.0)).args[0]
    plain = tiny_native_wan.sample(core, wan)
    assert torch.equal(tiny_native_wan.sample(core, off), plain)
    assert (tiny_native_wan.sample(core, made) - plain).abs().max() > 1e-4


def test_a_cut_file_and_a_file_of_something_else_are_named(ours, load, folder, models_folder):
    whole = (folder / "sway.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut.safetensors"):
        load("cut")
    (folder / "model.safetensors").write_bytes((models_folder / "adapter_nodes.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="a LoRA is needed"):
        load("model")


def test_a_core_lora_loader_leaves_the_model_as_it_is_with_an_adapters_file(core, pair, folder, saved, loras_folder):
    (loras_folder / "an_adapter.safetensors").write_bytes((folder / "sway.safetensors").read_bytes())
    (loaded,) = core("LoraLoaderModelOnly", model=pair[0], lora_name="an_adapter.safetensors", strength_model=1.0)
    assert torch.equal(own.sample(core, loaded), own.sample(core, pair[0]))


def test_a_mask_lies_on_the_square_that_a_builtin_model_sees_its_photo_in(ours, folder):
    from pack.motion.layers.letterbox import fit_square

    model, *_ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    with torch.inference_mode(False):
        adapter = own.drawn(model.model.diffusion_model)
        save_adapter(folder / "of_tiny.safetensors", adapter)
    mask = torch.zeros(1, 60, 120)
    mask[:, 30:] = 1  # the lower half of a wide photo
    listed = ours["LoadAdapter"].execute("of_tiny.safetensors", mask=mask).args[0]
    (entry,) = attached_stack(ours["ApplyAdapters"].execute(model, listed).args[0]).entries
    assert torch.equal(entry.mask, fit_square(mask.unsqueeze(1), 64)[:, 0])
    tokens = entry.mask_of(16, 1, (8, 8))[0].view(8, 8)
    lower = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])  # the photo is in the middle, mirrored above and below
    assert (tokens - lower.view(8, 1)).abs().max() < 0.05


def test_adapter_noise_is_that_of_the_library_and_refuses_an_empty_latent(ours, pair):
    from pack.motion.conditioning.shared_noise import adapter_noise

    model, first = pair[0], tiny.first_latent()
    noise = ours["AdapterNoise"].execute(model, tiny.start(first=first), 5, 0.1, 0.5, 0.9).args[0]
    made = noise.generate_noise(tiny.start(first=first))
    drawn = torch.randn(made.shape, generator=torch.manual_seed(5))
    expected = adapter_noise(model.model.process_latent_in(first), drawn, share=0.1, keep=0.5, sigma_tau=0.9)
    assert torch.equal(made, expected) and noise.seed == 5
    with pytest.raises(ShapeError, match="Adapter Noise needs the start picture"):
        ours["AdapterNoise"].execute(model, {"samples": torch.zeros(1, tiny.CHANNELS, 4, 6, 6)}, 5)
    with pytest.raises(ConfigError, match="share is 2; it must be 0.0 to 1.0"):
        ours["AdapterNoise"].execute(model, tiny.start(), 5, 2)


def test_match_first_frame_keeps_the_rest_of_a_latent_and_refuses_a_builtin_one(ours):
    samples = tiny.randn(1, 4, 3, 5, 5)
    (made,) = ours["MatchFirstFrame"].execute({"samples": samples, "batch_index": [3]}).args
    assert made["batch_index"] == [3] and torch.equal(made["samples"][:, :, 0], samples[:, :, 0])
    torch.testing.assert_close(made["samples"].std((-2, -1)), samples[:, :, :1].std((-2, -1)).expand(1, 4, 3))
    with pytest.raises(ConfigError, match="matching it would stop the video"):
        ours["MatchFirstFrame"].execute({"samples": torch.rand(1, 200, 3, 8, 8)})
    with pytest.raises(ShapeError, match="that of a video"):
        ours["MatchFirstFrame"].execute({"samples": torch.rand(1, 4, 8, 8)})


def test_an_empty_prompt_needs_no_text_encoder_where_adapters_replace_the_text(core, ours, pair, load):
    model, _ = pair
    acts = ours["ApplyAdapters"].execute(model, load("sway")).args[0]
    ((context, more),) = ours["EmptyPrompt"].execute(model).args[0]
    assert context.shape == (1, 1, tiny.TEXT) and not context.any() and more == {}
    first = tiny.first_latent()
    outs = []
    for text in (context, tiny.randn(1, 5, tiny.TEXT)):
        prompt = [[text, {"first_latent": first}]]
        outs.append(core("KSampler", model=acts, seed=5, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
                         denoise=1.0, positive=prompt, negative=prompt, latent_image=tiny.start())[0]["samples"])
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)
    wan = tiny_native_wan.native()
    assert ours["EmptyPrompt"].execute(wan).args[0][0][0].shape == (1, 1, tiny_native_wan.TEXT)
    model, clip, _ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    with pytest.raises(ConfigError, match="also reads the prompt as a whole, which adapters do not replace; connect"):
        ours["EmptyPrompt"].execute(model)
    (told,) = ours["EmptyPrompt"].execute(model, clip).args
    (plain,) = core("CLIPTextEncode", clip=clip, text="")
    assert torch.equal(told[0][0], plain[0][0])
    assert torch.equal(told[0][1]["pooled_output"], plain[0][1]["pooled_output"])
