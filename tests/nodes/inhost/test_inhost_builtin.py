"""The built-in model through the host's sockets: photos of any kind in, crisp video out, motions as prompts."""

import pytest
import tiny
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.models.heads.flow_codec import FlowCodec
from pack.motion.pipeline import animate as animate_photo
from pack.nodes.host.conditions import read

FRAMES = 6


@pytest.fixture(scope="module")
def builtin(ours):
    return ours["LoadBuiltin"].execute("motionblocks-tiny").args


@pytest.fixture(scope="module")
def tiny_model(ours, models_folder):
    tiny.tiny_file(models_folder / "builtin_check.safetensors")
    return ours["LoadModel"].execute("builtin_check.safetensors", "fp32").args[0]


def photo(height=48, width=72, channels=3, seed=0):
    """A smooth random picture (1, h, w, c) in [0, 1]."""
    small = torch.rand(1, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)
    return large.clamp(0, 1).movedim(1, -1).contiguous()


def encode(core, clip, text):
    return core("CLIPTextEncode", clip=clip, text=text)[0]


def animate(core, ours, builtin, image, *, text="pan left", num_frames=FRAMES, seed=1, **more):
    model, clip, vae = builtin
    positive, negative, latent, bound, _ = ours["ImageToVideo"].execute(
        encode(core, clip, text), encode(core, clip, ""), vae, image, num_frames, **more
    ).args
    (out,) = core(
        "KSampler", model=model, seed=seed, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    return core("VAEDecode", vae=bound, samples=out)[0], out["samples"]


@pytest.mark.parametrize("height, width", [(48, 72), (33, 51), (90, 40), (1, 1), (200, 3), (64, 64)])
def test_video_has_the_photos_size_evened_and_frame_1_is_the_photo_bit_for_bit(core, ours, builtin, height, width):
    image = photo(height, width)
    video, _ = animate(core, ours, builtin, image)
    assert video.shape == (FRAMES, height + height % 2, width + width % 2, 3)
    assert video.dtype == torch.float32 and video.isfinite().all() and video.min() >= 0 and video.max() <= 1
    assert torch.equal(video[0, :height, :width], image[0])
    assert torch.equal(video[:, -1], video[:, -1 - height % 2])
    assert torch.equal(video[:, :, -1], video[:, :, -1 - width % 2])


def test_bound_decode_equals_the_codec(core, ours, builtin):
    image = photo()
    video, samples = animate(core, ours, builtin, image)
    expected = FlowCodec().decode_onto(samples, image[0].movedim(-1, 0))[0].movedim(0, -1)
    assert (video - expected).abs().max() <= 1e-6


def test_tiled_decode_equals_decode(core, ours, builtin):
    image = photo()
    video, samples = animate(core, ours, builtin, image)
    *_, bound, _ = ours["ImageToVideo"].execute([], [], builtin[2], image, FRAMES).args
    tiled = core(
        "VAEDecodeTiled", vae=bound, samples={"samples": samples}, tile_size=64, overlap=16, temporal_size=8,
        temporal_overlap=4,
    )[0]  # fmt: skip
    assert torch.equal(tiled, video)


def test_unbound_vae_decodes_stills_at_working_size_and_is_not_changed_by_binding(core, ours, builtin):
    vae = builtin[2]
    _, _, still, *_ = ours["ImageToVideo"].execute([], [], vae, photo(), FRAMES).args
    (small,) = core("VAEDecode", vae=vae, samples=still)
    assert small.shape == (FRAMES, 64, 64, 3) and vae.photo is None
    assert torch.equal(small[0], FlowCodec().decode(still["samples"])[0, :, 0].movedim(0, -1))
    (again,) = core("VAEEncode", vae=vae, pixels=small)
    assert again["samples"].shape == (1, 200, FRAMES, 8, 8)
    (back,) = core("VAEDecode", vae=vae, samples=again)
    assert (back - small).abs().max() < 1e-4


@pytest.mark.parametrize("node, more", [
    ("VAEDecode", {}), ("VAEDecodeTiled", {"tile_size": 64, "overlap": 16, "temporal_size": 8, "temporal_overlap": 4}),
])  # fmt: skip
def test_unbound_vae_refuses_motion_and_names_the_vae_that_shows_it(core, ours, builtin, node, more):
    _, samples = animate(core, ours, builtin, photo())
    with pytest.raises(ValueError, match="square of 64x64 px; connect the vae output of Photo to Video"):
        core(node, vae=builtin[2], samples={"samples": samples}, **more)


def test_two_photos_of_one_vae_do_not_reach_each_other(core, ours, builtin):
    one, two = photo(seed=1), photo(32, 32, seed=2)
    first, _ = animate(core, ours, builtin, one)
    second, _ = animate(core, ours, builtin, two)
    again, _ = animate(core, ours, builtin, one)
    assert torch.equal(first, again) and second.shape[1:3] == (32, 32)


def test_batch_of_videos_decodes_each_onto_the_photo(core, ours, builtin):
    image = photo()
    video, samples = animate(core, ours, builtin, image, text="zoom in", batch_size=2)
    assert samples.shape[0] == 2 and video.shape[0] == 2 * FRAMES
    assert torch.equal(video[0], image[0]) and torch.equal(video[FRAMES], image[0])
    assert not torch.equal(samples[0], samples[1])


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_photos_are_converted_by_the_stated_rule(core, ours, builtin, channels):
    image = photo(channels=channels)
    video, _ = animate(core, ours, builtin, image)
    alpha = image[..., 3:]
    expected = image.expand(-1, -1, -1, 3) if channels == 1 else image[..., :3] * alpha + (1 - alpha)
    assert torch.equal(video[0], expected[0])


def test_views_half_floats_and_overshoots_are_taken_and_never_written_into(core, ours, builtin):
    wide = photo(48, 144)
    view = wide[:, :, ::2]
    assert not view.is_contiguous()
    kept = wide.clone()
    animate(core, ours, builtin, view)
    assert torch.equal(wide, kept)
    loud = photo() * 1.1 - 0.05
    kept = loud.clone()
    video, _ = animate(core, ours, builtin, loud)
    assert torch.equal(loud, kept) and torch.equal(video[0], loud[0].clamp(0, 1))
    video, _ = animate(core, ours, builtin, photo().half())
    assert video.dtype == torch.float32


def bad_photos():
    nan = photo()
    nan[0, 3, 4, 1] = float("nan")
    yield "NaN", nan, "NaN or infinite pixels"
    yield "two images", torch.cat((photo(), photo())), "exactly 1 is needed; pick one with the core node ImageFromBatch"
    yield "no image", torch.zeros(0, 8, 8, 3), "a non-empty IMAGE"
    yield "two channels", photo(channels=2), "2 channels; 1"
    yield "bytes", (photo() * 255).to(torch.uint8), "divide bytes by 255"
    yield "0 to 255", photo() * 255, "0 to 1 are needed"
    yield "too wide", torch.zeros(1, 16, 16384, 3), "sides go up to 4096 px"
    yield "too tall", torch.zeros(1, 5000, 8, 3), "sides go up to 4096 px"
    yield "three axes", torch.zeros(8, 8, 3), "frames, height, width, channels"


@pytest.mark.parametrize("image, words", [pytest.param(i, w, id=n) for n, i, w in bad_photos()])
def test_photos_that_cannot_be_animated_are_refused_with_a_way_out(ours, builtin, image, words):
    with pytest.raises(ValueError, match=words):
        ours["ImageToVideo"].execute([], [], builtin[2], image, FRAMES)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"num_frames": 0}, "num_frames is 0; it must be 2 to 1024"), ({"num_frames": 1}, "num_frames is 1"),
        ({"num_frames": 10**6}, "num_frames is 1000000"), ({"dynamics": 20}, "dynamics is 20; it must be 0 to 19"),
        ({"dynamics": -1}, "dynamics is -1"), ({"batch_size": 0}, "batch_size is 0"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_although_the_widget_already_does(ours, builtin, more, words):
    with pytest.raises(ValueError, match=words):
        ours["ImageToVideo"].execute([], [], builtin[2], photo(), **more)


def test_both_prompts_get_photo_and_dynamics_and_the_given_ones_stay(ours, builtin):
    positive, negative = tiny.prompt(1), tiny.prompt(2)
    keys = set(positive[0][1])
    told, untold, latent, *_ = ours["ImageToVideo"].execute(positive, negative, builtin[2], photo(), FRAMES, 7, 3).args
    for prompt in (told, untold):
        new = {f"motionblocks_{name}" for name in ("first_latent", "first_latent_space", "motion_bucket_id")}
        assert set(prompt[0][1]) == keys - {"motion_bucket_id"} | new
        assert read(prompt[0][1]).motion_bucket_id == 7
        assert torch.equal(read(prompt[0][1]).first_latent, latent["samples"][:1, :, :1])
    assert set(positive[0][1]) == keys
    assert latent["samples"].shape == (3, 200, FRAMES, 8, 8)


def test_sizes_are_shown(ours, builtin):
    shown = ours["ImageToVideo"].execute([], [], builtin[2], photo(33, 50), FRAMES).ui.as_dict()["text"][0]
    assert "photo 50x33 px → video 50x34 px\n6 frames, dynamics 12" in shown and "odd sides" in shown


def test_decoding_more_than_the_machine_holds_is_refused_with_the_number(ours, builtin, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device: 100_000)
    *_, bound, _ = ours["ImageToVideo"].execute([], [], builtin[2], photo(), FRAMES).args
    with pytest.raises(ValueError, match="decoding 6 frames of 72x48 px needs 0.0 GiB; this machine has"):
        bound.decode(torch.zeros(1, 200, FRAMES, 8, 8))


@pytest.mark.parametrize(
    "samples, words",
    [
        (torch.zeros(1, 4, 3, 8, 8), r"the built-in model needs \(b, 200, t, 8, 8\)"),
        (torch.full((1, 200, 2, 8, 8), float("nan")), "NaN"),
    ],
)
def test_latents_the_vae_cannot_decode_are_refused(builtin, samples, words):
    with pytest.raises(ValueError, match=words):
        builtin[2].decode(samples)


def test_cancel_stops_decoding_between_frames(ours, builtin):
    import comfy.model_management

    *_, bound, _ = ours["ImageToVideo"].execute([], [], builtin[2], photo(), FRAMES).args
    latents = torch.zeros(1, 200, FRAMES, 8, 8)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        bound.decode(latents)
    assert bound.decode(latents).shape[1] == FRAMES


def test_model_and_vae_of_different_spaces_are_refused_by_name(core, ours, builtin, tiny_model):
    prompts = tiny.prompt(1), tiny.prompt(2)
    positive, negative, latent, *_ = ours["ImageToVideo"].execute(*prompts, builtin[2], photo(), FRAMES).args
    with pytest.raises(ValueError, match="the latents of the Stable Video Diffusion VAE .*: use that VAE and the node"):
        core(
            "KSampler", model=tiny_model, seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
            positive=positive, negative=negative, latent_image=latent, denoise=1.0,
        )  # fmt: skip


class PictureVAE:
    """Stands for a VAE of the host that needs multiples of 8 and takes 4k + 1 frames."""

    def spacial_compression_encode(self):
        return 8

    def temporal_compression_decode(self):
        return 4

    def encode(self, pixels):
        assert pixels.shape[-1] == 3
        return torch.ones(1, 4, 1, pixels.shape[1] // 8, pixels.shape[2] // 8)


def test_other_vaes_set_the_frame_and_size_rules(ours):
    vae = PictureVAE()
    *_, latent, same, _ = ours["ImageToVideo"].execute([], [], vae, photo(48, 72), 9).args
    assert latent["samples"].shape == (1, 4, 3, 6, 9) and same is vae
    with pytest.raises(ValueError, match="num_frames is 10; this VAE needs 4k \\+ 1; use 9 or 13"):
        ours["ImageToVideo"].execute([], [], vae, photo(48, 72), 10)
    with pytest.raises(ValueError, match="scale it to 48x48 or 56x56 with the core node Upscale Image"):
        ours["ImageToVideo"].execute([], [], vae, photo(50, 52), 9)


def test_picture_vae_of_the_host_decodes_every_frame(ours):
    import comfy.sd

    class Half(torch.nn.Module):
        def decode(self, latents):
            return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8) * 0.5

    vae = comfy.sd.VAE(sd={})
    vae.first_stage_model = Half()
    vae.device = vae.output_device = torch.device("cpu")
    vae.vae_dtype = torch.float32
    import comfy.model_patcher

    vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, vae.device, vae.device)
    vae.encode = lambda pixels: torch.ones(1, 4, pixels.shape[1] // 8, pixels.shape[2] // 8)
    *_, latent, folded, _ = ours["ImageToVideo"].execute([], [], vae, photo(16, 24), 5).args
    assert latent["samples"].shape == (1, 4, 5, 2, 3) and type(vae) is comfy.sd.VAE
    video = folded.decode(latent["samples"] * torch.arange(5.0).view(1, 1, 5, 1, 1) / 4)
    assert video.shape == (1, 5, 16, 24, 3)
    levels = video.mean((0, 2, 3, 4))
    assert torch.allclose(levels, (torch.arange(5.0) / 8 + 1) / 2)


def test_prompts_reach_the_encoder_that_was_trained(core, builtin):
    model = load_builtin()
    for text in ("pan left", "Zoom in, pan right", "", "still"):
        cond, more = encode(core, builtin[1], text)[0]
        told = model.encode([text])
        assert torch.allclose(cond, told.context) and torch.allclose(more["pooled_output"], told.pooled)
        assert torch.equal(more["attention_mask"], told.attention_mask)


@pytest.mark.parametrize("text, is_told", [("", True), ("slowly", True), ("still", False), ("pan left", False)])
def test_a_positive_that_names_no_motion_is_told_under_the_node(core, ours, builtin, text, is_told):
    _, clip, vae = builtin
    shown = ours["ImageToVideo"].execute(encode(core, clip, text), encode(core, clip, ""), vae, photo(), FRAMES).ui
    assert ("no motion is named" in shown.value) == is_told


def test_a_word_that_another_model_knows_is_refused_with_its_name(core, ours, builtin):
    _, clip, vae = builtin
    with pytest.raises(ValueError, match="the model motionblocks-small knows it"):
        ours["ImageToVideo"].execute(encode(core, clip, "snow"), encode(core, clip, ""), vae, photo(), FRAMES)


def test_prompt_and_dynamics_and_seed_change_the_video(core, ours, builtin):
    image = photo()
    plain = animate(core, ours, builtin, image)[1]
    assert torch.equal(plain, animate(core, ours, builtin, image)[1])
    for more in ({"text": "zoom out"}, {"dynamics": 2}, {"seed": 2}):
        assert not torch.equal(plain, animate(core, ours, builtin, image, **more)[1]), more


def test_builtin_model_computes_in_float32_and_has_exact_preview_colours(builtin):
    model = builtin[0]
    assert model.model.diffusion_model.dtype == torch.float32 and model.model.manual_cast_dtype is None
    factors = torch.tensor(model.get_model_object("latent_format").latent_rgb_factors)
    latents = FlowCodec().encode(photo().movedim(-1, 1).unsqueeze(2))
    shown = latents[0, :, 0].movedim(0, -1) @ factors
    square = FlowCodec().decode(latents)[0, :, 0]
    means = torch.nn.functional.avg_pool2d(square, 8).movedim(0, -1) * 2 - 1
    assert (shown - means).abs().max() < 2e-3


def test_graph_and_shell_give_the_same_video(core, ours, builtin):
    model, clip, vae = builtin
    image = photo(40, 56)
    positive, _, latent, bound, _ = ours["ImageToVideo"].execute(
        encode(core, clip, "rotate left"), encode(core, clip, ""), vae, image, FRAMES, 9
    ).args
    (noise,) = core("RandomNoise", noise_seed=4)
    (guider,) = core("BasicGuider", model=model, conditioning=positive)
    (sigmas,) = ours["FlowScheduler"].execute(model, 3).args
    (sampler,) = ours["FlowDPM2M"].execute().args
    (out, _) = core(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    (video,) = core("VAEDecode", vae=bound, samples=out)
    shell = animate_photo(
        image[0].movedim(-1, 0), motion="rotate left", dynamics=9, num_frames=FRAMES, num_steps=3, seed=4, device="cpu"
    )
    assert (video - shell).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["nothing", "../motionblocks-tiny", ""])
def test_unknown_builtin_names_are_refused(ours, name):
    with pytest.raises(ValueError, match="it must be one of: motionblocks-tiny"):
        ours["LoadBuiltin"].execute(name)


def test_sample_photos_load_and_other_names_are_refused(ours):
    names = ours["SamplePhoto"].define_schema().inputs[0].options
    assert len(names) >= 3
    for name in names:
        image = ours["SamplePhoto"].execute(name).args[0]
        assert image.ndim == 4 and image.shape[0] == 1 and image.shape[-1] == 3
        assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.05
    for name in ("../README.md", "README.md", "/etc/passwd"):
        with pytest.raises(ValueError, match="photo is"):
            ours["SamplePhoto"].execute(name)


def test_empty_latent_takes_the_builtin_working_size_and_refuses_foreign_models(ours, builtin):
    (latent,) = ours["EmptyLatent"].execute(builtin[0], 512, 512, 16, 1).args
    assert latent["samples"].shape == (1, 200, 16, 8, 8) and not latent["samples"].any()

    class Foreign:
        model = object()

    with pytest.raises(ValueError, match="neither a MotionBlocks model nor plain Wan"):
        ours["EmptyLatent"].execute(Foreign(), 512, 512, 16, 1)


def test_empty_latent_names_the_nearest_sizes(ours, tiny_model):
    with pytest.raises(ValueError, match="multiples of 16; scale it to 48x64 or 64x64"):
        ours["EmptyLatent"].execute(tiny_model, 50, 64, 4)


def test_loading_warns_of_nothing_and_leaves_the_log_as_it_was(ours, caplog):
    import logging

    before = list(logging.getLogger().filters)
    ours["LoadBuiltin"].execute("motionblocks-tiny")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert logging.getLogger().filters == before
