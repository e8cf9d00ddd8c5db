"""Prompts are projected once a run, and never where something could change them between two steps."""

import comfy.patcher_extension
import pytest
import tiny
import torch
from pack.motion.errors import ConfigError
from pack.motion.models.linear_video.attentions import CrossAttention
from pack.nodes.models import text_cache

STEPS, LAYERS = 3, 2


@pytest.fixture(scope="module")
def model(ours, models_folder):
    tiny.tiny_file(models_folder / "texts.safetensors")
    return ours["LoadModel"].execute("texts.safetensors", "fp32").args[0]


def ksampler(core, model, *, positive=None, seed=5, batch=1):
    first = tiny.first_latent()
    return core(
        "KSampler", model=model, seed=seed, steps=STEPS, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=tiny.prompt(1, first=first) if positive is None else positive,
        negative=tiny.prompt(2, first=first, tokens=7), denoise=1.0, latent_image=tiny.start(batch, first=first),
    )[0]["samples"]  # fmt: skip


@pytest.fixture
def projections(monkeypatch):
    """Sizes of the texts that blocks projected, in order."""
    seen, plain = [], CrossAttention.project_text

    def counting(self, states):
        seen.append(tuple(states.shape[:2]))
        return plain(self, states)

    monkeypatch.setattr(CrossAttention, "project_text", counting)
    return seen


@pytest.fixture
def without_cache(monkeypatch):
    monkeypatch.setattr(text_cache, "texts_are_steady", lambda guider: False)


def test_each_prompt_is_projected_once_a_run_without_its_padding(core, model, projections):
    ksampler(core, model)
    assert sorted(projections) == [(1, 3)] * LAYERS + [(1, 5)] * LAYERS
    projections.clear()
    ksampler(core, model)
    assert len(projections) == 2 * LAYERS


def test_answer_equals_the_one_without_a_cache(core, model, monkeypatch):
    kept = ksampler(core, model)
    monkeypatch.setattr(text_cache, "texts_are_steady", lambda guider: False)
    assert (kept - ksampler(core, model)).abs().max() <= 1e-5 * kept.abs().max()


def test_two_prompts_in_one_batch_keep_their_own_texts(core, model):
    first = tiny.first_latent()
    both = [torch.cat((a, b)) for a, b in zip(tiny.prompt(1)[0][:1], tiny.prompt(3)[0][:1])]
    more = tiny.prompt(1, first=first)[0][1] | {"attention_mask": torch.ones(2, 5)}
    more["pooled_output"] = more["pooled_output"].repeat(2, 1)
    pair = ksampler(core, model, positive=[[both[0], more]], batch=2)
    full = {"attention_mask": torch.ones(1, 5)}
    alone = ksampler(core, model, positive=[[tiny.prompt(1)[0][0], tiny.prompt(1, first=first)[0][1] | full]], batch=2)
    other = ksampler(core, model, positive=[[tiny.prompt(3)[0][0], tiny.prompt(1, first=first)[0][1] | full]], batch=2)
    assert torch.allclose(pair[0], alone[0], atol=1e-4) and torch.allclose(pair[1], other[1], atol=1e-4)
    assert not torch.allclose(alone[1], other[1], atol=1e-3)


@pytest.mark.parametrize("kind", text_cache.MAY_CHANGE_TEXTS)
def test_wrappers_that_may_change_the_text_switch_the_cache_off(core, model, projections, kind):
    wrapped = model.clone()
    wrapped.add_wrapper_with_key(kind, "third party", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    ksampler(core, wrapped)
    assert len(projections) == STEPS * LAYERS * 2 or len(projections) == STEPS * LAYERS


def test_weight_hooks_on_a_prompt_switch_the_cache_off(model):
    class Guider:
        model_options = {"transformer_options": {}}
        conds = {"positive": [{"hooks": object()}], "negative": [{}]}

    assert not text_cache.texts_are_steady(Guider)
    Guider.conds = {"positive": [{}], "negative": [{}]}
    assert text_cache.texts_are_steady(Guider)


def test_lora_added_between_two_runs_reaches_the_text_layers(core, model, loras_folder):
    from safetensors.torch import save_file

    name, key = "text.safetensors", "diffusion_model.transformer_blocks.0.attn2.to_v"
    weights = {f"{key}.lora_A.weight": tiny.randn(4, 32, seed=8), f"{key}.lora_B.weight": tiny.randn(32, 4, seed=9)}
    save_file(weights, loras_folder / name)
    plain = ksampler(core, model)
    (patched,) = core("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    assert (ksampler(core, patched) - plain).norm() > 1e-3 * plain.norm()
    assert torch.equal(ksampler(core, model), plain)


def test_cache_is_gone_after_a_run_that_failed(core, model):
    seen = []

    def spy(executor, *args, **kwargs):
        try:
            return executor(*args, **kwargs)
        finally:
            seen.append(text_cache.SLOT in executor.class_obj.model_options["transformer_options"])

    broken = model.clone()
    broken.wrappers[comfy.patcher_extension.WrappersMP.OUTER_SAMPLE] = {
        "spy": [spy], **broken.wrappers[comfy.patcher_extension.WrappersMP.OUTER_SAMPLE]
    }
    with pytest.raises(ConfigError):
        ksampler(core, broken, positive=[[tiny.prompt(1)[0][0], {"first_latent": tiny.first_latent()}], [None, {}]])
    ksampler(core, broken)
    assert seen and not any(seen)
