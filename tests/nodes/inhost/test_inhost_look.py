"""How a video looks: edges, longer clips, context windows, regions, frame rate; what prompts of 0.1 keep."""

import comfy.context_windows
import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.choices import GO_ON, SAME_MOVE
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.heads.flow_codec import FlowCodec
from pack.motion.models.playback.photo_player import PhotoPlayer
from pack.motion.pipeline import animate as animate_photo
from pack.nodes.host import page
from pack.nodes.host.conditions import read
from test_inhost_builtin import builtin, encode, photo  # noqa: F401

NEW = {"longer": SAME_MOVE, "edges": "crop"}


def sampled(core, ours, parts, image, num_frames, *, text="zoom out", steps=2, model=None, seed=4, **more):
    """Unscaled latents and the VAE to decode them with."""
    loaded, clip, vae = parts
    positive, negative, latent, bound, _ = ours["ImageToVideo"].execute(
        encode(core, clip, text), encode(core, clip, ""), vae, image, num_frames, **more
    ).args
    (out,) = core(
        "KSampler", model=model or loaded, seed=seed, steps=steps, cfg=1.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    return out["samples"], bound


def flow_of(samples):
    return FlowCodec(8 * samples.shape[-1]).flow_of(samples)[0]


def test_a_prompt_without_the_new_inputs_keeps_the_frames_of_the_first_edition(core, ours, builtin):  # noqa: F811
    image = photo(40, 56)
    model, clip, vae = builtin
    positive, _, latent, bound, fps = ours["ImageToVideo"].execute(
        encode(core, clip, "zoom out"), encode(core, clip, ""), vae, image, 20, 19
    ).args
    (noise,) = core("RandomNoise", noise_seed=4)
    (guider,) = core("BasicGuider", model=model, conditioning=positive)
    (sigmas,) = ours["FlowScheduler"].execute(model, 3).args
    (sampler,) = ours["FlowDPM2M"].execute().args
    out = core(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )[0]
    (video,) = core("VAEDecode", vae=bound, samples=out)
    shell = animate_photo(
        image[0].movedim(-1, 0), motion="zoom out", dynamics=19, num_frames=20, num_steps=3, seed=4, device="cpu"
    )
    assert (video - shell).abs().max() <= 1e-4 and fps == 8.0
    assert torch.equal(video[0], image[0])
    old = FlowCodec().decode_onto(out["samples"], image[0].movedim(-1, 0))[0].movedim(0, -1)
    assert (video - old).abs().max() <= 1e-6
    assert read(positive[0][1]).longer is None


def test_cropped_frames_are_those_of_the_player_and_the_node_tells_what_is_shown(core, ours, builtin, monkeypatch):  # noqa: F811
    image, told = photo(48, 72), []
    monkeypatch.setattr(page, "show_text", lambda text, node_id: told.append(text))
    samples, bound = sampled(core, ours, builtin, image, 6, dynamics=19, text="pan left", **NEW)
    (video,) = core("VAEDecode", vae=bound, samples={"samples": samples})
    player = PhotoPlayer(FlowCodec(), samples, image[0].movedim(-1, 0), edges="crop")
    assert player.window.scale > 1 and video.shape == (6, 48, 72, 3)
    assert (video - torch.stack(list(player)).movedim(1, -1)).abs().max() <= 1e-6
    assert any("6 frames, dynamics 19" in text and "the photo is enlarged" in text for text in told)
    (tiled,) = core("VAEDecodeTiled", vae=bound, samples={"samples": samples}, tile_size=64, overlap=0)
    assert torch.equal(tiled, video)


def test_a_long_clip_of_the_same_move_goes_as_far_as_a_short_one(core, ours, builtin):  # noqa: F811
    image = photo(48, 72)
    short = flow_of(sampled(core, ours, builtin, image, 16, **NEW)[0])
    long = flow_of(sampled(core, ours, builtin, image, 31, **NEW)[0])
    beyond = flow_of(sampled(core, ours, builtin, image, 31, longer=GO_ON, edges="mirror")[0])
    size = short.norm(dim=1).mean()
    assert (long[::2] - short).norm(dim=1).mean() < 0.05 * size
    assert beyond[-1].norm(dim=0).mean() > 1.5 * long[-1].norm(dim=0).mean()


@pytest.mark.parametrize("longer", [SAME_MOVE, GO_ON])
def test_context_windows_see_each_frame_at_its_place_in_the_whole_clip(core, ours, builtin, longer):  # noqa: F811
    image, model = photo(48, 72), builtin[0].clone()
    handler = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=16, context_overlap=4,
        context_stride=1, closed_loop=False, dim=2,
    )  # fmt: skip
    model.model_options["context_handler"] = handler
    whole = sampled(core, ours, builtin, image, 24, longer=longer, edges="crop")[0]
    windowed = sampled(core, ours, builtin, image, 24, longer=longer, edges="crop", model=model)[0]
    error = (flow_of(windowed) - flow_of(whole)).norm(dim=1).mean((1, 2))
    assert error.max() < 0.1 * flow_of(whole).norm(dim=1).mean((1, 2)).max(), error
    assert torch.equal(windowed[:, :, 0], whole[:, :, 0])


def test_a_region_holds_the_rest_still(core, ours, builtin):  # noqa: F811
    image, region = photo(48, 72), torch.zeros(1, 48, 72)
    region[:, 12:36, 18:54] = 1
    for edges in ("crop", "mirror", "as in 0.1"):
        samples, bound = sampled(core, ours, builtin, image, 4, edges=edges, region=region)
        (video,) = core("VAEDecode", vae=bound, samples={"samples": samples})
        moved = (video[-1] - image[0]).abs().amax(-1)
        assert moved[region[0] == 0].max() < 1e-4 and moved[region[0] == 1].max() > 0.01, edges


@pytest.mark.parametrize("region, words", [
    (torch.zeros(1, 64, 64), "region is empty"), (torch.ones(2, 48, 72), "region is"),
    (torch.ones(1, 48, 48), "region is 48x48 px, the photo 72x48"), (torch.full((1, 48, 72), float("nan")), "is empty"),
])  # fmt: skip
def test_a_region_that_cannot_be_is_refused(ours, builtin, region, words):  # noqa: F811
    with pytest.raises(ShapeError, match=words):
        ours["ImageToVideo"].execute([], [], builtin[2], photo(48, 72), 4, region=region)


def test_new_choices_are_checked_and_the_frame_rate_is_handed_on(ours, builtin):  # noqa: F811
    node = ours["ImageToVideo"]
    for more, words in (({"longer": "faster"}, "longer is 'faster'"), ({"edges": "none"}, "edges is 'none'"),
                        ({"fps": 0.0}, "fps is 0.0; it must be 1.0 to 120.0")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            node.execute([], [], builtin[2], photo(), 4, **more)
    assert node.execute([], [], builtin[2], photo(), 4, fps=12).args[4] == 12.0
    names = [item.id for item in node.define_schema().inputs]
    assert names[:7] == ["positive", "negative", "vae", "start_image", "num_frames", "dynamics", "batch_size"]
    assert names[7:] == ["longer", "edges", "fps", "region", "clip_vision_output"]
    assert all(item.optional for item in node.define_schema().inputs[7:])


def test_the_bound_vae_of_one_photo_stays_as_it_is_when_another_look_is_asked_for(ours, builtin):  # noqa: F811
    first = ours["ImageToVideo"].execute([], [], builtin[2], photo(), 4, edges="mirror").args[3]
    ours["ImageToVideo"].execute([], [], builtin[2], photo(), 4, edges="crop")
    assert (first.edges, builtin[2].edges) == ("mirror", None)


def test_small_knows_its_places_too(core, ours):
    parts, image = ours["LoadBuiltin"].execute("motionblocks-small").args, photo(48, 72)
    assert load_builtin("motionblocks-small").spec.sampling.num_frames == 16
    short = flow_of(sampled(core, ours, parts, image, 16, text="sway", **NEW)[0])
    long = flow_of(sampled(core, ours, parts, image, 31, text="sway", **NEW)[0])
    assert (long[::2] - short).norm(dim=1).mean() < 0.1 * short.norm(dim=1).mean()
