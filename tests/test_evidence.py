"""docs/evidence.md tells the truth: its tables are those of the result files, from three seeds where seeds matter."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pack.motion.training.task import SampleKey

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks" / "evidence").glob("e[0-9]*_*.py"))


def result(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"evidence_{name}.json").read_text())


def test_tables_are_those_the_evidence_scripts_wrote():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "fill_evidence.py"), "--check"])
    assert done.returncode == 0, "docs/evidence.md is older than its results: run tools/fill_evidence.py"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_raw_results_and_a_place_on_the_page(name):
    found = result(name)
    assert found["rows"] and found["figures"]
    assert f"<!-- {name}: begin -->" in (ROOT / "docs" / "evidence.md").read_text()


def test_trainings_and_samplings_are_of_three_seeds():
    assert {(row["arm"], row["seed"]) for row in result("e1_residual")["rows"]} == {
        (arm, seed) for arm in ("direct", "residual", "difference") for seed in (0, 1, 2)}
    pairs = {(row["seed"], row["sampling_seed"]) for row in result("e2_initial_noise")["rows"] if "mode" in row}
    assert len(pairs) == 9
    assert {row["seed"] for row in result("e3_slider")["rows"] if "seed" in row} == {0, 1, 2}
    assert {row["seed"] for row in result("e4_attention_cost")["rows"] if "seed" in row} == {0, 1, 2}


@pytest.fixture(scope="module")
def arms():
    sys.path.insert(0, str(ROOT / "benchmarks" / "evidence"))
    try:
        import arm_task
        import arms
        yield arms, arm_task
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "evidence"))


@pytest.mark.parametrize("arm", ("direct", "residual", "difference"))
def test_an_arm_gives_back_the_frames_it_was_made_of(arms, arm):
    latents = torch.randn((2, 5, 6, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = arms[0].to_target(arm, latents)
    assert x.shape[2] == 5
    torch.testing.assert_close(arms[0].to_latents(arm, x, latents[:, :, :1]), latents, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_arms_of_one_seed_are_trained_on_the_same_numbers(arms):
    arms, arm_task = arms
    pool = arm_task.draw_pool(16)
    keys = [SampleKey(3, 7, index) for index in range(4)]
    batches = [arm_task.ArmTask(arm, None, pool, 0.5).draw(keys) for arm in arms.ARMS]
    for other in batches[1:]:
        assert other.picks == batches[0].picks
        assert all(torch.equal(getattr(other, name), getattr(batches[0], name)) for name in ("ids", "sigma", "noise"))
    weights = [arms.Network(5).state_dict() for _ in range(2)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_noise_levels_leave_the_gap_the_paper_speaks_of(arms):
    sigma = arms[0].draw_sigma(400_000, torch.Generator().manual_seed(0))
    assert float(sigma.median()) == pytest.approx(0.75, abs=0.005)
    assert 5e-5 < float((sigma > 0.99).float().mean()) < 5e-4


def test_a_network_that_knows_the_answer_has_no_loss_and_samples_the_truth(arms):
    arms, _ = arms
    clips = arms.draw_clips(["pan left", "still"], torch.Generator().manual_seed(2))
    noise = torch.randn(clips.latents[:, :, 1:].shape, generator=torch.Generator().manual_seed(3))
    for arm in arms.ARMS:
        x = arms.to_target(arm, clips.latents)
        oracle = SimpleNamespace(predict=lambda *_, x=x: x)
        loss = arms.velocity_loss(oracle, arm, clips, clips.caption_ids, torch.tensor([0.3, 0.9]), noise)
        assert float(loss.abs().max()) == 0
        made = arms.sample_latents(oracle, arm, clips.latents[:, :, :1], clips.caption_ids, clips.bucket, noise)
        assert float((arms.decode(made) - clips.pictures).abs().max()) < 1e-5


@pytest.fixture(scope="module")
def plain():
    sys.path.insert(0, str(ROOT / "benchmarks" / "evidence"))
    try:
        import plain_task
        yield plain_task
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "evidence"))


@pytest.mark.slow
def test_the_plain_residual_networks_have_no_flow_and_begin_at_the_first_frame_repeated(plain):
    keys = [SampleKey(3, 7, index) for index in range(4)]
    assert plain.plain_spec().config.flow_channels == 0
    task = plain.PlainTask(0)
    with torch.no_grad():
        task.dit.skip_head.linear_gate.bias.fill_(-6.0)
    batch = task.draw(keys)
    assert batch.clean[:, 192:].abs().max() == 0 and set(batch.captions) <= set(plain.WORDS)
    assert task.energy_left(keys) == pytest.approx(1, abs=1e-6)
    assert torch.equal(task.draw(keys[1:2]).noise, batch.noise[1:2])


@pytest.fixture(scope="module")
def motions():
    sys.path.insert(0, str(ROOT / "benchmarks" / "evidence"))
    try:
        import clips_of_motion_adapters
        import flows_of_motion_adapters
        import stacks_of_motion_adapters
        yield clips_of_motion_adapters, flows_of_motion_adapters, stacks_of_motion_adapters
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "evidence"))


def test_amounts_of_two_motions_are_found_in_their_sum_and_on_either_half(motions):
    clips, flows, stacks = motions
    true = [clips.true_flow(motion, cells=flows.SIDE) for motion in ("sway", "swirl")]
    mixed = (0.3 * true[0] + 0.8 * true[1]).unsqueeze(0)
    trusted = torch.rand(mixed.shape[:-1], generator=torch.Generator().manual_seed(0)) < 0.4
    for where in (None, stacks.half("left", 1), stacks.half("right", 1)):
        found = stacks.amounts((mixed, trusted), ("sway", "swirl"), where)
        assert found[0].tolist() == pytest.approx([0.3, 0.8], abs=1e-5)
    assert not (stacks.half("left") * stacks.half("right")).any()
    assert float((stacks.half("left", 1) + stacks.half("right", 1)).mean()) == pytest.approx(6 / 8)  # tokens
    (row,) = flows.likeness(-0.5 * true[0].unsqueeze(0), trusted, true[0])
    assert row == pytest.approx({"cosine": -1, "amplitude": -0.5})


@pytest.mark.parametrize("motion", ("sway", "jelly"))
def test_ten_clips_hold_the_motion_they_are_named_after_and_no_flow_of_their_own(motions, motion):
    clips, flows, _ = motions
    made = clips.make_clips(motion)
    assert len(made) == 10 and all(clip.flow is None for clip in made.clips)
    pictures = [clip.frames(range(clip.num_frames)).movedim(1, -1) for clip in (made.clips[0], made.clips[9])]
    true = clips.true_flow(motion)
    found = [flows.likeness(torch.stack([flows.dense_flow(frame, clip[0]) / 64 for frame in clip])[None],
                            torch.ones(1, 8, 64, 64, dtype=torch.bool), true)[0] for clip in pictures]  # fmt: skip
    assert all(row["cosine"] > 0.85 for row in found)
    assert found[1]["amplitude"] / found[0]["amplitude"] == pytest.approx(2, rel=0.2)  # speeds 1 and 0.5
