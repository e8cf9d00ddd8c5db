"""Gemma-2 on the CLIP socket against the pipelines of SANA and SANA-Video, and every way to bring it in."""

import importlib
import json
import shutil

import comfy.cli_args
import comfy.model_management as memory
import pytest
import tiny
import tiny_gemma
import torch
from pack.nodes.host.conditions import read
from safetensors.torch import load_file, save_file

gemma = importlib.import_module("pack.nodes.text_encoders.gemma")
encoders = importlib.import_module("pack.nodes.training_run.encoders")
instructions = importlib.import_module("pack.motion.text.instructions")
NAME = "gemma-2-2b-it"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(oracle):
    return oracle("gemma")


@pytest.fixture(scope="module")
def truth(folder):
    return load_file(folder / "truth.safetensors")


@pytest.fixture(scope="module")
def prompts(folder):
    return json.loads((folder / "prompts.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def _encoder_folder(folder, text_folder):
    for name in (NAME, "half", "uncapped"):
        shutil.copytree(folder / name, text_folder / name, dirs_exist_ok=True)


def load(ours, name=NAME, instruction="video", weight_dtype="fp32"):
    (clip,) = ours["LoadTextEncoder"].execute(name, instruction, weight_dtype).args
    return clip


@pytest.fixture(scope="module")
def clip(ours):
    return load(ours)


def encode(ours, clip, positive, negative="", dynamics=15, score=False):
    return ours["EncodePrompts"].execute(clip, positive, negative, dynamics, score).args


def deviation(conditioning, embeds, mask):
    """Largest difference from the pipeline, relative to its largest value; the masks must be the same."""
    ((context, extra),) = conditioning
    assert context.shape == embeds.shape and context.dtype == torch.float32
    assert torch.equal(extra["attention_mask"].long(), mask)
    return ((context - embeds).abs().max() / embeds.abs().max()).item()


@pytest.mark.parametrize("name, kind", [(NAME, "video"), (NAME, "image"), ("uncapped", "video")])
def test_both_prompts_equal_those_of_the_pipeline(ours, truth, prompts, name, kind):
    clip, case = load(ours, name, kind), f"{'uncapped' if name == 'uncapped' else 'capped'}.{kind}"
    for number, prompt in enumerate(prompts):
        positive, negative = encode(ours, clip, prompt, prompt)
        part = {what: truth[f"{case}.{number}.{what}"] for what in ("embeds", "mask", "negative", "negative_mask")}
        assert deviation(positive, part["embeds"], part["mask"]) <= 1e-5, number
        assert deviation(negative, part["negative"], part["negative_mask"]) <= 1e-5, number


def test_bf16_weights_are_computed_in_float32_with_norms_unrounded(ours, truth, prompts):
    positive, _ = encode(ours, load(ours, "half", weight_dtype="default"), prompts[0])
    assert deviation(positive, truth["half.video.0.embeds"], truth["half.video.0.mask"]) <= 1e-5


def test_the_soft_cap_is_seen_in_what_is_encoded(truth):
    capped, uncapped = truth["capped.video.0.embeds"], truth["uncapped.video.0.embeds"]
    assert ((capped - uncapped).abs().max() / capped.abs().max()).item() > 0.005


def test_motion_score_is_twice_the_dynamics_behind_the_positive_prompt_alone(ours, clip, truth, prompts):
    prompt = prompts[2].removesuffix(" motion score: 30.")
    positive, negative = encode(ours, clip, prompt, prompts[0], 15, True)
    assert prompt != prompts[2]
    assert deviation(positive, truth["capped.video.2.embeds"], truth["capped.video.2.mask"]) <= 1e-5
    assert deviation(negative, truth["capped.video.0.negative"], truth["capped.video.0.negative_mask"]) <= 1e-5
    assert read(positive[0][1]).motion_bucket_id == read(negative[0][1]).motion_bucket_id == 15


def test_core_clip_text_encode_gives_the_positive_form_and_reads_an_empty_text_alone(ours, core, clip, prompts):
    (plain,) = core("CLIPTextEncode", clip=clip, text=prompts[0])
    positive, negative = encode(ours, clip, prompts[0])
    assert torch.equal(plain[0][0], positive[0][0])
    (empty,) = core("CLIPTextEncode", clip=clip, text="")
    assert torch.equal(empty[0][0], negative[0][0]) and int(empty[0][1]["attention_mask"].sum()) == 1


def test_every_layout_gives_the_same_text(ours, core, clip, folder, text_folder, models_folder, prompts):
    source = folder / NAME
    weights = load_file(source / "model.safetensors")
    spm = torch.frombuffer(bytearray((source / "tokenizer.model").read_bytes()), dtype=torch.uint8)
    single = {f"model.{name}": value for name, value in weights.items()}
    head = {"lm_head.weight": weights["embed_tokens.weight"].clone()}
    save_file({**single, **head, "spiece_model": spm}, text_folder / "gemma_it.safetensors")
    save_file({name: value.contiguous() for name, value in clip.get_sd().items()}, text_folder / "saved.safetensors")
    for place in (text_folder / "shards-it", models_folder / "SANA-Video" / "text_encoder"):
        _shards(place, single)
        shutil.copy(source / "config.json", place)
    (models_folder / "SANA-Video" / "model_index.json").write_text("{}")
    for place in (text_folder / "shards-it", models_folder / "SANA-Video" / "tokenizer"):
        place.mkdir(exist_ok=True)
        shutil.copy(source / "tokenizer.model", place)
    shutil.copytree(source, text_folder / "json-it")
    (text_folder / "json-it" / "tokenizer.model").unlink()
    shutil.copy(folder / "json" / "tokenizer.json", text_folder / "json-it")
    names = ["gemma_it.safetensors", "saved.safetensors", "shards-it", "SANA-Video", "json-it"]
    assert set(names) <= set(ours["LoadTextEncoder"].define_schema().inputs[0].options)
    for name in names:
        for prompt in prompts[:2]:
            found, _ = encode(ours, load(ours, name), prompt)
            assert torch.equal(found[0][0], encode(ours, clip, prompt)[0][0][0]), name


def _shards(place, weights):
    place.mkdir(parents=True)
    names, files = sorted(weights), [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        save_file({name: weights[name] for name in names if where[name] == file}, place / file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def dtypes(clip):
    named = dict(clip.cond_stage_model.gemma2_2b.transformer.named_parameters())
    norms = {value.dtype for name, value in named.items() if name.endswith("norm.weight")}
    return {value.dtype for name, value in named.items() if not name.endswith("norm.weight")}, norms


@pytest.mark.parametrize(
    "flag, need", [(None, torch.bfloat16), ("fp16_text_enc", torch.bfloat16),
                   ("bf16_text_enc", torch.bfloat16), ("fp32_text_enc", torch.float32)],
)  # fmt: skip
def test_weights_are_kept_in_bf16_unless_the_host_was_started_with_fp32(ours, monkeypatch, flag, need):
    if flag:
        monkeypatch.setattr(comfy.cli_args.args, flag, True)
    assert dtypes(load(ours, weight_dtype="default")) == ({need}, {torch.float32})


def test_weights_are_float32_where_the_device_has_no_bf16(ours, monkeypatch):
    had = memory.supports_cast
    monkeypatch.setattr(memory, "supports_cast", lambda device, dtype: dtype != torch.bfloat16 and had(device, dtype))
    for choice in ("default", "bf16"):
        assert dtypes(load(ours, weight_dtype=choice)) == ({torch.float32}, {torch.float32})


def test_a_float16_file_is_kept_in_bf16(ours, text_folder):
    place = tiny_gemma.write_folder(text_folder / "fp16-it", dtype=torch.float16)
    assert dtypes(load(ours, place.name, weight_dtype="default")) == ({torch.bfloat16}, {torch.float32})


def test_float16_is_no_choice(ours):
    with pytest.raises(ValueError, match="fp16"):
        ours["LoadTextEncoder"].execute(NAME, "video", "fp16")
    with pytest.raises(ValueError, match="instruction"):
        ours["LoadTextEncoder"].execute(NAME, "poem", "fp32")


def test_low_memory_mode_gives_the_same_text(ours, prompts):
    clip = load(ours, weight_dtype="default")
    plain = encode(ours, clip, prompts[0])[0][0][0]
    low = load(ours, weight_dtype="default")
    low.patcher.patch_model(device_to=CPU, lowvram_model_memory=1)
    assert sum(getattr(layer, "comfy_cast_weights", False) for layer in low.patcher.model.modules()) > 15
    tokens = low.tokenize(prompts[0])
    low.cond_stage_model.reset_clip_options()
    assert torch.equal(low.cond_stage_model.encode_token_weights(tokens)[0], plain)


def test_full_size_names_shapes_and_parameters_are_the_hosts_own():
    config = gemma.GemmaConfig(256000, 2304, 9216, 26, 8, 4)
    options = {f"{gemma.TOKENS}_model_config": gemma._host_config(config)}
    model = gemma.GemmaTextModel(device=torch.device("meta"), dtype=torch.bfloat16, model_options=options)
    found = {name: tuple(p.shape) for name, p in model.gemma2_2b.transformer.model.named_parameters()}
    assert found == config.shapes() and len(found) == 288
    assert sum(torch.Size(shape).numel() for shape in found.values()) == config.num_parameters == 2_614_341_888


def test_another_instruction_comes_on_a_clone(ours, clip, truth, prompts):
    before = encode(ours, clip, prompts[0])[0][0][0]
    (image,) = ours["SetInstruction"].execute(clip, instructions.INSTRUCTIONS["image"]).args
    found, _ = encode(ours, image, prompts[0])
    assert deviation(found, truth["capped.image.0.embeds"], truth["capped.image.0.mask"]) <= 1e-5
    (none,) = ours["SetInstruction"].execute(image, "").args
    positive, negative = encode(ours, none, prompts[0], prompts[0])
    assert torch.equal(positive[0][0], negative[0][0])
    assert torch.equal(encode(ours, clip, prompts[0])[0][0][0], before)
    assert none.patcher.model is clip.patcher.model


def test_an_instruction_that_is_too_long_or_has_no_place_is_refused(ours, clip):
    with pytest.raises(ValueError, match="1000"):
        ours["SetInstruction"].execute(clip, "waves π " * 1000)
    _, motions, _ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    with pytest.raises(ValueError, match="no instruction"):
        ours["SetInstruction"].execute(motions, "x")


def test_the_motion_vocabulary_goes_through_the_same_node_without_score(ours, core):
    _, motions, _ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    positive, negative = encode(ours, motions, "pan left", "", 7, True)
    (plain,) = core("CLIPTextEncode", clip=motions, text="pan left")
    assert torch.equal(positive[0][0], plain[0][0])
    assert read(positive[0][1]).motion_bucket_id == read(negative[0][1]).motion_bucket_id == 7


def test_what_is_cut_off_is_said_under_the_node(ours, clip, prompts):
    said = ours["EncodePrompts"].execute(clip, prompts[3], "short", 15, True).ui.as_dict()["text"][0]
    assert "positive prompt too long" in said and "motion score with them" in said and "negative" not in said
    assert "too long" not in ours["EncodePrompts"].execute(clip, "short", "short").ui.as_dict()["text"][0]


@pytest.mark.parametrize("dynamics", [-1, 20, True, 1.5])
def test_dynamics_outside_the_range_is_refused(ours, clip, dynamics):
    with pytest.raises(ValueError, match="dynamics"):
        encode(ours, clip, "a", dynamics=dynamics)


def test_a_layer_of_the_users_choice_is_refused_and_the_clip_goes_on(ours, core, clip, prompts):
    (other,) = core("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)
    with pytest.raises(ValueError, match="CLIP Set Last Layer"):
        core("CLIPTextEncode", clip=other, text="a")
    assert encode(ours, clip, prompts[0])[0][0][0].isfinite().all()


def test_half_a_character_is_refused(ours, clip):
    with pytest.raises(ValueError, match="half a character"):
        encode(ours, clip, "a cat \ud83d")


def test_a_prompt_far_longer_than_the_model_reads_is_refused(ours, clip):
    with pytest.raises(ValueError, match="characters; up to 20000 are read, and 300 tokens of them reach the model"):
        encode(ours, clip, "cat " * 7500)


def test_prompt_weights_are_read_as_text_and_said_in_the_log(ours, clip, caplog):
    encode(ours, clip, "a (cat:1.2)")
    assert "prompt weights have no effect" in caplog.text


def test_the_loader_names_what_it_loaded_and_doubts_a_nameless_one(ours, text_folder):
    said = ours["LoadTextEncoder"].execute(NAME).ui.as_dict()["text"][0]
    assert "3 layers, text of width 24" in said and "bfloat16" in said and "gemma-2-2b-it" not in said.split("\n")[-1]
    tiny_gemma.write_folder(text_folder / "downloads")
    assert "gemma-2-2b-it" in ours["LoadTextEncoder"].execute("downloads").ui.as_dict()["text"][0].split("\n")[-1]


def test_the_trainer_reads_captions_with_it_and_tells_instructions_apart(ours, clip, truth, prompts):
    spec = tiny.tiny_spec()
    entry = encoders.text_entry(clip, prompts[0], spec)
    assert not entry.context.is_inference() and entry.context.shape == (300, tiny_gemma.HIDDEN)
    assert torch.allclose(entry.context, truth["capped.video.0.embeds"][0], atol=1e-4)
    assert torch.equal(entry.attention_mask.long(), truth["capped.video.0.mask"][0]) and entry.pooled is None
    (other,) = ours["SetInstruction"].execute(clip, "").args
    prints = {encoders._clip_fingerprint(each) for each in (clip, other, clip.clone())}
    assert len(prints) == 2


@pytest.fixture
def sample(ours, core, models_folder):
    """Two steps of a tiny model whose text has the width of the tiny Gemma."""
    tiny.tiny_file(models_folder / "with_text.safetensors")
    (model,) = ours["LoadModel"].execute("with_text.safetensors").args

    def run(positive, negative):
        (out,) = core(
            "KSampler", model=model, seed=1, steps=2, cfg=3.0, sampler_name="euler", scheduler="normal",
            positive=positive, negative=negative, denoise=1.0,
            latent_image={"samples": torch.zeros(1, tiny.CHANNELS, tiny.FRAMES, 6, 6)},
        )  # fmt: skip
        return out["samples"]

    return run


def test_our_model_samples_with_it_and_refuses_text_of_another_width(ours, sample, text_folder, clip):
    positive, negative = encode(ours, clip, "waves", "jitter")
    out = sample(positive, negative)
    assert out.isfinite().all() and not torch.equal(out, sample(negative, positive))
    wide = load(ours, tiny_gemma.write_folder(text_folder / "wide-it", hidden=32).name)
    with pytest.raises(ValueError, match="Gemma-2"):
        sample(encode(ours, wide, "a")[0], negative)


def test_a_fresh_patcher_can_be_made_as_newer_hosts_ask(ours, clip):
    make, arguments = clip.patcher.cached_patcher_init
    patcher = make(*arguments, disable_dynamic=True) if hasattr(memory, "archive_model_dtypes") else make(*arguments)
    own, fresh = (dict(each.model.named_parameters()) for each in (clip.patcher, patcher))
    assert patcher is not clip.patcher and own.keys() == fresh.keys()
    assert all(torch.equal(own[name], fresh[name]) and own[name] is not fresh[name] for name in own)


@pytest.mark.parametrize("damage, says", [
    (lambda place: (place / "tokenizer.model").unlink(), ("no tokenizer", "tokenizer.model", "tokenizer.json")),
    (lambda place: (place / "tokenizer.model").write_bytes(b"nonsense" * 9), ("not a usable tokenizer",)),
    (lambda place: (place / "tokenizer.model").write_bytes(tiny_gemma.tokenizer_model(600)), ("pieces", "512")),
    (lambda place: (place / "model.safetensors").write_bytes(b"<!doctype html>" * 9), ("HTML",)),
])  # fmt: skip
def test_damage_is_refused_with_the_row_of_the_docs(ours, text_folder, folder, damage, says):
    place = text_folder / "broken-it"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / NAME, place)
    damage(place)
    with pytest.raises(ValueError) as caught:
        load(ours, place.name)
    assert all(word in str(caught.value) for word in (*says, "docs/models.md, Gemma-2")), caught.value


if importlib.util.find_spec("comfy.text_encoders.pixeldit"):

    def test_the_hosts_own_sana_path_agrees_where_it_has_one(ours, core, sample, folder):
        import comfy.sd
        from comfy.text_encoders.pixeldit import _PIXELDIT_CHI_PROMPT

        weights = load_file(folder / "uncapped" / "model.safetensors")
        spm = torch.frombuffer(bytearray((folder / "uncapped" / "tokenizer.model").read_bytes()), dtype=torch.uint8)
        state = {f"model.{name}": value for name, value in weights.items()} | {"spiece_model": spm}
        sizes = {"vocab_size": tiny_gemma.VOCAB, "hidden_size": tiny_gemma.HIDDEN,
                 "intermediate_size": tiny_gemma.INNER, "num_hidden_layers": tiny_gemma.LAYERS,
                 "num_attention_heads": tiny_gemma.HEADS, "num_key_value_heads": tiny_gemma.KV_HEADS}  # fmt: skip
        theirs = comfy.sd.load_text_encoder_state_dicts(
            [state], clip_type=comfy.sd.CLIPType.PIXELDIT,
            model_options={"dtype": torch.float32, "gemma2_2b_model_config": sizes},
        )  # fmt: skip
        (own,) = ours["SetInstruction"].execute(load(ours, "uncapped"), _PIXELDIT_CHI_PROMPT).args
        for prompt in ("a red lamp glows", "glowing street lamps " * 120):
            tokens = theirs.tokenize(prompt)
            need = theirs.encode_from_tokens(tokens, return_dict=True)
            positive, _ = encode(ours, own, prompt)
            assert deviation(positive, need["cond"], need["attention_mask"].long()) <= 1e-5
        (plain,) = core("CLIPTextEncode", clip=theirs, text="a red lamp glows")
        positive, negative = encode(ours, theirs, "a red lamp glows")
        assert torch.equal(positive[0][0], plain[0][0]) and read(positive[0][1]).motion_bucket_id == 15
        mine, _ = encode(ours, own, "a red lamp glows")
        assert torch.allclose(sample(plain, negative), sample(mine, negative), atol=1e-4)
