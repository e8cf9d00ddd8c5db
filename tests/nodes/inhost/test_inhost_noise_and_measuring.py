"""DCT Init on models of the host, and the measuring node."""

import sys

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import pytest
import tiny
import torch
from scipy.fft import dctn, idctn

CPU = torch.device("cpu")


def core_model(config, kind="EPS"):
    """A MODEL of one of the host's families without a network: latent space and noise schedule are all that counts."""
    made = config({"disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(made, comfy.model_base.ModelType[kind])
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


@pytest.fixture(scope="module")
def model(ours, models_folder):
    tiny.tiny_file(models_folder / "noise.safetensors")
    return ours["LoadModel"].execute("noise.safetensors", "fp32").args[0]


def expected(first, noise, amount, level, box):
    """Truth in float64: low DCT frequencies of amount·z + level·noise instead of those of the noise, frame by frame."""
    content = dctn(amount * first + level * noise, axes=(-2, -1), norm="ortho")
    spectrum = dctn(noise, axes=(-2, -1), norm="ortho")
    spectrum[..., : box[0], : box[1]] = content[..., : box[0], : box[1]]
    return idctn(spectrum, axes=(-2, -1), norm="ortho")


def plain_noise(latent, seed):
    return torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed)).double().numpy()


def test_noise_of_our_model_is_the_papers(ours, model):
    latent = tiny.start()
    (noise,) = ours["DCTInit"].execute(model, latent, 7, "dct", 0.5).args
    sigma = 3 * 0.975 / (1 + 2 * 0.975)
    first = (latent["samples"][:, :, :1] * 0.18215).double().numpy()
    truth = expected(first, plain_noise(latent, 7), 1 - sigma, sigma, (3, 3))
    assert noise.seed == 7
    assert abs(noise.generate_noise(latent).double().numpy() - truth).max() < 2e-6


FAMILIES = [("SD15", "EPS", 4), ("SDXL", "V_PREDICTION", 4), ("Flux", "FLUX", 16), ("WAN21_T2V", "FLOW", 16)]
FAMILIES += [("LTXV", "FLUX", 128)]


@pytest.mark.parametrize("family, kind, channels", FAMILIES)
def test_models_of_the_host_get_noise_in_their_own_space(ours, family, kind, channels):
    model = core_model(getattr(comfy.supported_models, family), kind)
    space = model.get_model_object("latent_format")
    assert space.latent_channels == channels
    shape = (1, channels, 3, 8, 10) if space.latent_dimensions == 3 else (1, channels, 8, 10)
    latent = {"samples": tiny.randn(*shape, seed=4)}
    result = ours["DCTInit"].execute(model, latent, 11, "dct", 0.25, 0.9)
    noise = result.args[0].generate_noise(latent)
    sampling = model.get_model_object("model_sampling")
    if kind in ("EPS", "V_PREDICTION"):
        sigma = float(sampling.sigma(torch.tensor(0.9 * 999)))
        amount, level = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
    else:
        level = float(sampling.sigma(torch.tensor(0.9 * getattr(sampling, "multiplier", 1))))
        amount = 1 - level
    first = latent["samples"][:, :, :1] if len(shape) == 5 else latent["samples"]
    first = space.process_in(first).double().numpy()
    truth = expected(first, plain_noise(latent, 11), amount, level, (2, 2))
    assert abs(noise.double().numpy() - truth).max() < 5e-5
    assert not torch.equal(noise, torch.from_numpy(plain_noise(latent, 11)).float())


def test_models_that_mix_noise_otherwise_are_refused(ours):
    model = core_model(comfy.supported_models.SD15, "EDM")
    with pytest.raises(ValueError, match="DCT Init knows flow and DDPM models; use Random Noise"):
        ours["DCTInit"].execute(model, {"samples": tiny.randn(1, 4, 8, 8)}, 0)


def test_method_none_and_keep_0_are_the_core_noise(core, ours, model):
    latent = tiny.start(2)
    (plain,) = core("RandomNoise", noise_seed=3)
    for more in (("none", 0.23), ("dct", 0.0)):
        (noise,) = ours["DCTInit"].execute(model, latent, 3, *more).args
        assert torch.equal(noise.generate_noise(latent), plain.generate_noise(latent)), more


def test_batch_index_is_honoured_and_batches_get_noise_each(ours, model):
    latent = tiny.start(3)
    (noise,) = ours["DCTInit"].execute(model, tiny.start(), 3).args
    all_rows = noise.generate_noise({**latent, "batch_index": [0, 1, 2]})
    assert torch.equal(noise.generate_noise({**tiny.start(), "batch_index": [2]}), all_rows[2:])
    assert not torch.equal(all_rows[0], all_rows[1])


def test_inputs_are_not_written_into_and_the_noise_is_repeatable(ours, model):
    latent = tiny.start()
    kept = latent["samples"].clone()
    (noise,) = ours["DCTInit"].execute(model, latent, 3, "fft").args
    one, two = noise.generate_noise(latent), noise.generate_noise(latent)
    assert torch.equal(one, two) and torch.equal(latent["samples"], kept)


def test_kept_box_is_shown_as_text_and_picture(ours, model):
    latent = {"samples": torch.ones(1, 4, 16, 8, 8)}
    shown = ours["DCTInit"].execute(model, latent, 3).ui
    assert "dct: 16x1x1 of 16x8x8 frequencies" in shown["text"][0] and "sigma 0.99153" in shown["text"][0]
    assert len(shown["images"]) == 1
    wide = ours["DCTInit"].execute(model, {"samples": torch.ones(1, 4, 2, 40, 64)}, 3, keep_width=0.5).ui
    assert "dct: 2x9x32 of 2x40x64" in wide["text"][0]
    raw = ours["DCTInit"].execute(model, latent, 3, apply_shift=False).ui["text"][0]
    assert "sigma 0.97500" in raw


class Nested:
    is_nested = True


@pytest.mark.parametrize(
    "latent, more, words",
    [
        ({"samples": torch.zeros(1, 4, 4, 8, 8)}, {}, "DCT Init needs the start picture"),
        ({"samples": torch.ones(1, 16, 4, 8, 8)}, {}, "the latent has 16 channels, the model 4"),
        ({"samples": Nested()}, {}, "packs several streams"),
        ({"samples": torch.ones(1, 4, 4, 8, 8) / 0}, {}, "NaN or infinity"),
        ({"samples": torch.ones(4, 8, 8)}, {}, "4 or 5 axes"),
        (None, {"method": "dst"}, "method is 'dst'; it must be one of: dct, fft, none"),
        (None, {"keep": 1.5}, "keep is 1.5; it must be 0.0 to 1.0"),
        (None, {"tau": float("nan")}, "tau is nan"),
        (None, {"noise_seed": 2**64}, "noise_seed is 18446744073709551616"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_way_out(ours, model, latent, more, words):
    given = {"noise_seed": 0, **more}
    with pytest.raises(ValueError, match=words):
        ours["DCTInit"].execute(model, latent or tiny.start(), **given)


def test_nested_latent_to_sample_is_refused_politely(ours, model):
    (noise,) = ours["DCTInit"].execute(model, tiny.start(), 0).args
    with pytest.raises(ValueError, match="the latent to sample packs several streams"):
        noise.generate_noise({"samples": Nested()})


def test_sampling_with_refined_noise_keeps_frame_1_and_differs_from_plain(core, ours, model):
    first = tiny.first_latent()
    latent = tiny.start(first=first)
    positive, negative = (tiny.prompt(seed, first=first) for seed in (1, 2))
    (guider,) = core("CFGGuider", model=model, positive=positive, negative=negative, cfg=2.0)
    (sigmas,) = ours["FlowScheduler"].execute(model, 4).args
    (sampler,) = ours["FlowDPM2M"].execute().args
    outs = []
    for method in ("dct", "fft", "none"):
        (noise,) = ours["DCTInit"].execute(model, latent, 5, method, 0.5, 0.8).args
        out = core(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
        )
        outs.append(out[0]["samples"])
        assert (outs[-1][:, :, :1] - first).abs().max() <= 1e-5 * first.abs().max()
    assert not torch.equal(outs[0], outs[2]) and not torch.equal(outs[0], outs[1])


def moving_clip(step, frames=6, size=64):
    noise = torch.rand(1, 3, size // 4, size, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.interpolate(noise, size=(size, 4 * size), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    return torch.stack([wide[:, 10 + step * frame : 10 + step * frame + size] for frame in range(frames)])


def test_faster_motion_measures_higher_and_a_still_clip_measures_zero(ours):
    found = [ours["MeasureDynamics"].execute(moving_clip(step), 64).args for step in (0, 1, 4)]
    assert found[0][0] == 0 and found[0][1] == 0.0
    assert found[0][1] < found[1][1] < found[2][1]
    assert isinstance(found[2][0], int) and isinstance(found[2][1], float)
    assert "bucket" in found[2][2] and "6 frames" in found[2][2]


def test_a_connected_model_sets_the_scale(ours):
    clip = moving_clip(1)
    builtin = ours["LoadBuiltin"].execute("motionblocks-tiny").args[0]
    scale = builtin.model.spec.dynamics
    bucket, degree, report = ours["MeasureDynamics"].execute(clip, 256, builtin).args
    same = ours["MeasureDynamics"].execute(clip, scale.measure_size).args
    assert degree == same[1] and f"at {scale.measure_size} px" in report
    place = int(scale.num_buckets * (degree - scale.degree_min) / (scale.degree_max - scale.degree_min))
    assert bucket == min(place, scale.num_buckets - 1) and bucket != same[0]
    with pytest.raises(ValueError, match="no dynamics scale of its own"):
        ours["MeasureDynamics"].execute(clip, 64, core_model(comfy.supported_models.SD15))


def test_a_built_in_model_sees_the_whole_picture_as_in_its_training(ours):
    builtin = ours["LoadBuiltin"].execute("motionblocks-tiny").args[0]
    wide = torch.cat((moving_clip(1), moving_clip(1).flip(2)), dim=2)
    found = ours["MeasureDynamics"].execute(wide, 256, builtin).args
    alone = ours["MeasureDynamics"].execute(wide, builtin.model.spec.dynamics.measure_size).args
    assert found[1] < 0.7 * alone[1] and "for this picture" in found[2] and "the whole picture in a square" in found[2]
    assert "the whole picture in a square" not in alone[2]


@pytest.mark.parametrize("flow", ["auto", "on", "off"])
def test_without_opencv_flow_is_not_mentioned_unless_it_was_asked_for(ours, monkeypatch, flow):
    monkeypatch.setitem(sys.modules, "cv2", None)  # an import of it fails, as where it is not installed
    measure = ours["MeasureDynamics"].execute
    if flow == "on":
        with pytest.raises(ValueError, match="optical flow needs cv2.*pip install opencv-python-headless"):
            measure(moving_clip(1), 64, flow=flow)
        return
    text = measure(moving_clip(1), 64, flow=flow).args[2]
    assert "flow" not in text and "opencv" not in text.lower() and "mean absolute difference" in text


def test_flow_is_told_in_shares_of_the_picture_and_as_the_models_own_slider(ours):
    from pack.motion.metrics.dynamics import DynamicsReport
    from pack.nodes.measuring import describe

    report = DynamicsReport(degree=0.04, bucket=15, mean_absolute_difference=0.02, flow_px=2.5, way_percent=22.2)
    builtin = ours["LoadBuiltin"].execute("motionblocks-small").args[0]
    scale = builtin.model.spec.dynamics
    text = describe(report, 16, scale, letterbox=True, model_name=builtin.clone().model.file_name)
    assert "median optical flow per frame 2.50 px" in text
    assert "the picture as a whole moves by 22.2 % of its long side over the clip" in text
    assert text.endswith("motionblocks-small moves as far at dynamics: pan 12, zoom in 19, zoom out 19, rotate 19")
    assert "moves as far" not in describe(report, 16, scale, model_name="my_model")


def test_a_graph_of_before_measures_without_the_new_input(ours):
    clip, measure = moving_clip(4), ours["MeasureDynamics"].execute
    assert measure(clip, 64).args == measure(clip, 64, None, "auto").args
    with pytest.raises(ValueError, match="flow is 'maybe'; it must be one of: auto, on, off"):
        measure(clip, 64, flow="maybe")


@pytest.mark.parametrize(
    "frames, words",
    [
        (torch.rand(1, 32, 32, 3), "at least 2 are needed"), (torch.zeros(0, 32, 32, 3), "non-empty IMAGE"),
        (torch.full((3, 32, 32, 3), float("nan")), "NaN or infinite pixels"),
        (torch.rand(3, 32, 32, 2), "2 channels"),
    ],
)  # fmt: skip
def test_clips_that_cannot_be_measured_are_refused(ours, frames, words):
    with pytest.raises(ValueError, match=words):
        ours["MeasureDynamics"].execute(frames, 64)
