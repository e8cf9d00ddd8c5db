"""motionblocks-small through the host's sockets: its own words, its own size."""

import pytest
import torch
from pack.motion.builtin_model import load_builtin


@pytest.fixture(scope="module")
def small(ours):
    return ours["LoadBuiltin"].execute("motionblocks-small").args


def encode(core, clip, text):
    return core("CLIPTextEncode", clip=clip, text=text)[0]


def test_the_clip_reads_the_files_own_motions(core, small):
    model = load_builtin("motionblocks-small")
    for text in ("the ball bounces", "slide left", ""):
        cond, more = encode(core, small[1], text)[0]
        told = model.encode([text])
        assert torch.allclose(cond, told.context) and torch.allclose(more["pooled_output"], told.pooled)


def test_words_of_no_file_are_refused_with_the_files_own_list_and_tiny_keeps_its_nine(core, ours, small):
    tiny = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    picture = torch.rand(1, 32, 48, 3)
    cases = ((small, "a dragon flies", "slide left"), (tiny, "bounce", "rotate right, still$"))
    for (_, clip, vae), text, words in cases:
        with pytest.raises(ValueError, match=words):
            ours["ImageToVideo"].execute(encode(core, clip, text), encode(core, clip, ""), vae, picture, 4)


def test_a_photo_comes_out_at_its_own_size_and_moves(core, ours, small):
    model, clip, vae = small
    picture = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(picture, (90, 120), mode="bicubic").clamp(0, 1).movedim(1, -1)
    positive, negative, latent, bound, _ = ours["ImageToVideo"].execute(
        encode(core, clip, "pan left"), encode(core, clip, ""), vae, picture, 4
    ).args
    (out,) = core("KSampler", model=model, seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
                  positive=positive, negative=negative, latent_image=latent, denoise=1.0)
    assert out["samples"].shape == (1, 200, 4, 16, 16)
    (video,) = core("VAEDecode", vae=bound, samples=out)
    assert video.shape == (4, 90, 120, 3) and torch.equal(video[0], picture[0])
    assert (video[3] - video[0]).abs().mean() > 0.01


def test_snow_falls_before_a_photo_that_stands_still(core, ours, small):
    model, clip, vae = small
    picture = torch.full((1, 96, 96, 3), 0.2)
    picture[:, 40:56] = 0.35
    positive, negative, latent, bound, _ = ours["ImageToVideo"].execute(
        encode(core, clip, "snow"), encode(core, clip, ""), vae, picture, 4
    ).args
    (out,) = core("KSampler", model=model, seed=1, steps=4, cfg=1.0, sampler_name="euler", scheduler="simple",
                  positive=positive, negative=negative, latent_image=latent, denoise=1.0)
    (video,) = core("VAEDecode", vae=bound, samples=out)
    added = video[1:] - video[:1]
    assert torch.equal(video[0], picture[0]) and out["samples"][:, 192:].abs().max() < 1e-3
    assert 0.02 < (added.mean(-1) > 0.06).float().mean() < 0.6 and (added < -0.1).float().mean() < 0.01
