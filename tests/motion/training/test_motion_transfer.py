"""Learning one clip's motion: two stages in one run, resumed exactly across their border, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from causal_clips import encoders, filmed, same_weights
from pack.motion.choices import ALL_HEADS, SPATIAL, TEMPORAL
from pack.motion.data.motion_clip import encode_motion_clip
from pack.motion.data.sparse_frames import plan_frames
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.adapters.adapter_file import save_adapter
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.latent_spaces import SPACES
from pack.motion.training.config import TrainingConfig
from pack.motion.training.head_classes import classify_heads
from pack.motion.training.motion_transfer import PRESETS, MotionSettings, context_of, motion_metadata, motion_task
from pack.motion.training.run import TrainingPlan, TrainingRun
from pack.motion.training.task import SampleKey
from pack.motion.training.trainee import weights_fingerprint
from planted_heads import CONFIG, PLANTED, trainee

TEXT = context_of(torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(4)))
SETTINGS = MotionSettings(heads=TEMPORAL)
NUMBERS = {"num_steps": 6, "first_stage_steps": 3, "rank": 2, "alpha": 2.0, "learning_rate": 1e-2, "warmup_steps": 0,
           "caption_dropout": 0.0, "batch_size": 2}  # fmt: skip


def clip_of(name="a", seed=0, caption="a light", beside=None):
    made = filmed(name, seed)
    made = replace(made.at_rate(16.0), caption=caption)
    plan = plan_frames(made, num_frames=17, sparse_frames=9)
    return encode_motion_clip(made, plan, encoders() if beside is None else beside, SPACES["wan21"], resolution=32)


CLIP = clip_of()


def task_of(network=None, clip=CLIP, settings=SETTINGS, config=None, **more):
    config = config or TrainingConfig.of(**NUMBERS)
    return motion_task(network or trainee(), clip, TEXT, config, settings, **more)[0]


def run(folder, name, *, resume=None, network=None, clip=CLIP, settings=SETTINGS, stop_after=None, head_map=None,
        **numbers):  # fmt: skip
    """A run in folder/name, or stopped by somebody's hand after some steps; the task as it is left."""
    config = TrainingConfig.of(**{**NUMBERS, "save_every": 1, **numbers})
    kept = []

    class Watching:
        encoding = say = sample = state = staticmethod(lambda *given: None)

        @staticmethod
        def step(report, losses):
            if report.step == stop_after:
                raise KeyboardInterrupt

    def task(dataset):
        kept.append(task_of(network, clip, settings, config, head_map=head_map))
        return kept[-1]

    plan = TrainingPlan(config=config, task=task, states=folder / name, resume=resume)
    try:
        TrainingRun(plan, Watching()).run()
    except KeyboardInterrupt:
        assert stop_after is not None
    return kept[0]


def numbers_of(task):
    return {name: value.detach().clone() for name, value in task.parameters().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from its first step to its last."""
    return run(tmp_path_factory.mktemp("whole"), "run", save_every=0)


def test_the_clip_is_encoded_whole_sparse_and_frame_by_frame():
    assert CLIP.sparse["latents"].shape == (16, 3, 4, 6) and CLIP.whole["latents"].shape == (16, 5, 4, 6)
    assert CLIP.alone.shape == (9, 16, 1, 4, 6) and CLIP.first.shape[-1] == 3
    assert torch.equal(CLIP.alone[0][:, 0], CLIP.sparse["latents"][:, 0])
    assert clip_of().fingerprint == CLIP.fingerprint != clip_of("b", 1).fingerprint


def test_the_first_stage_sees_single_frames_the_second_the_clip_at_its_places():
    task = task_of()
    first, second = (task.draw([SampleKey(0, step, 0)]) for step in (2, 3))
    assert first.tensors["latents"].shape[2] == 1 and "frame_places" not in first.tensors
    assert second.tensors["latents"].shape[2] == 3 and second.tensors["frame_places"].tolist() == [[0.0, 2.0, 4.0]]
    seen = {name for step in range(3) for n in range(40) for name in task.draw([SampleKey(n, step, 0)]).names}
    assert seen == {f"single frame {index}" for index in CLIP.plan.sparse}


def test_each_stage_moves_its_own_lora_and_leaves_the_other_and_the_base_alone(tmp_path, whole):
    network = trainee()
    base = weights_fingerprint(network.module)
    fresh = numbers_of(task_of(network))
    half = numbers_of(run(tmp_path, "half", network=network, stop_after=3))
    for stage, before, after in (("spatial", fresh, half), ("temporal", half, numbers_of(whole))):
        moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == {stage}
    assert weights_fingerprint(network.module) == base and not network.module.blocks[0].self_attn.q._forward_hooks
    assert all(value.requires_grad for value in network.module.parameters())


@pytest.mark.parametrize("stop_after", [pytest.param(2, marks=pytest.mark.slow), 3,
                                        pytest.param(4, marks=pytest.mark.slow)])  # fmt: skip
def test_a_run_resumed_before_at_and_behind_the_border_ends_in_the_same_bits(tmp_path, whole, stop_after):
    run(tmp_path, "cut", stop_after=stop_after)
    resumed = run(tmp_path, "cut", resume="latest")
    assert equal(numbers_of(whole), numbers_of(resumed))
    for task, name in ((whole, "whole"), (resumed, "cut")):
        save_adapter(tmp_path / f"{name}.safetensors", task.adapter)
    assert same_weights(tmp_path / "whole.safetensors", tmp_path / "cut.safetensors")


def test_the_spatial_lora_is_on_and_frozen_while_the_second_stage_trains():
    task = task_of()
    with torch.no_grad():
        for value in task.spatial.parameters().values():
            value.add_(0.05)
    with task.running():
        loss = task.loss(task.draw([SampleKey(0, 3, 0)]))
        alone = task_of(settings=MotionSettings(stage=TEMPORAL, heads=TEMPORAL),
                        config=TrainingConfig.of(**{**NUMBERS, "first_stage_steps": 0}))  # fmt: skip
        loss.mean().backward()
    with alone.running():
        other = alone.loss(alone.draw([SampleKey(0, 3, 0)]))
    assert float((loss - other).detach().abs().sum()) > 1e-6
    assert all(value.grad is None for value in task.spatial.parameters().values())
    assert any(value.grad is not None for value in task.temporal.parameters().values())


def test_a_try_holds_on_the_second_lora_alone_and_the_stage_comes_back():
    task = task_of()
    hooks = lambda: len(task.trainee.module.blocks[0].self_attn.q._forward_hooks)  # noqa: E731
    with task.running():
        task.loss(task.draw([SampleKey(0, 3, 0)]))
        assert hooks() == 2
        with task.tried_out(0.5):
            assert hooks() == 1
        assert hooks() == 0
        task.loss(task.draw([SampleKey(0, 3, 0)]))
        assert hooks() == 2
    assert hooks() == 0


def test_a_lora_counts_as_learnt_once_its_stage_has_begun_and_the_last_one_is_for_use():
    task = task_of()
    assert [[name for name, _ in task.learnt(step)] for step in (1, 3, 4)] == [
        ["spatial"], ["spatial"], ["spatial", "temporal"]]  # fmt: skip
    assert task.learnt(6)[-1][1] is task.adapter


def test_heads_all_trains_every_head_and_temporal_those_of_the_map():
    few, every = (task_of(settings=MotionSettings(heads=heads)) for heads in (TEMPORAL, ALL_HEADS))
    assert few.temporal.layers["blocks.0.self_attn.q"].up.shape[0] == 2 * 64
    assert every.temporal.layers["blocks.0.self_attn.q"].up.shape[0] == 4 * 64
    assert every.spatial.layers["blocks.1.self_attn.q"].up.shape[0] == 3 * 64
    naive = MotionSettings(stage=TEMPORAL, heads=ALL_HEADS)
    config = TrainingConfig.of(**{**NUMBERS, "first_stage_steps": 0})
    task, found = motion_task(trainee(), CLIP, TEXT, config, naive)
    assert found is None and task.spatial is None and not naive.needs_map


def test_a_model_that_begins_with_a_picture_has_no_spatial_stage():
    config = replace(CONFIG, concat_channels=20)
    network = trainee(config=config)
    for part in (CLIP.sparse, CLIP.whole):
        part["concat_latents"] = torch.zeros(20, *part["latents"].shape[1:])
    numbers = TrainingConfig.of(**{**NUMBERS, "first_stage_steps": 0})
    task = task_of(network, config=numbers)
    assert task.spatial is None and "the spatial stage is left out" in task.notes[0]
    assert task.draw([SampleKey(0, 0, 0)]).tensors["concat_latents"].shape == (1, 20, 3, 4, 6)
    with pytest.raises(ConfigError, match="it has no spatial stage; set stage to temporal"):
        task_of(network, settings=MotionSettings(stage=SPATIAL), config=numbers)
    with pytest.raises(ConfigError, match="there is no spatial stage; set it to 0 and num_steps to 3"):
        task_of(network)
    for part in (CLIP.sparse, CLIP.whole):
        del part["concat_latents"]


@pytest.mark.parametrize("change, said", [
    ({"clip": clip_of("b", 1)}, "1 clips added: b"),
    ({"settings": MotionSettings(heads=ALL_HEADS)}, "heads was temporal, is all"),
    ({"network": trainee(~PLANTED)}, "the base weights differ"), ({"first_stage_steps": 2}, "first_stage_steps was 3"),
    ({"head_map": classify_heads(trainee(), {"latents": CLIP.whole["latents"][None], "context": TEXT.context[None]},
                                 target_fraction=0.5)}, "heads of was"),
])  # fmt: skip
def test_a_run_does_not_go_on_with_another_clip_map_base_or_stages(tmp_path, change, said):
    run(tmp_path, "cut", stop_after=2)
    with pytest.raises((ConfigError, CheckpointError), match=said):
        run(tmp_path, "cut", resume="latest", **change)


def test_what_is_told_no_caption_loras_and_a_map_of_another_base():
    row = {"latents": CLIP.whole["latents"][None], "context": TEXT.context[None]}
    other = classify_heads(trainee(~PLANTED), row)
    task = task_of(clip=CLIP.with_caption(""), head_map=other, loras=4)
    told = "\n".join(task.notes)
    assert "4 layers of the model carry LoRAs" in told and "no caption" in told and "another base" in told
    assert task_of().notes == ()


def test_heads_of_one_type_end_it_before_the_first_step_and_a_share_helps():
    flat = trainee(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="all 8 heads are spatial.*set target_fraction to 0.3"):
        task_of(flat)
    row = {"latents": CLIP.whole["latents"][None], "context": TEXT.context[None]}
    found = classify_heads(flat, row, target_fraction=0.25)
    assert found.temporal.sum() == 2 and task_of(flat, head_map=found).temporal.layers


@pytest.mark.parametrize("numbers, said", [
    ({"caption_dropout": 0.1}, "caption_dropout is above 0"), ({"mode": "full"}, "leave mode and adapter at lora"),
])  # fmt: skip
def test_settings_that_do_not_suit_one_clip_are_refused(numbers, said):
    with pytest.raises(ConfigError, match=said):
        task_of(config=TrainingConfig.of(**{**NUMBERS, **numbers}))
    with pytest.raises(ConfigError, match="stage is 'mine'; it must be one of: both, spatial, temporal"):
        MotionSettings(stage="mine")


def test_presets_give_their_steps_to_the_stages_that_are_trained():
    quick = PRESETS["quick"].config("both")
    assert (quick.loop.num_steps, quick.loop.first_stage_steps, quick.adapter.alpha) == (3000, 1500, 16.0)
    paper = PRESETS["paper"].config("temporal", (0, 7), rank=4)
    assert (paper.loop.num_steps, paper.loop.first_stage_steps, paper.adapter.alpha) == (7, 0, 4.0)
    tiny = PRESETS["tiny"].config("spatial")
    assert (tiny.loop.num_steps, tiny.loop.first_stage_steps, tiny.loop.batch_size) == (100, 100, 6)


def test_the_learning_rate_begins_anew_behind_the_border():
    config = TrainingConfig.of(num_steps=20, first_stage_steps=10, warmup_steps=2, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(20)]
    alone = TrainingConfig.of(num_steps=10, warmup_steps=2, learning_rate=1.0)
    assert rates == 2 * [alone.learning_rate_at(step) for step in range(10)] and rates[9] < 0.1 < rates[10]
    assert "first_stage_steps" not in alone.to_dict() and config.to_dict()["first_stage_steps"] == 10
    with pytest.raises(ConfigError, match="first_stage_steps is 11, of num_steps 10"):
        TrainingConfig.of(num_steps=10, first_stage_steps=11)


def test_a_file_says_how_it_was_made_and_its_map_comes_out_again(tmp_path):
    task, found = motion_task(trainee(), CLIP, TEXT, TrainingConfig.of(**NUMBERS), SETTINGS)
    save_adapter(tmp_path / "a.safetensors", task.adapter, motion_metadata(CLIP, SETTINGS, TEMPORAL, found))
    tensors, told = read_safetensors(tmp_path / "a.safetensors")
    kind = [told[name] for name in ("stage", "heads", "caption", "frame_places")]
    assert kind == ["temporal", "temporal", "a light", "stride"]
    assert json.loads(told["frames"]) == list(range(0, 17, 2)) and "9 of 17 frames" in told["trained_size"]
    assert type(found).from_json(told["head_map"]).fingerprint == told["head_map_fingerprint"]
    assert all(name.startswith("diffusion_model.blocks.") for name in tensors)
