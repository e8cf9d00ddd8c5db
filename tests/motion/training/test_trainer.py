"""The training loop: schedule, keys, accumulation, averages, and every way a run can end."""

import math
import threading

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.training.states import list_states, read_state
from pack.motion.training.config import LATER, PART_OF, WRITTEN, OptimizerConfig, TrainingConfig
from pack.motion.training.optimizers import block_matrices, build_optimizers
from pack.motion.training.trainer import SampleKey, Trainer
from training_toys import ToyTask, tiny_dit, tiny_spec

CONFIG = TrainingConfig.of(num_steps=10, batch_size=2, learning_rate=1e-2, warmup_steps=2, ema_decay=0.9, save_every=3)


class Cancelled(Exception):
    """The host's own exception of a cancelled prompt."""


def stop_after(step, error=Cancelled):
    def on_step(report):
        if report.step == step:
            raise error

    return on_step


def everything(trainer):
    """Every number that a run has made."""
    optimizer = [state[name] for made in trainer.optimizers for state in made.state.values() for name in sorted(state)]
    return [*trainer.values, *trainer.average, *optimizer, torch.tensor(trainer.losses, dtype=torch.float64)]


def same(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two))


def test_learning_rate_warms_up_then_falls_along_half_a_cosine_or_stays():
    wave, flat = (TrainingConfig.of(num_steps=100, learning_rate=2.0, schedule=name) for name in ("cosine", "constant"))
    assert wave.learning_rate_at(0) == pytest.approx(0.2) and flat.learning_rate_at(4) == pytest.approx(1.0)
    assert flat.learning_rate_at(9) == flat.learning_rate_at(99) == 2.0
    assert wave.learning_rate_at(50) == pytest.approx(2 * 0.51) and wave.learning_rate_at(100) == pytest.approx(0.04)
    assert TrainingConfig.of(warmup_steps=0, schedule="constant").learning_rate_at(0) == 1e-4


def test_settings_are_refused_together_and_by_name():
    bad = {"num_steps": 0, "learning_rate": float("nan"), "schedule": "linear", "keep_states": 1, "targets": ("",),
           "seed": -1}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.of(**bad)
    for part in ("num_steps is 0", "learning_rate is nan", "schedule is 'linear'", "keep_states is 1", "seed is -1",
                 "targets is ('',)"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="does not know lerning_rate"):
        TrainingConfig.from_dict({"lerning_rate": 1.0})
    with pytest.raises(ConfigError, match="num_steps is '7'"):
        TrainingConfig.from_dict({"num_steps": "7"})
    with pytest.raises(ConfigError, match="targets is 'attn1'; it needs a list"):
        TrainingConfig.from_dict({"targets": "attn1"})
    config = TrainingConfig.of(targets=("ff",), shift=None)
    assert TrainingConfig.from_dict(config.to_dict()) == config


def test_settings_stand_flat_or_by_part_and_mean_the_same():
    flat = {"num_steps": 7, "optimizer": "muon", "rank": 4, "targets": ["ff"], "flow_weight": 3}
    by_part = {"loop": {"num_steps": 7}, "optimizer": {"optimizer": "muon"}, "adapter": {"rank": 4, "targets": ["ff"]},
               "objective": {"flow_weight": 3}}  # fmt: skip
    made = TrainingConfig.from_dict(flat)
    assert made == TrainingConfig.from_dict(by_part) == TrainingConfig.of(**{**flat, "targets": ("ff",)})
    assert made.loop.num_steps == 7 and made.optimizer.optimizer == "muon" and made.objective.flow_weight == 3.0
    assert {*made.to_dict(), *LATER} == set(PART_OF) == set(WRITTEN)
    with pytest.raises(ConfigError, match="num_steps is given twice, by itself and in loop"):
        TrainingConfig.from_dict({"num_steps": 7, "loop": {"num_steps": 7}})
    with pytest.raises(ConfigError, match="training.loop does not know 'rank'; it belongs to adapter"):
        TrainingConfig.from_dict({"loop": {"rank": 7}})


def test_keys_give_the_same_numbers_always_and_others_to_their_neighbours():
    draw = lambda *key: torch.randn(4, generator=SampleKey(*key).generator())  # noqa: E731
    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    rows = torch.stack([draw(*key) for key in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (12, 3, 0), (1, 23, 0))])
    assert len({tuple(row.tolist()) for row in rows}) == 6


def test_one_step_is_that_of_plain_torch():
    task, twin = ToyTask(), ToyTask()
    config = TrainingConfig.of(num_steps=1, batch_size=3, learning_rate=1e-2, warmup_steps=0, max_gradient_norm=0.5)
    report = []
    Trainer(task, config, on_step=report.append).run()
    optimizer = torch.optim.AdamW(twin.net.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)
    loss = twin.loss(twin.draw([SampleKey(0, 0, index) for index in range(3)])).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.net.parameters(), 0.5)
    optimizer.step()
    torch.testing.assert_close(list(task.net.parameters()), list(twin.net.parameters()))
    assert report[0].loss == pytest.approx(loss.item()) and report[0].gradient_norm == pytest.approx(norm.item())


def test_two_batches_of_two_train_like_one_batch_of_four():
    tasks = [ToyTask(), ToyTask()]
    for task, (size, parts) in zip(tasks, ((4, 1), (2, 2))):
        config = TrainingConfig.of(num_steps=3, batch_size=size, gradient_accumulation=parts, warmup_steps=0)
        Trainer(task, config).run()
    assert tasks[0].seen == tasks[1].seen
    torch.testing.assert_close(list(tasks[0].net.parameters()), list(tasks[1].net.parameters()))


def test_average_follows_the_weights_and_is_lent_only():
    task = ToyTask()
    trainer, mean = Trainer(task, CONFIG), None
    start = [value.detach().clone() for value in trainer.values]

    def follow(report):
        nonlocal mean
        decay = min(0.9, report.step / (9 + report.step))
        mean = [decay * a + (1 - decay) * b.detach() for a, b in zip(mean or start, trainer.values)]

    trainer.on_step = follow
    trainer.run()
    after = [value.detach().clone() for value in trainer.values]
    with trainer.averaged():
        torch.testing.assert_close([value.detach() for value in trainer.values], mean)
    assert same(after, trainer.values)
    with pytest.raises(Cancelled), trainer.averaged():
        raise Cancelled
    assert same(after, trainer.values)
    without = Trainer(ToyTask(), TrainingConfig.of(num_steps=1))
    with without.averaged():
        pass


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest():
    parameters = dict(tiny_dit(tiny_spec()).named_parameters())
    chosen = block_matrices(parameters)
    assert "transformer_blocks.0.attn1.to_q.weight" in chosen and "transformer_blocks.1.ff.conv_point.weight" in chosen
    assert not any("conv_depth" in name or "table" in name or "bias" in name or "patch" in name for name in chosen)
    muon, adamw = build_optimizers(parameters, OptimizerConfig(optimizer="muon", beta2=0.98))
    assert len(muon.param_groups[0]["params"]) == len(chosen) and adamw.defaults["betas"] == (0.9, 0.98)
    assert len(adamw.param_groups[0]["params"]) == len(parameters) - len(chosen)
    own = build_optimizers(parameters, OptimizerConfig(optimizer="muon"), {"proj_out.weight"})
    assert len(own[0].param_groups[0]["params"]) == 1


def test_muon_in_bfloat16_steps_the_same_way_within_its_precision():
    moved = {}
    for name in ("muon", "muon_bf16"):
        value = torch.nn.Parameter(torch.zeros(24, 16))
        optimizer = build_optimizers({"w": value}, OptimizerConfig(optimizer=name, learning_rate=1.0), {"w"})[0]
        value.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        moved[name] = value.detach()
    off = (moved["muon"] - moved["muon_bf16"]).norm() / moved["muon"].norm()
    assert 1e-4 < float(off) < 0.05 and moved["muon_bf16"].dtype == torch.float32


def test_training_leaves_the_random_numbers_and_modes_of_the_process_alone():
    torch.manual_seed(5)
    truth = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():
        task = None
        with torch.inference_mode(False):
            task = ToyTask()
        Trainer(task, CONFIG).run()
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.rand(3), truth)


def test_dropout_inside_a_task_is_the_same_after_a_resume(tmp_path):
    class Dropping(ToyTask):
        def loss(self, batch):
            return torch.nn.functional.dropout((self.net(batch[1]) - 1).square(), 0.5).mean(1)

    whole = Trainer(Dropping(), CONFIG)
    whole.run()
    with pytest.raises(Cancelled):
        Trainer(Dropping(), CONFIG, folder=tmp_path, on_step=stop_after(5)).run()
    rest = Trainer(Dropping(seed=1), CONFIG, folder=tmp_path, resume="latest")
    rest.run()
    assert same(everything(whole), everything(rest))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "muon_bf16"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_ten_steps_are_five_and_a_resume_and_five_bit_for_bit(tmp_path, optimizer, schedule):
    config = TrainingConfig.from_dict(
        CONFIG.to_dict() | {"optimizer": optimizer, "schedule": schedule, "gradient_accumulation": 2}
    )
    matrices = {"0.weight"}
    tasks = [ToyTask(), ToyTask(), ToyTask(seed=7)]
    for task in tasks:
        task.matrices = lambda: matrices
    whole, first = Trainer(tasks[0], config), Trainer(tasks[1], config, folder=tmp_path, on_step=stop_after(5))
    result = whole.run()
    with pytest.raises(Cancelled):
        first.run()
    rest = Trainer(tasks[2], config, folder=tmp_path, resume="latest")
    resumed = rest.run()
    assert same(everything(whole), everything(rest))
    assert tasks[1].seen + tasks[2].seen == tasks[0].seen
    assert resumed.losses == result.losses and (result.step, resumed.step) == (10, 10)
    rates = [group["lr"] for trainer in (whole, rest) for made in trainer.optimizers for group in made.param_groups]
    assert len(set(rates)) == 1


@pytest.mark.parametrize("ending", [Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_ends_the_run_the_state_is_saved_and_the_original_goes_on(tmp_path, ending):
    error = ending("stop")
    with pytest.raises(ending) as caught:
        Trainer(ToyTask(), CONFIG, folder=tmp_path, on_step=stop_after(4, error)).run()
    assert caught.value is error
    assert read_state(list_states(tmp_path)[0]).step == 4


def test_out_of_memory_saves_names_the_batch_and_passes_through(tmp_path, caplog):
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        Trainer(ToyTask(fail={7: error}), CONFIG, folder=tmp_path).run()
    assert caught.value is error
    assert "step 8 of 10 stopped on row 7.0, row 7.1" in caplog.text and "state-00000007" in caplog.text
    rest = Trainer(ToyTask(seed=3), CONFIG, folder=tmp_path, resume="latest")
    rest.run()
    whole = Trainer(ToyTask(), CONFIG)
    whole.run()
    assert same(everything(whole), everything(rest))


class Tight(ToyTask):
    """Its third step fits only after it was asked to save memory, as often as `needs` says."""

    def __init__(self, needs, after=""):
        super().__init__()
        self.needs, self.after, self.asked = needs, after, []

    def loss(self, batch):
        keys, _ = batch
        loss = super().loss(batch)
        if keys[0].step == 2 and len(self.asked) < self.needs:
            loss.sum().backward()  # gradients that must not stay
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    def save_memory(self, batch):
        if self.asked:
            raise ConfigError(self.after)
        self.asked.append(self.describe(batch))
        return "blocks are computed twice"


def test_a_step_out_of_memory_is_tried_again_with_what_the_task_saves_and_trains_the_same(caplog):
    task, whole = Tight(needs=1), Trainer(ToyTask(), CONFIG)
    trainer = Trainer(task, CONFIG)
    trainer.run()
    whole.run()
    assert task.asked == ["row 2.0, row 2.1"] and "step 3; tried again: blocks are computed twice" in caplog.text
    assert trainer.losses == whole.losses and same(everything(trainer), everything(whole))


def test_a_task_that_can_save_no_more_has_the_last_word_and_the_state_is_saved(tmp_path):
    with pytest.raises(ConfigError, match="12 GiB are needed"):
        Trainer(Tight(needs=9, after="12 GiB are needed"), CONFIG, folder=tmp_path).run()
    assert list_states(tmp_path)[0].name == "state-00000002"


def test_a_state_of_other_noise_levels_is_not_gone_on_from_by_mistake(tmp_path):
    half = CONFIG.changed(num_steps=2, schedule="constant", sigma_min=0.875)
    Trainer(ToyTask(), half, folder=tmp_path).run()
    whole = CONFIG.changed(schedule="constant")
    with pytest.raises(ConfigError, match="training.sigma_min was 0.875, is 0.0"):
        Trainer(ToyTask(), whole, folder=tmp_path, resume="latest").run()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_loss_that_is_not_finite_stops_before_the_step_and_names_it(tmp_path, accumulation):
    config = TrainingConfig.from_dict(CONFIG.to_dict() | {"gradient_accumulation": accumulation})
    trainer = Trainer(ToyTask(poison=4), config, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"step 5 of 10: loss nan.*row 4\.0, row 4\.1.*state-00000004"):
        trainer.run()
    assert all(value.isfinite().all() for value in everything(trainer)) and len(trainer.losses) == 4
    saved = read_state(list_states(tmp_path)[0]).tensors["weights"]
    assert same([saved[name] for name in trainer.parameters], trainer.values)


def test_gradient_that_is_not_finite_stops_too():
    class Steep(ToyTask):
        def loss(self, batch):
            return super().loss(batch) + self.net[0].weight.sum().sub(self.net[0].weight.sum()).sqrt()

    with pytest.raises(CheckpointError, match="step 1 of 10: loss .*, gradient norm nan.* no state was saved"):
        Trainer(Steep(), CONFIG).run()


def test_an_update_cut_in_the_middle_is_never_saved(tmp_path, caplog):
    trainer = Trainer(ToyTask(), CONFIG, folder=tmp_path)
    step, calls = trainer.optimizers[0].step, []

    def interrupted():
        step()
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    trainer.optimizers[0].step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert [path.name for path in list_states(tmp_path)] == ["state-00000003"]
    assert "in the middle of the update of step 5" in caplog.text


def test_callbacks_are_told_steps_saves_and_samples(tmp_path):
    steps, saves, samples = [], [], []
    config = TrainingConfig.from_dict(CONFIG.to_dict() | {"sample_every": 4})
    result = Trainer(ToyTask(), config, folder=tmp_path, on_step=steps.append, on_save=saves.append,
                     on_sample=samples.append).run()  # fmt: skip
    assert [report.step for report in steps] == list(range(1, 11)) and samples == [4, 8]
    assert [(report.step, report.problem) for report in saves] == [(3, ""), (6, ""), (9, ""), (10, "")]
    assert all(0 <= report.data_seconds <= report.seconds for report in steps)
    assert tuple(report.loss for report in steps) == result.losses and result.state_path == saves[-1].path
    assert steps[2].learning_rate == config.learning_rate_at(2)


def test_what_cannot_be_trained_is_refused_before_the_first_step():
    class Empty(ToyTask):
        def parameters(self):
            return {}

    class Half(ToyTask):
        def parameters(self):
            return dict(self.net.half().named_parameters())

    class Total(ToyTask):
        def loss(self, batch):
            return super().loss(batch).mean()

    with pytest.raises(ConfigError, match="at least one"):
        Trainer(Empty(), CONFIG)
    with pytest.raises(ConfigError, match="float16; float32 is needed"):
        Trainer(Half(), CONFIG)
    with pytest.raises(ShapeError, match=r"loss is \(\); \(2,\) is needed"):
        Trainer(Total(), CONFIG).run()
    with torch.inference_mode():
        task = ToyTask()
    with pytest.raises(ConfigError, match="0.weight is an inference tensor"):
        Trainer(task, CONFIG)


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights():
    seen = []

    class Watching(ToyTask):
        def loss(self, batch):
            out = self.net(batch[1])
            seen.append(out.dtype)
            return (out - batch[1]).float().square().mean(1)

    task = Watching()
    result = Trainer(task, TrainingConfig.of(num_steps=2, precision="bf16")).run()
    assert set(seen) == {torch.bfloat16} and task.net[0].weight.dtype == torch.float32
    assert all(math.isfinite(loss) for loss in result.losses)


def test_two_trainers_side_by_side_train_as_if_alone():
    alone, tasks = ToyTask(), [ToyTask(), ToyTask()]
    Trainer(alone, CONFIG).run()
    threads = [threading.Thread(target=Trainer(task, CONFIG).run) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for task in tasks:
        assert same(list(task.net.parameters()), list(alone.net.parameters()))
