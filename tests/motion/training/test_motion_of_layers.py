"""Learning one clip's motion beside linear video models: layers for space and time, places of frames, what they get."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from causal_clips import filmed, same_weights
from pack.motion.analysis.head_map import HeadMap
from pack.motion.choices import ALL_HEADS, SPATIAL, TEMPORAL
from pack.motion.data.encoders import Encoders
from pack.motion.data.motion_clip import encode_motion_clip
from pack.motion.data.sparse_frames import plan_frames, rate_in
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.metrics.dynamics import degree_to_bucket, dynamics_degree
from pack.motion.models.heads.flow_codec import FlowCodec
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.motion_transfer import (
    PRESETS,
    MotionSettings,
    context_of,
    motion_metadata,
    motion_task,
    preset_for,
    settings_for,
)
from pack.motion.training.objectives.motion_loss import Motion, MotionLoss, motion_loss
from pack.motion.training.objectives.noise_levels import NoiseLevels
from pack.motion.training.objectives.table import own_objective
from pack.motion.training.run import TrainingPlan, TrainingRun
from pack.motion.training.task import SampleKey
from pack.motion.training.trainee import weights_fingerprint
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from training_toys import TEXT, Answering, flow_spec, tiny_dit, tiny_spec

SVD, BUILTIN = SPACES["svd"], SPACES["builtin"]
WORDS = context_of(torch.randn(1, 6, TEXT, generator=torch.Generator().manual_seed(4)), pooled=torch.ones(TEXT))
NUMBERS = {"num_steps": 6, "first_stage_steps": 3, "rank": 2, "alpha": 2.0, "learning_rate": 1e-2, "warmup_steps": 0,
           "caption_dropout": 0.0, "batch_size": 2}  # fmt: skip
ALONE = {**NUMBERS, "first_stage_steps": 0, "num_steps": 4}


def encode(frames):
    """(1, 3, t, h, w) -> (1, 4, t, h / 8, w / 8), frame by frame."""
    small = F.avg_pool3d(frames, (1, 8, 8))
    return torch.cat((small, small[:, :1]), 1) * 4


def clip_of(space=SVD, encode=encode, *, sparse=4, multiple=16):
    plan = plan_frames(filmed("a", 0), num_frames=9, sparse_frames=sparse, fps=rate_in(space), group=1)
    encoders = Encoders(encode, lambda caption: WORDS, "toy", multiple)
    return encode_motion_clip(filmed("a", 0), plan, encoders, space, resolution=32, caption="it brightens")


CLIP = clip_of()
TEXT_TO_VIDEO, FROM_IMAGE = tiny_spec("t2v"), tiny_spec()


def trainee(spec=TEXT_TO_VIDEO):
    return LinearVideoTrainee(tiny_dit(spec), spec)


def task_of(spec=TEXT_TO_VIDEO, clip=CLIP, settings=None, numbers=None, **more):
    numbers = numbers or (NUMBERS if spec.objective == "t2v" else ALONE)
    settings = settings or MotionSettings(heads=TEMPORAL)
    return motion_task(trainee(spec), clip, WORDS, TrainingConfig.of(**numbers), settings, **more)[0]


def run(folder, name, *, resume=None, stop_after=None):
    class Watching:
        encoding = say = sample = state = staticmethod(lambda *given: None)

        @staticmethod
        def step(report, losses):
            if report.step == stop_after:
                raise KeyboardInterrupt

    kept = []

    def task(dataset):
        kept.append(task_of())
        return kept[-1]

    plan = TrainingPlan(config=TrainingConfig.of(**NUMBERS, save_every=1), task=task, states=folder / name,
                        resume=resume)  # fmt: skip
    try:
        TrainingRun(plan, Watching()).run()
    except KeyboardInterrupt:
        assert stop_after is not None
    return kept[0]


def test_any_number_of_frames_at_eight_a_second_and_each_stands_where_it_was():
    assert CLIP.plan.window == (0, 3, 6, 9, 12, 15, 18, 21, 24) and CLIP.plan.sparse == (0, 9, 15, 24)
    assert CLIP.sparse["latents"].shape == (4, 4, 4, 6) and CLIP.whole["latents"].shape == (4, 9, 4, 6)
    found = {mode: CLIP.plan.places(mode).tolist() for mode in ("stride", "center", "paper", "off")}
    assert found["stride"] == found["center"] == [0, 3, 5, 8]
    assert found["off"] == [0, 1, 2, 3] and found["paper"] == [0, 2.25, 4.5, 6.75]
    with pytest.raises(ConfigError, match="places 'mine'"):
        CLIP.plan.places("mine")
    with pytest.raises(ConfigError, match="num_frames is 2; 3 to 1001 frames are needed: use 3"):
        plan_frames(filmed("a", 0), num_frames=2, group=1)


def test_the_first_stage_trains_layers_for_space_on_single_frames_the_second_those_for_time_at_their_places():
    task = task_of()
    names = {stage: {name.split(".")[2] for name in lora.layers} for stage, lora in task._loras()}
    assert names == {"spatial": {"attn1"}, "temporal": {"attn_temporal"}}
    assert len(task.temporal.layers) == 8 and "transformer_blocks.0.attn_temporal.to_out.0" in task.temporal.layers
    first, second = (task.draw([SampleKey(0, step, 0)]).tensors for step in (2, 3))
    assert first["latents"].shape == (1, 4, 1, 4, 6) and "frame_places" not in first
    assert second["latents"].shape == (1, 4, 4, 4, 6) and second["frame_places"].tolist() == [[0, 3, 5, 8]]
    every = task_of(settings=MotionSettings(heads=ALL_HEADS, include_o=False)).temporal.layers
    assert {name.split(".")[2] for name in every} == {"attn1", "attn_temporal"} and len(every) == 12


def test_latents_are_scaled_as_the_model_has_it():
    sample = task_of().dataset.sample(0)
    assert torch.allclose(sample["latents"], 0.5 * CLIP.sparse["latents"])
    assert int(sample["motion_bucket_id"]) == CLIP.bucket(TEXT_TO_VIDEO)
    frames = filmed("a", 0).frames(list(CLIP.plan.window)).unsqueeze(0)
    wanted = degree_to_bucket(dynamics_degree(frames, measure_size=256), TEXT_TO_VIDEO.dynamics)
    assert CLIP.bucket(TEXT_TO_VIDEO) == int(wanted) and CLIP.bucket(WanSpec()) == 0


def test_each_stage_moves_its_own_lora_and_a_run_goes_on_across_the_border_to_the_same_bits(tmp_path):
    whole = run(tmp_path, "whole")
    cut = run(tmp_path, "cut", stop_after=3)
    assert not any(layer.up.any() for layer in cut.temporal.layers.values())
    assert all(layer.up.any() for layer in cut.spatial.layers.values())
    resumed = run(tmp_path, "cut", resume="latest")
    for task, name in ((whole, "whole"), (resumed, "cut")):
        save_adapter(tmp_path / f"{name}.safetensors", task.adapter)
    assert same_weights(tmp_path / "whole.safetensors", tmp_path / "cut.safetensors")
    base = trainee().module
    assert weights_fingerprint(whole.trainee.module) == weights_fingerprint(base)
    lora = load_adapter(tmp_path / "whole.safetensors", base)
    assert set(lora.layers) == set(whole.temporal.layers)


@pytest.mark.parametrize("spec", [FROM_IMAGE, tiny_spec(prediction="x0")])
def test_a_model_that_begins_with_a_picture_learns_the_motion_alone(spec):
    task = task_of(spec, settings=MotionSettings(heads=TEMPORAL))
    assert task.spatial is None and len(task.dataset) == 1 and "spatial stage is left out" in task.notes[0]
    with task.running():
        loss = task.loss(task.draw([SampleKey(0, 0, 0), SampleKey(0, 0, 1)]))
        loss.sum().backward()
    assert loss.shape == (2,) and all(layer.up.grad.any() for layer in task.temporal.layers.values())
    with pytest.raises(ConfigError, match="no spatial stage; set stage to temporal"):
        task_of(spec, settings=MotionSettings(stage=SPATIAL))


def test_places_reach_the_network_in_every_objective():
    for spec in (TEXT_TO_VIDEO, FROM_IMAGE, tiny_spec(prediction="x0"), flow_spec()):
        clip = CLIP if spec.space.kind == "svd" else clip_of(BUILTIN, FlowCodec(64).encode, multiple=1)
        found = []
        for places in ("stride", "off"):
            numbers = {**ALONE, "first_stage_steps": 0}
            settings = MotionSettings(stage=TEMPORAL, heads=TEMPORAL, places=places)
            task = task_of(spec, clip, settings, numbers)
            for value in task.trainee.module.parameters():
                value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) / 4)
            with task.running(), torch.no_grad():
                found.append(task.loss(task.draw([SampleKey(0, 0, 0)])))
        assert found[0].isfinite().all() and not torch.equal(*found)


def test_the_builtin_space_holds_the_flow_of_the_frames_trained():
    codec = FlowCodec(64)
    clip = clip_of(BUILTIN, codec.encode, multiple=1)
    assert clip.sparse["latents"].shape == (200, 4, 8, 8) and clip.size == "64x64 px, 4 of 9 frames"
    assert clip.sparse["latents"][192:, 1:].any() and not clip.sparse["latents"][192:, 0].any()
    assert torch.equal(clip.whole["latents"][:, [0, 3, 5, 8]], clip.sparse["latents"])
    assert not clip.alone[:, 192:].any()
    with pytest.raises(ConfigError, match="encoded for Stable Video Diffusion VAE, this model works in built-in VAE"):
        task_of(flow_spec(), CLIP)
    other = replace(flow_spec(), latent=replace(flow_spec().latent, working_size=128))
    with pytest.raises(ConfigError, match="encoded at 64 px, this model works at 128"):
        clip.check_space(other)


def test_a_flow_head_warps_and_is_judged_by_the_places_of_frames():
    spec, clip = flow_spec(), clip_of(BUILTIN, FlowCodec(64).encode, multiple=1)
    task = task_of(spec, clip)
    batch = task.draw([SampleKey(0, 0, 0)]).tensors
    raw = torch.randn(1, 200, 4, 8, 8, generator=torch.Generator().manual_seed(2)) / 9
    losses = []
    for places in (batch["frame_places"], torch.arange(4.0).unsqueeze(0)):
        told = {**batch, "frame_places": places}
        network = LinearVideoTrainee(Answering(raw, spec.config), spec)
        said = network.conditions(told, first_latent=batch["latents"][:, :, :1])
        clean = network.estimate_clean(batch["latents"], batch["sigma"], said)
        assert torch.allclose(clean[:, 192:], raw[:, 192:] * (places / 4).view(1, 1, 4, 1, 1))
        for weight in (0.0, 20.0):
            config = TrainingConfig.of(**ALONE, flow_weight=weight).objective
            losses.append(float(own_objective(network, config).loss(network, told)))
    error = (raw * (batch["frame_places"] / 4).view(1, 1, 4, 1, 1) - batch["latents"])[:, 192:, 1:].abs()
    growth = (batch["frame_places"][:, 1:] / 4).sqrt().view(1, 1, 3, 1, 1)
    still = 4.0 if batch["latents"][:, 192:].abs().max() < 1e-3 else 1.0
    assert losses[1] - losses[0] == pytest.approx(20 * still * float((error / growth).mean()), rel=1e-3)


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_the_motion_loss_compares_velocities_of_residuals(prediction):
    task = task_of(tiny_spec(prediction=prediction))
    batch = task.draw([SampleKey(0, 0, 0), SampleKey(0, 0, 1)]).tensors
    batch["sigma"] = torch.tensor([0.9, 0.4])
    network, config = task.trainee, TrainingConfig.of(**ALONE).objective
    own = own_objective(network, config)
    with torch.no_grad():
        loss, answer, truth = own.compared(network, batch)
        assert torch.equal(loss, own.loss(network, batch))
        residual = batch["latents"] - batch["latents"][:, :, :1]
        assert torch.allclose(truth, (batch["noise"] - residual)[:, :, 1:], atol=1e-4)
        assert torch.allclose(loss, (answer - truth).square().flatten(1).mean(1), rtol=1e-4)
        levels = NoiseLevels.of(config, network.sampling)
        found = Motion(levels, MotionLoss(weight=7.0), own).loss(network, batch)
    assert torch.allclose(found, loss + 7 * motion_loss(answer, truth, "paper"))
    assert task.objective.least_frames == 2


def test_presets_train_layers_for_time_at_the_shift_of_the_model():
    preset = preset_for("tiny", FROM_IMAGE)
    assert preset.settings.heads == TEMPORAL and preset.settings.loss == PRESETS["tiny"].settings.loss
    assert preset.steps == (100, 120) and preset.training["batch_size"] == 2 and "shift" not in preset.training
    assert preset.config(TEMPORAL).loop.num_steps == 120 and preset.config(TEMPORAL).objective.shift is None
    assert preset_for("tiny", WanSpec()) is PRESETS["tiny"] and preset_for("quick", FROM_IMAGE).steps == (1500, 1500)
    with pytest.raises(ConfigError, match="preset is 'mine'; it must be one of: quick, paper, tiny"):
        preset_for("mine", FROM_IMAGE)


def test_a_head_map_is_refused_and_the_file_says_how_much_the_clip_moves():
    found = HeadMap.__new__(HeadMap)
    with pytest.raises(ConfigError, match="head_map is given.*linear video model.*apart already.*without a head map"):
        task_of(head_map=found)
    assert settings_for(WanSpec(), MotionSettings(), has_map=True)[1] == []
    told = motion_metadata(CLIP, MotionSettings(heads=TEMPORAL), TEMPORAL, None, rank=2, spec=FROM_IMAGE)
    assert told["dynamics"] == str(CLIP.bucket(FROM_IMAGE)) and told["heads"] == TEMPORAL and "head_map" not in told
    assert f"the clip moves at dynamics {told['dynamics']}" in "\n".join(task_of(FROM_IMAGE).notes)
