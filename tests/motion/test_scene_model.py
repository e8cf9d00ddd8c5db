"""A model that draws from words, without a host: words to conditions, sizes it draws, the same seed the same video."""

from dataclasses import replace

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.networks.builtin_wan import save_builtin_wan
from pack.motion.io.vaes.small_vae import save_small_vae
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.scene_model import load_scene_model

GROUPS = {"colour": ("red", "blue"), "shape": ("ball",), "motion": ("left", "right")}
SPEC = WanSpec(
    config=WanConfig(num_layers=1, num_attention_heads=1, hidden_width=16, caption_channels=64),
    sampling=SamplingDefaults(shift=3.0, num_steps=2, guidance_scale=2.0, num_frames=5, integer_timesteps=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    torch.manual_seed(0)
    dit = WanDiT(replace(SPEC.config))
    save_builtin_wan(folder / "wan.safetensors", SPEC, dit.state_dict(), GROUPS)
    save_small_vae(folder / "vae.safetensors", SmallVAE(SmallVAEConfig(4, 0, 4, 0)))
    return load_scene_model(folder / "wan.safetensors", vae=folder / "vae.safetensors")


def test_a_prompt_becomes_eight_vectors_and_the_empty_one_eight_equal_ones(model):
    context = model.encode(["red ball, moves left", ""]).context
    assert context.shape == (2, 8, 64)
    assert torch.equal(context[1], context[1, :1].expand(8, -1)) and torch.equal(context[0, 3:], context[1, :5])
    assert float((context[0, 0] @ context[0, 1]).abs()) == 0


def test_videos_hang_on_prompt_and_seed_and_have_the_size_asked_for(model):
    video = model.draw_videos(["red ball", "red ball"], height=64, width=96, seed=3)
    assert video.shape == (2, 5, 64, 96, 3) and 0 <= float(video.min()) and float(video.max()) <= 1
    assert not torch.equal(video[0], video[1])
    assert torch.allclose(model.draw_videos(["red ball"], height=64, width=96, seed=4)[0], video[1], atol=1e-5)
    assert not torch.equal(model.draw_videos(["blue ball"], height=64, width=96, seed=3)[0], video[0])


def test_steps_frames_and_guidance_may_be_chosen(model):
    seen = []
    video = model.draw_videos([""], num_frames=9, num_steps=3, guidance_scale=1.0, on_step=lambda *told: seen.append(1))
    assert video.shape[1] == 9 and len(seen) == 3


@pytest.mark.parametrize(
    "asked, says",
    [({"num_frames": 16}, "use 13 or 17"), ({"height": 72}, "64x64 or 64x80"), ({"width": 208}, "64 to 192 px"),
     ({"height": 48}, "64 to 192 px"), ({"num_frames": 37}, "up to 33 frames")],
)  # fmt: skip
def test_what_it_does_not_draw_is_refused(model, asked, says):
    with pytest.raises((ConfigError, ShapeError), match=says):
        model.draw_videos(["red ball"], **asked)


def test_an_unknown_word_is_refused_before_anything_is_drawn(model):
    with pytest.raises(ConfigError, match="unknown word 'cat'"):
        model.draw_videos(["red cat"])
