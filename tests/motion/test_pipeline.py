"""Photo in, frames out: shapes, determinism, progress and cancel, odd photos, and every refusal, on a random model."""

import pytest
import torch
from pack.motion.builtin_model import bundle
from pack.motion.devices import pick_device
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.networks.linear_video import LinearVideoFile
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec, SamplingDefaults
from pack.motion.pipeline import animate, animate_frames, check_photo
from pack.motion.text.encoder import MotionTextEncoder
from pack.motion.text.vocabulary import MotionVocabulary


def random_model(dtype=torch.float32, **sampling):
    """An untrained model of the built-in kind: right in every shape, wild in what it shows."""
    config = LinearVideoDiTConfig(
        in_channels=200, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
        caption_channels=8, flow_channels=8, concat_first_frame=True, frame_index_embedding=True,
        pooled_text_embedding=True, position_features=True, prediction="x0",
    )  # fmt: skip
    spec = LinearVideoSpec(
        config=config,
        sampling=SamplingDefaults(**{"num_steps": 3, "guidance_scale": 1.0, "shift": 9.0, **sampling}),
        latent=LatentSpec("builtin", 200, 8, 1.0, 64),
    )
    torch.manual_seed(1)
    text = MotionTextEncoder(MotionVocabulary().size, 8).state_dict()
    return bundle(LinearVideoFile(spec, LinearVideoDiT(config).state_dict(), text, {}), dtype=dtype)


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture
def photo():
    return torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(5))


def test_video_has_the_photos_size_and_begins_with_the_photo_bit_for_bit(model, photo):
    frames = animate(photo, motion="zoom in", num_frames=5, model=model)
    assert frames.shape == (5, 48, 64, 3) and frames.dtype == torch.float32
    assert torch.equal(frames[0], photo.permute(1, 2, 0))
    assert torch.isfinite(frames).all() and 0 <= frames.min() and frames.max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (33, 51), (90, 160), (160, 90), (7, 400)])
def test_any_size_and_shape_goes_in_and_comes_out_padded_to_even(model, height, width):
    photo = torch.rand(3, height, width)
    frames = animate(photo, motion="pan left", num_frames=3, model=model)
    assert frames.shape == (3, height + height % 2, width + width % 2, 3)
    assert torch.equal(frames[0, :height, :width], photo.permute(1, 2, 0)) and torch.isfinite(frames).all()


def test_equal_arguments_give_equal_frames_and_another_seed_others(model, photo):
    torch.manual_seed(0)
    first = animate(photo, motion="pan left", num_frames=4, seed=3, model=model)
    torch.manual_seed(99)  # the global generator plays no part
    assert torch.equal(first, animate(photo, motion="pan left", num_frames=4, seed=3, model=model))
    assert not torch.equal(first, animate(photo, motion="pan left", num_frames=4, seed=4, model=model))


def test_motion_and_dynamics_reach_the_network(model, photo):
    base = animate(photo, motion="pan left", num_frames=4, model=model)
    assert not torch.equal(base, animate(photo, motion="zoom in", num_frames=4, model=model))
    assert not torch.equal(base, animate(photo, motion="pan left", dynamics=1, num_frames=4, model=model))


def test_photo_and_global_random_state_are_left_as_they_were(model, photo):
    before, state = photo.clone(), torch.get_rng_state()
    animate(photo, motion="zoom in", num_frames=3, model=model)
    assert torch.equal(photo, before) and torch.equal(torch.get_rng_state(), state)


def test_weights_are_left_as_they_were(model, photo):
    before = {name: tensor.clone() for name, tensor in model.dit.state_dict().items()}
    animate(photo, motion="zoom in", num_frames=3, model=model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.dit.state_dict().items())


def test_photo_from_inference_mode_is_taken(model):
    with torch.inference_mode():
        photo = torch.rand(3, 20, 20)
    assert animate(photo, motion="still", num_frames=2, model=model).shape == (2, 20, 20, 3)


def test_model_decides_steps_and_guidance_unless_told(model, photo):
    def steps(**options):
        seen = []
        animate(photo, motion="", num_frames=2, on_step=lambda *call: seen.append(call[:2]), **options)
        return seen

    assert steps(model=model) == [(0, 3), (1, 3), (2, 3)]
    assert steps(model=model, num_steps=1) == [(0, 1)]


def test_guidance_takes_the_empty_prompt_as_opposite(photo):
    guided = random_model(guidance_scale=3.0)
    frames = animate(photo, motion="zoom in", num_frames=3, model=guided)
    plain = animate(photo, motion="zoom in", num_frames=3, model=guided, guidance_scale=1.0)
    assert not torch.equal(frames, plain)
    empty = [animate(photo, motion="", num_frames=3, model=guided, guidance_scale=scale) for scale in (1.0, 3.0)]
    assert (empty[0] - empty[1]).abs().max() < 1e-3  # nothing to push away from


def test_cancel_from_on_step_passes_and_the_next_run_equals_a_fresh_one(model, photo):
    fresh = animate(photo, motion="zoom in", num_frames=3, model=model)

    class Cancel(Exception):
        pass

    def cancel(step, num_steps, clean):
        if step == 1:
            raise Cancel

    with pytest.raises(Cancel):
        animate(photo, motion="zoom in", num_frames=3, model=model, on_step=cancel)
    assert torch.equal(fresh, animate(photo, motion="zoom in", num_frames=3, model=model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_stay_near_float32(photo, dtype):
    truth = animate(photo, motion="zoom in", num_frames=4, num_steps=1, model=random_model())
    frames = animate(photo, motion="zoom in", num_frames=4, num_steps=1, model=random_model(dtype))
    assert frames.dtype == torch.float32 and torch.equal(frames[0], truth[0])
    assert (frames - truth).abs().mean() < 0.05


def test_double_precision_network_agrees_with_float32(photo):
    truth = animate(photo, motion="zoom in", num_frames=4, num_steps=1, model=random_model(torch.float64))
    frames = animate(photo, motion="zoom in", num_frames=4, num_steps=1, model=random_model())
    assert (frames - truth).abs().mean() < 1e-3


def test_grey_and_transparent_photos_follow_the_stated_rule(photo):
    assert torch.equal(check_photo(photo[:1]), photo[:1].repeat(3, 1, 1))
    alpha = torch.full((1, 48, 64), 0.25)
    truth = photo.double() * 0.25 + 0.75
    assert (check_photo(torch.cat((photo, alpha))) - truth).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p[0], "permute"),
        (lambda p: p.permute(1, 2, 0), "permute"),
        (lambda p: p[:2], "floats"),
        (lambda p: p.unsqueeze(0), "floats"),
        (lambda p: (p * 255).to(torch.uint8), "divide by 255"),
        (lambda p: p[:, :0], "at least 1"),
        (lambda p: p[:1, :1, :1].expand(3, 16, 16384), "16384x16 px; sides go up to 4096"),
        (lambda p: p[:1, :1, :1].expand(3, 5000, 2), "2x5000 px"),
        (lambda p: p.index_fill(2, torch.tensor([4]), float("nan")), "NaN"),
        (lambda p: p / 0, "NaN or Inf"),
        (lambda p: p * 255, "clamp"),
        (lambda p: p - 0.5, "clamp"),
    ],
)
def test_photo_that_cannot_be_is_refused(model, photo, make, words):
    with pytest.raises(ShapeError, match=words):
        animate(make(photo), motion="zoom in", num_frames=2, model=model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_frames": 0}, "2 to 256"),
        ({"num_frames": 1}, "2 to 256"),
        ({"num_frames": 257}, "2 to 256"),
        ({"num_frames": 16.0}, "2 to 256"),
        ({"dynamics": 20}, "0 .* to 19"),
        ({"dynamics": -1}, "0 .*to 19"),
        ({"dynamics": 3.5}, "0 .*to 19"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": -3}, "num_steps is -3"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"guidance_scale": 1e9}, "guidance_scale is"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"motion": "explode"}, "unknown word 'explode'.*zoom in"),
        ({"motion": "(zoom in:1.2)"}, "weight"),
        ({"motion": "pan"}, "direction"),
        ({"device": "cpu"}, "leave them out"),
    ],
)
def test_setting_that_cannot_be_is_refused_before_the_network_runs(model, photo, options, words, monkeypatch):
    monkeypatch.setattr(model.dit, "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(ConfigError, match=words):
        animate(photo, **{"motion": "zoom in", "num_frames": 2, "model": model, **options})


def test_largest_seed_and_every_bucket_are_taken(model, photo):
    for options in ({"seed": 2**64 - 1}, {"dynamics": 0}, {"dynamics": 19}):
        assert animate(photo, motion="", num_frames=2, num_steps=1, model=model, **options).shape[0] == 2


def test_video_too_large_for_memory_is_refused_with_the_number_and_a_count_that_fits(model, monkeypatch):
    monkeypatch.setattr(model.dit, "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(ShapeError, match=r"48\.0 GiB.*use 42 frames.*animate_frames"):
        animate(torch.zeros(1, 1, 1).expand(3, 4096, 4096), motion="", num_frames=256, model=model)


@pytest.mark.slow
def test_video_too_large_for_memory_comes_frame_by_frame(model):
    frames = animate_frames(torch.zeros(1, 1, 1).expand(3, 4096, 4096), motion="", num_frames=256, model=model)
    assert len(frames) == 256 and next(iter(frames)).shape == (4096, 4096, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 51), (67, 65), (150, 211), (333, 517)])
def test_frames_one_by_one_are_those_of_the_tensor_and_come_again(model, height, width):
    photo = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
    options = {"motion": "pan left", "num_frames": 4, "seed": 3, "model": model}
    video, frames = animate(photo, **options), animate_frames(photo, **options)
    assert video.is_contiguous() and len(frames) == 4
    for _ in range(2):
        assert torch.equal(torch.stack(list(frames)), video)


@pytest.mark.parametrize("edges", [None, "crop"])
def test_frames_as_bytes_are_the_frames_rounded_and_never_made_of_nan(model, edges):
    frames = animate_frames(torch.rand(3, 40, 61), motion="zoom in", num_frames=3, model=model, edges=edges)
    for frame, rounded in zip(frames, frames.as_bytes()):
        assert rounded.shape == (40, 62, 3) and torch.equal(rounded, (frame * 255).round().to(torch.uint8))
    frames.latents[0, 195, 2, 3, 3] = torch.nan
    with pytest.raises(ShapeError, match="NaN or Inf; nothing was written; try float32"):
        frames.as_bytes()


def test_frames_do_not_share_memory_with_the_photo_or_each_other(model, photo):
    before, frames = photo.clone(), iter(animate_frames(photo, motion="zoom in", num_frames=3, model=model))
    first = next(frames)
    first.zero_()
    assert torch.equal(photo, before) and next(frames).mean() > 0 and first.max() == 0


@pytest.mark.parametrize("options", [{"num_frames": 1}, {"seed": -1}, {"motion": "explode"}, {"dynamics": 20}])
def test_frames_that_cannot_be_are_refused_at_the_call(model, photo, options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is|unknown word"):
        animate_frames(photo, **{"motion": "zoom in", "num_frames": 2, "model": model, **options})


def test_unknown_device_and_type_are_refused():
    for name in ("cuda:99", "toaster", "meta:1:1"):
        with pytest.raises(ConfigError, match="cannot be used here"):
            pick_device(name)
    with pytest.raises(ConfigError, match="use one of float32"):
        animate(torch.rand(3, 8, 8), motion="", dtype=torch.int32)


def test_device_is_cuda_where_torch_sees_it_and_else_the_cpu(monkeypatch):
    for seen, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert pick_device().type == name
    assert pick_device("cpu").type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gpu_agrees_with_the_cpu(photo, dtype):
    truth = animate(photo, motion="zoom in", num_frames=4, num_steps=1, model=random_model(torch.float64))
    on_gpu = random_model(dtype)
    on_gpu.dit.cuda(), on_gpu.text_encoder.cuda()
    frames = animate(photo, motion="zoom in", num_frames=4, num_steps=1, model=on_gpu)
    assert frames.device.type == "cpu" and (frames - truth).abs().mean() < 0.05
