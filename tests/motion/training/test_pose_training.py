"""Learning to follow poses: what is drawn, what counts, what is trained, resumed exactly, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from causal_clips import encoders, same_weights, whole_and_resumed
from pack.motion.choices import JOINT, SEPARATE
from pack.motion.data.encoders import TextEntry
from pack.motion.data.pose_clips import PosedClips, PoseSettings
from pack.motion.data.pose_dataset import build_pose_dataset
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.wan.config import MASK_CHANNELS, WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.sequence.trained_as import TrainedAs
from pack.motion.training.config import TrainingConfig
from pack.motion.training.pose_training import PRESETS, PoseTraining, pose_metadata, pose_task, preset_named
from pack.motion.training.task import SampleKey
from pack.motion.training.trainees.wan import WanTrainee
from posed_clips import HEIGHT, WIDTH, posed
from tiny_wan import fill

SIZES = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 20, "hidden_width": 32, "caption_channels": 6}
IMAGE = WanConfig(concat_channels=20, **SIZES)
SETTINGS = PoseSettings(num_frames=12, width=WIDTH, height=HEIGHT, samples_per_clip=2)
DRAW = torch.Generator().manual_seed(4)
TEXTS = {caption: TextEntry(torch.randn(3, 6, generator=DRAW)) for caption in ("", "a square walks")}
PLAIN = PoseTraining()
NUMBERS = {"num_steps": 6, "rank": 2, "alpha": 2.0, "learning_rate": 1e-2, "warmup_steps": 0, "batch_size": 2,
           "shift": 5.0, "save_every": 1}  # fmt: skip


def data_of(**changes):
    settings = replace(SETTINGS, **changes)
    return build_pose_dataset(PosedClips((posed(), posed("run", 1))), settings, encoders(), cache_folder=None)


DATA = data_of()


def trainee(config=IMAGE, **more):
    return WanTrainee(fill(WanDiT(config)), WanSpec(config, text_tokens=6), **more)


def task_of(network=None, data=DATA, training=PLAIN, **changes):
    config = TrainingConfig.of(**{**NUMBERS, "targets": training.targets, **changes})
    return pose_task(network or trainee(), data, TEXTS, config, training)


def batch_of(task, count=4, step=0):
    with torch.no_grad():
        return task.draw([SampleKey(0, step, index) for index in range(count)])


class Answering:
    """A network that answers with a parameter."""

    def __init__(self, answer, inner):
        self.answer, self.inner, self.asked = answer, inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def predict(self, latents, sigma, conditions):
        self.asked.append((latents, sigma, conditions))
        return self.answer


@pytest.mark.parametrize("clean", [False, True])
def test_given_frames_are_clean_told_as_chosen_and_no_error_in_them_counts(clean):
    task = task_of(training=PoseTraining(clean_timestep=clean))
    tensors, layout = batch_of(task).tensors, DATA.settings.layout
    answer = torch.zeros_like(tensors["latents"]).requires_grad_()
    network = Answering(answer, task.trainee)
    task.objective.loss(network, tensors).sum().backward()
    ((shown, sigma, told),) = network.asked
    given = layout.given_latents
    assert torch.equal(shown[:, :, :given], tensors["latents"][:, :, :given])
    assert not answer.grad[:, :, :given].any() and answer.grad[:, :, given:].ne(0).all()
    if clean:
        assert not sigma[:, :given].any() and torch.equal(sigma[:, given], tensors["sigma"])
    else:
        assert torch.equal(sigma, tensors["sigma"])
    mask = told.concat_latents[:, :MASK_CHANNELS]
    assert mask[:, :, :given].eq(1).all() and not mask[:, :, given:].any()


def test_the_loss_is_the_mean_square_of_the_velocity_of_the_frames_that_are_made():
    task = task_of()
    tensors = {name: value.double() for name, value in batch_of(task).tensors.items()}
    answer, given = torch.randn(tensors["latents"].shape, dtype=torch.float64), DATA.settings.layout.given_latents
    found = task.objective.loss(Answering(answer.float(), task.trainee), tensors)
    truth = tensors["noise"] - tensors["latents"]
    need = (answer.float().double() - truth)[:, :, given:].square().flatten(1).mean(1)
    assert torch.allclose(found.double(), need, rtol=1e-6)


@pytest.mark.parametrize("mode", [JOINT, SEPARATE])
def test_known_starts_are_drawn_as_often_as_said_and_are_given(mode):
    frames = 12 if mode == JOINT else 13
    data = data_of(mode=mode, num_frames=frames, known_start=True)
    task, given = task_of(data=data), data.settings.layout.given_latents
    counts = {0: 0, 1: 0, 2: 0}
    for step in range(40):
        tensors = batch_of(task, 10, step).tensors
        for row in range(10):
            mask, beside = tensors["frame_mask"][row], tensors["concat_latents"][row]
            known = int((mask == 0).sum()) - given
            counts[known] += 1
            assert torch.equal(beside[0], (1 - mask).view(-1, 1, 1).expand_as(beside[0]))
            start = slice(given, given + known)
            assert torch.equal(beside[MASK_CHANNELS:, start], tensors["latents"][row, :, start])
        assert "shown_0" not in tensors and "known" not in tensors
    assert abs(counts[0] - 200) < 30 and abs(counts[1] - 100) < 30 and abs(counts[2] - 100) < 30
    paper = task_of()
    assert all(batch_of(paper, 4, step).tensors["frame_mask"].sum() == 12 for step in range(5))


def test_what_is_trained_are_the_layers_of_the_paper_and_never_those_for_pictures():
    image = replace(IMAGE, image_tokens=True)
    data = build_pose_dataset(PosedClips((posed(),)), SETTINGS, encoders(), cache_folder=None,
                              see=lambda reference: torch.ones(257, 1280), seen_by="toy")  # fmt: skip
    names = {name.split(".", 2)[2].rsplit(".", 2)[0] for name in task_of(trainee(image), data).parameters()}
    both = {f"{part}.{layer}" for part in ("self_attn", "cross_attn") for layer in "qkvo"}
    assert names == both | {"ffn.0", "ffn.2"}
    fewer = task_of(trainee(image), data, PoseTraining(include_cross_attn=False)).parameters()
    assert not any("cross_attn" in name for name in fewer) and any("self_attn" in name for name in fewer)
    tensors = batch_of(task_of(trainee(image), data)).tensors
    assert tensors["image_tokens"].shape == (4, 257, 1280)


def test_a_whole_run_and_one_that_was_stopped_and_resumed_are_the_same_bits_and_learn(tmp_path):
    config = TrainingConfig.of(**NUMBERS, targets=PLAIN.targets, caption_dropout=0.5)
    whole, resumed = whole_and_resumed(
        tmp_path, config, lambda: DATA.dataset(WanSpec(IMAGE), TEXTS),
        lambda dataset: pose_task(trainee(), DATA, TEXTS, config, PLAIN),
    )  # fmt: skip
    assert same_weights(whole.path, resumed.path) and whole.training.losses == resumed.training.losses


def test_what_may_not_change_on_resume_is_named():
    before = task_of().fingerprint()
    assert task_of().differences(before) == []
    other = task_of(data=data_of(mode=SEPARATE, num_frames=13))
    told = set(other.differences(before))
    assert {"windows: mode was joint, is separate", "windows: num_frames was 12, is 13"} <= told
    clean = task_of(training=PoseTraining(clean_timestep=True))
    assert clean.differences(before) == ["clean_timestep was False, is True"]
    fewer = task_of(training=PoseTraining(include_cross_attn=False))
    assert fewer.differences(before) == ["include_cross_attn was True, is False"]


def test_all_weights_of_a_network_can_be_trained_as_well():
    task = task_of(mode="full", targets=())
    assert set(task.parameters()) == set(dict(task.trainee.module.named_parameters())) and task.adapter is None
    loss = task.loss(batch_of(task))
    assert loss.shape == (4,) and loss.isfinite().all()


def test_models_without_a_start_video_are_an_experiment_and_say_so():
    task = task_of(trainee(WanConfig(**SIZES)))
    assert any("which is experimental" in note for note in task.notes)
    assert task.loss(batch_of(task)).isfinite().all() and not task_of().notes


def test_a_file_says_how_sequences_were_made():
    training, config = PoseTraining(clean_timestep=True), TrainingConfig.of(rank=4)
    told = pose_metadata(DATA, training, config)
    assert TrainedAs.of(told) == TrainedAs(JOINT, "clean", "all", "1")
    assert (told["frames"], told["rank"], told["trained_size"]) == ("12", "4", "48x32 px, 12 frames")
    assert json.loads(told["captions"]) == ["a square walks"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name):
    preset = preset_named(name)
    settings, config = preset.settings(), preset.config(PLAIN)
    assert settings.layout.latent_frames == {"paper": 21, "low memory": 11, "tiny": 11}[name]
    assert config.adapter.alpha == config.adapter.rank and config.objective.sigma_sampling == "uniform"
    assert preset.config(PLAIN, rank=3).adapter.alpha == 3.0
    with pytest.raises(ConfigError, match="preset is 'mine'"):
        preset_named("mine")


def test_an_adapter_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="adapter is miva; poses are learned by a LoRA"):
        task_of(adapter="miva")


def test_the_saved_file_is_an_ordinary_lora(tmp_path):
    task = task_of()
    save_adapter(tmp_path / "pose.safetensors", task.adapter, pose_metadata(DATA, PLAIN, TrainingConfig()))
    tensors, told = read_safetensors(tmp_path / "pose.safetensors")
    assert all(name.startswith("diffusion_model.blocks.") for name in tensors) and told["family"] == "lora"
    assert len(load_adapter(tmp_path / "pose.safetensors", trainee().module).layers) == 2 * 10
