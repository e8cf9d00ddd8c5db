"""motionblocks-wan and -i2v from Load Built-in Motion Model: plain Wan to the host, and the shell's own videos."""

from dataclasses import replace

import comfy.model_base
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.networks.builtin_names import SCENE_NAMES, builtin_path
from pack.motion.models.wan.spec import TEXT_TOKENS
from pack.motion.sampling.draw import make_noise
from pack.motion.scene_model import load_scene_model
from pack.motion.text.scene_vocabulary import MAX_TOKENS
from pack.nodes.models.native_wan import native_wan
from pack.nodes.training_run.native_trainee import NativeWanTrainee, native_spec

PROMPT = "red ball, on sand, moves left"


@pytest.fixture(scope="module")
def words(ours):
    return ours["LoadBuiltin"].execute("motionblocks-wan").args


@pytest.fixture(scope="module")
def image(ours):
    return ours["LoadBuiltin"].execute("motionblocks-wan-i2v").args


@pytest.fixture
def builtin_text(core, ours):
    """The text under Photo to Video for a loaded model, None: that of motionblocks-tiny."""

    def told(loaded):
        _, clip, vae = loaded or ours["LoadBuiltin"].execute("motionblocks-tiny").args
        prompt, photo = encode(core, clip, ""), torch.rand(1, 64, 64, 3)
        return str(ours["ImageToVideo"].execute(prompt, prompt, vae, photo, 17).ui.as_dict())

    return told


def encode(core, clip, text):
    return core("CLIPTextEncode", clip=clip, text=text)[0]


def sample(core, model, positive, negative, latent, *, steps=2, cfg=2.0, seed=5):
    (out,) = core(
        "KSampler", model=model, seed=seed, steps=steps, cfg=cfg, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    return out


def draw(core, ours, loaded, *, prompt=PROMPT, negative="", width=64, height=64, num_frames=17, **more):
    model, clip, vae = loaded
    (latent,) = ours["EmptyLatent"].execute(model, width, height, num_frames).args
    out = sample(core, model, encode(core, clip, prompt), encode(core, clip, negative), latent, **more)
    return core("VAEDecode", vae=vae, samples=out)[0]


def go_on(core, ours, loaded, photo, *, prompt=PROMPT, num_frames=17, **more):
    model, clip, vae = loaded
    positive, negative, latent, decoder, _ = ours["ImageToVideo"].execute(
        encode(core, clip, prompt), encode(core, clip, ""), vae, photo, num_frames
    ).args
    return core("VAEDecode", vae=decoder, samples=sample(core, model, positive, negative, latent, **more))[0]


def test_both_are_plain_wan_to_the_host_and_to_our_door(words, image):
    for (model, _, _), channels in ((words, 16), (image, 36)):
        network = model.model.diffusion_model
        assert type(model.model) is comfy.model_base.WAN21 and type(network) is WanModel
        assert (network.dim, network.num_heads, len(network.blocks), network.text_dim) == (256, 2, 8, 4096)
        assert native_wan(model).channels == channels and not native_wan(model).reads_clip_vision
        assert model.get_model_object("model_sampling").shift == 3.0


def test_words_become_eight_vectors_and_orders_of_words_do_not_matter(core, words):
    clip = words[1]
    context = encode(core, clip, PROMPT)[0][0]
    assert context.shape == (1, MAX_TOKENS, 4096)
    assert torch.equal(context, encode(core, clip, "moves leftwards, ball that is red on a beach")[0][0])
    assert not torch.equal(context, encode(core, clip, "red ball, on sand, moves right")[0][0])


@pytest.mark.parametrize("name", SCENE_NAMES)
def test_the_hosts_network_gives_the_velocity_of_our_own(words, image, name):
    own = load_scene_model(builtin_path(name))
    theirs = (image if own.starts_from_image else words)[0].model.diffusion_model.float()
    draws = torch.Generator().manual_seed(1)
    latents, beside = torch.randn(1, 16, 3, 8, 6, generator=draws), torch.randn(1, 20, 3, 8, 6, generator=draws)
    told, timestep = own.encode([PROMPT]), torch.tensor([800.0])
    with torch.inference_mode():
        if own.starts_from_image:
            told, seen = replace(told, concat_latents=beside), torch.cat((latents, beside), 1)
        else:
            seen = latents
        ours, found = own.dit(latents, timestep, told), theirs(seen, timestep, context=told.context)
    assert float((ours - found).abs().max() / found.abs().max()) <= 5e-6


@pytest.mark.parametrize("name", SCENE_NAMES)
def test_the_host_samples_what_the_shell_samples(core, ours, words, image, name):
    own = load_scene_model(builtin_path(name))
    photo = torch.rand(1, 64, 80, 3, generator=torch.Generator().manual_seed(3))
    size = {"num_frames": 9, "width": 80, "height": 64}
    with torch.no_grad():
        if own.starts_from_image:
            theirs = go_on(core, ours, image, photo, num_frames=9, cfg=1.0)
            start = photo.movedim(-1, 1)
        else:
            theirs, start = draw(core, ours, words, **size, cfg=1.0), None
        latents = own_euler(own, start, **size)
        video = own.decode(latents)
    assert theirs.shape[-4:] == (9, 64, 80, 3)
    assert float((theirs.reshape(video.shape) - video).abs().max()) < 1e-4


def own_euler(own, start, *, num_frames, width, height):
    """Two euler steps of the host's simple schedule through our own network, unguided."""
    told = own.encode([PROMPT])
    if start is not None:
        told = replace(told, concat_latents=own.encode_start(start, num_frames))
    x = make_noise((1, 16, (num_frames + 3) // 4, height // 8, width // 8), 5)
    levels = [3.0 * level / (1 + 2.0 * level) for level in (1.0, 0.5, 0.0)]
    for level, following in zip(levels, levels[1:]):
        x = x + (following - level) * own.dit(x, torch.tensor([1000.0 * level]), told)
    return x


def test_a_negative_prompt_with_other_words_counts_as_empty_and_a_positive_one_is_refused(core, ours, words):
    assert torch.equal(draw(core, ours, words, negative="blurry, ugly"), draw(core, ours, words, negative=""))
    with pytest.raises(ConfigError, match="unknown word 'cat'"):
        draw(core, ours, words, prompt="red cat")


@pytest.mark.parametrize("size", [{"width": 512, "height": 512}, {"num_frames": 81}, {"width": 48}])
def test_sizes_that_are_not_drawn_are_refused_before_sampling(core, ours, words, size):
    with pytest.raises(ShapeError, match="this model draws up to 33 frames with sides of 64 to 192 px"):
        draw(core, ours, words, **size)


def test_a_model_that_goes_on_from_a_picture_wants_one(core, ours, image):
    with pytest.raises(ConfigError, match="connect Photo to Video"):
        draw(core, ours, image)


def test_sixteen_frames_and_odd_sides_are_refused_with_what_fits(ours, words):
    with pytest.raises((ConfigError, ShapeError), match="13 or 17"):
        ours["EmptyLatent"].execute(words[0], 64, 64, 16)
    with pytest.raises((ConfigError, ShapeError), match="64x64 or 80x64"):
        ours["EmptyLatent"].execute(words[0], 72, 64, 17)


def test_a_vae_of_another_space_is_refused(core, ours, words, image):
    other = ours["LoadBuiltin"].execute("motionblocks-tiny").args[2]
    with pytest.raises(ShapeError, match="the built-in model needs"):
        draw(core, ours, (*words[:2], other))
    with pytest.raises((ConfigError, ShapeError)):
        go_on(core, ours, (*image[:2], other), torch.rand(1, 64, 64, 3))


def test_photo_to_video_says_that_photographs_dissolve(core, ours, image, builtin_text):
    assert "other pictures dissolve" in builtin_text(image) and "dissolve" not in builtin_text(None)


def test_a_training_reads_prompts_as_long_as_sampling_does(words):
    wan = native_wan(words[0])
    trainee = NativeWanTrainee(wan)
    assert native_spec(wan).text_tokens == MAX_TOKENS != TEXT_TOKENS
    context = torch.zeros(1, MAX_TOKENS, 4096)
    assert trainee.conditions({"context": context}).context.shape == context.shape
    copy = words[0].clone()
    copy.remove_attachments("motionblocks_scene")
    assert native_spec(native_wan(copy)).text_tokens == TEXT_TOKENS
