"""A causal VAE of four frames a latent through data set, task and run: 17 frames, 5 latents, scales of their own."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from causal_clips import encode_causally, encoders, filmed, same_weights, whole_and_resumed
from pack.motion.data.clips import ClipCollection
from pack.motion.data.encoders import wan_encoders
from pack.motion.data.latent_dataset import build_latent_dataset
from pack.motion.data.resampling import nearest_frames
from pack.motion.data.windows import WindowConfig
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.adapters.adapter_file import load_adapter
from pack.motion.models.architecture import TrainingDefaults
from pack.motion.models.latent_spaces import WAN21_DEVIATION, WAN21_MEAN
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec
from pack.motion.models.wan.vae import WanVAE
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import adapter_task, chosen_targets
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from training_toys import tiny_dit, tiny_spec

SPEC = LinearVideoSpec(
    replace(tiny_spec().config, in_channels=16), latent=LatentSpec("wan21", 16, 8, scale_factor=1.0)
)
OWN = TrainingDefaults(num_frames=17, stride_min=1, stride_max=1, fps=16.0, targets=("attn1",))
WINDOWS = WindowConfig(num_frames=0, stride_min=0, stride_max=0, windows_per_clip=2, resolution=32)


def built(*clips, encode=encode_causally, made=None, **options):
    return build_latent_dataset(
        ClipCollection(clips, fps=0.0), SPEC, made or encoders(encode), WINDOWS, cache_folder=None, own=OWN, **options
    )


def test_seventeen_frames_are_five_latents_scaled_by_channel_and_resampled_once():
    clip = filmed("a", 0)
    data = built(clip)
    assert set(data.shapes) == {(16, 5, 4, 6)}
    places = nearest_frames(clip.times, 16.0)
    start = int(data.samples[0].name.split()[2])
    truth = encode_causally(clip.frames([places[start + n] for n in range(17)]).movedim(0, 1).unsqueeze(0))[0]
    mean, deviation = (torch.tensor(values).view(16, 1, 1, 1) for values in (WAN21_MEAN, WAN21_DEVIATION))
    torch.testing.assert_close(data.sample(0)["latents"], (truth - mean) / deviation)
    assert "num_frames 17: the model's own" in data.summary() and "clips resampled to 16 fps" in data.summary()
    assert data.record()["windows"]["num_frames"] == 17


@pytest.mark.slow
def test_the_wan_vae_of_our_own_fills_the_data_set():
    torch.manual_seed(0)
    vae, clip = WanVAE(2), filmed("a", 0)
    data = built(clip, made=wan_encoders(vae, encoders().encode_text, "text"))
    assert set(data.shapes) == {(16, 5, 4, 6)}
    places, start = nearest_frames(clip.times, 16.0), int(data.samples[0].name.split()[2])
    frames = clip.frames([places[start + n] for n in range(17)]).movedim(0, 1).unsqueeze(0)
    mean, deviation = (torch.tensor(values).view(16, 1, 1, 1) for values in (WAN21_MEAN, WAN21_DEVIATION))
    torch.testing.assert_close(data.sample(0)["latents"], (vae.encode(frames * 2 - 1)[0] - mean) / deviation)


def test_a_vae_that_gives_a_latent_a_frame_is_refused_here():
    with pytest.raises(ShapeError, match=r"needs \(1, 16, 5, h, w\) of 17 frames"):
        built(filmed("a", 0), encode=lambda frames: F.avg_pool3d(frames, (1, 8, 8)).repeat(1, 6, 1, 1, 1)[:, :16])


def test_clips_too_short_for_the_rate_are_skipped_and_all_of_them_refused():
    data = built(filmed("a", 0), filmed("b", 1, num_frames=4))
    assert all(sample.name.startswith("a") for sample in data.samples)
    assert "b is skipped: only 3 of the 5 frames that are needed, at 16 fps" in data.summary()


def test_clips_slower_than_the_models_rate_are_named():
    slow = filmed("c", 2)
    slow = replace(slow, fps=8.0, times=tuple(n / 8 for n in range(slow.num_frames)))
    assert "1 slower than 16 fps (c): their frames are repeated" in built(slow, filmed("a", 0)).summary()
    assert "slower" not in built(filmed("a", 0)).summary()


def test_where_every_clip_is_too_short_for_the_rate_all_are_refused():
    with pytest.raises(ConfigError, match="b: only 3 of the 5 frames that are needed, at 16 fps"):
        built(filmed("b", 1, num_frames=4))


@pytest.mark.slow
def test_such_clips_train_a_lora_through_the_run_and_a_killed_run_ends_the_same(tmp_path):
    config = TrainingConfig.of(
        num_steps=24, warmup_steps=0, learning_rate=3e-3, rank=4, alpha=4.0, targets=(), save_every=4, batch_size=2,
        schedule="constant",
    )  # fmt: skip

    whole, resumed = whole_and_resumed(
        tmp_path, config, lambda: built(filmed("a", 0), filmed("b", 1)),
        lambda data: adapter_task(LinearVideoTrainee(tiny_dit(SPEC), SPEC), data, config),
    )  # fmt: skip
    losses = whole.training.losses
    assert sum(losses[-8:]) < sum(losses[:8])
    assert "targets attn1, attn_temporal, attn2, ff: the model's own" in whole.summary
    assert same_weights(whole.path, resumed.path) and resumed.training.losses == losses
    assert {layer.rank for layer in load_adapter(whole.path, tiny_dit(SPEC)).layers.values()} == {4}


def test_targets_are_those_asked_for_or_the_models_own_where_only_the_default_does_not_fit():
    net = torch.nn.ModuleDict({"self_attn": torch.nn.Linear(2, 2), "ffn": torch.nn.Linear(2, 2)})
    default = TrainingConfig().adapter.targets
    assert chosen_targets(("ffn",), net, ("self_attn",)) == (("ffn",), ())
    for asked in ((), default):
        chosen, notes = chosen_targets(asked, net, ("self_attn",))
        assert chosen == ("self_attn",) and notes == ("targets self_attn: the model's own",)
    with pytest.raises(ConfigError, match="no layer's name holds any of sefl_attn"):
        chosen_targets(("sefl_attn",), net, ("self_attn",))
