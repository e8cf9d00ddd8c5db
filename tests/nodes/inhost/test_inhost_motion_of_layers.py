"""Learning one clip's motion beside linear video models in a host: built-in and of the SVD space, files, refusals."""

import json
from pathlib import Path

import comfy.sd
import comfy.utils
import pytest
import tiny
import torch
from motion_nodes import lora_file, prepared, trained
from native_training import tiny_vae
from pack.motion.analysis.head_map import HeadMap
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.latent_spaces import SPACES
from picture_vae import PictureVAE
from press_cancel import cancelled_after


@pytest.fixture(scope="module")
def builtin(ours):
    return ours["LoadBuiltin"].execute("motionblocks-tiny").args[:3]


@pytest.fixture(scope="module")
def clip(ours, builtin):
    return prepared(ours, builtin[2], num_frames=5, sparse_frames=3, caption="zoom in")["motion_clip"]


@pytest.fixture(scope="module")
def words(core, builtin):
    return core("CLIPTextEncode", clip=builtin[1], text="zoom in")[0]


@pytest.fixture
def train(ours, builtin, clip, words):
    def run(prefix, **more):
        given = {"head_map": None, **more}
        parts = (given.pop("model", builtin[0]), given.pop("motion_clip", clip), given.pop("positive", words))
        return trained(ours, prefix, *parts, **given)

    return run


@pytest.fixture(scope="module")
def text_to_video(ours, models_folder):
    tiny.tiny_file(models_folder / "motion_svd.safetensors", objective="t2v", pooled_text_embedding=True)
    return ours["LoadModel"].execute("motion_svd.safetensors", "fp32").args[0]


def test_the_vae_says_at_which_rate_and_length_frames_are_chosen(ours, builtin, clip):
    made = prepared(ours, builtin[2], num_frames=81, sparse_frames=17, caption="")
    assert "10 frames at 8 fps, 1.12 s, 10 latent frames: 0 2 4" in made["plan"] and "4k + 1" not in made["plan"]
    assert "no caption" not in made["plan"] and made["motion_clip"].whole["latents"].shape == (200, 10, 8, 8)
    assert clip.plan.sparse == (0, 4, 8) and clip.sparse["latents"].shape == (200, 3, 8, 8)
    assert clip.sparse["latents"][192:].any() and clip.space is SPACES["builtin"]
    assert not any(value.is_inference() for value in (*clip.sparse.values(), clip.alone, clip.seen, clip.first))
    with pytest.raises(ValueError, match="clip_vision is for image to video by Wan 2.1"):
        prepared(ours, builtin[2], clip_vision=object())
    picture = prepared(ours, PictureVAE(SPACES["svd"]), num_frames=6, sparse_frames=0)["motion_clip"]
    assert picture.sparse["latents"].shape == (4, 6, 4, 6) and picture.alone.shape == (6, 4, 1, 4, 6)


def test_a_built_in_model_gets_a_lora_of_its_layers_for_time_that_core_applies(train, core, builtin, words):
    model, _, vae = builtin
    before = {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()}
    done = train("layers", vae=vae, sample_positive=words)
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()) and not model.patches
    assert Path(done["path"]) == lora_file("layers_00001") and not lora_file("layers_spatial_00001").exists()
    tensors, told = read_safetensors(Path(done["path"]))
    assert {name.split(".")[3] for name in tensors} == {"attn_temporal"} and len(tensors) == 3 * 4 * 6
    wanted = {"stage": "temporal", "heads": "temporal", "base_model": "motionblocks-tiny", "license": "Apache-2.0",
              "caption": "zoom in", "frames": "[0, 4, 8]", "training_steps": "2", "rank": "2"}  # fmt: skip
    assert {name: told[name] for name in wanted} == wanted and "head_map" not in told
    assert json.loads(told["motion_loss"])["weight"] == 20.0 and f"dynamics {told['dynamics']}" in done["report"]
    assert "spatial stage is left out" in done["report"] and done["head_map"] is None
    assert done["samples"].shape[0] == 2 and done["samples"].isfinite().all() and len(done["loss"]["loss"]) == 2
    patched, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(done["path"]), 1.0, 0.0)
    assert len(patched.patches) == len(tensors) // 3 == len(done["model"].patches)


def test_a_cancelled_run_is_saved_and_goes_on_to_the_same_bits(train, monkeypatch):
    given = {"temporal_steps": 3, "save_every": 1}
    whole = train("layers_whole", **given)
    with cancelled_after(monkeypatch, 2):
        train("layers_cut", **given)
    assert read_safetensors(lora_file("layers_cut_00001"))[1]["training_stopped_early"] == "after step 2 of 3"
    resumed = train("layers_cut", **given, resume_from="latest")
    one, other = (read_safetensors(Path(done["path"]))[0] for done in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_text_to_video_has_both_stages_and_two_files(ours, train, text_to_video):
    vae = PictureVAE(SPACES["svd"])
    clip = prepared(ours, vae, num_frames=5, sparse_frames=3)["motion_clip"]
    done = train("layers_t2v", model=text_to_video, motion_clip=clip, positive=tiny.prompt(), vae=vae)
    assert len(done["loss"]["loss"]) == 4 and done["samples"].shape[1:] == (32, 144, 3)
    for name, kind, stage in (("layers_t2v_00001", "attn_temporal", "temporal"),
                              ("layers_t2v_spatial_00001", "attn1", "spatial")):  # fmt: skip
        tensors, told = read_safetensors(lora_file(name))
        assert {part.split(".")[3] for part in tensors} == {kind} and told["stage"] == stage
        assert told["license"] == "unknown"
    assert any(value.any() for name, value in tensors.items() if "lora_up" in name)


@pytest.mark.parametrize("change, said", [
    ({"head_map": HeadMap.__new__(HeadMap)}, "head_map is given.*apart already.*without a head map"),
    ({"stage": "spatial"}, "it has no spatial stage; set stage to temporal"),
    ({"expert": "high noise"}, "expert is high noise; that is for Wan 2.2"),
    ({"preset": "mine"}, "preset is 'mine'"), ({"motion_clip": object()}, "motion_clip is object"),
    ({"positive": [[torch.zeros(1, 4, 64), {}]]}, "positive has no pooled text, which the model reads"),
    ({"positive": [[torch.zeros(1, 4, 7), {}]]}, r"text of \(1, 4, 7\); this model reads width 64"),
    ({"vae": PictureVAE(SPACES["svd"])}, "vae is not the built-in VAE"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_words(train, change, said):
    with pytest.raises(ValueError, match=said):
        train("layers_refused", **change)


def test_a_clip_of_another_vae_is_refused_either_way(ours, train, clip, text_to_video, builtin):
    with torch.inference_mode():
        wan = prepared(ours, tiny_vae())["motion_clip"]
    with pytest.raises(ConfigError, match="encoded for Wan 2.1 VAE, this model works in built-in VAE; prepare it"):
        train("layers_refused", motion_clip=wan)
    with pytest.raises(ConfigError, match="encoded for built-in VAE, this model works in Stable Video Diffusion VAE"):
        train("layers_refused", model=text_to_video, motion_clip=clip, positive=tiny.prompt())


def test_a_model_changed_in_ways_that_are_no_weights_is_refused(train, builtin):
    changed = builtin[0].clone()
    changed.set_model_attn1_patch(lambda q, k, v, extra: (q, k, v))
    with pytest.raises(ConfigError, match="carries block patches from another node"):
        train("layers_refused", model=changed)
