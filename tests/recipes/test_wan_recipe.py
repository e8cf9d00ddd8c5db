"""The recipe of motionblocks-wan: batches by key, the mix it promises, one network in training and in its file."""

import json
from dataclasses import replace

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.networks.builtin_wan import read_builtin_wan, save_builtin_wan
from pack.motion.models.conditions import Conditions
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig
from pack.motion.models.wan.config import WanConfig
from pack.motion.text.scene_vocabulary import SceneVocabulary, word_vectors
from pack.motion.training.task import SampleKey
from pack.recipes import train_wan
from pack.recipes.wan import (
    GROUPS,
    LOOKS,
    OF_IMAGES,
    OF_WORDS,
    WanRecipe,
    WanTask,
    as_file_weights,
    as_started,
    build_wan,
    wan_spec,
)

SMALL = WanConfig(num_layers=1, num_attention_heads=1, hidden_width=32)


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    vae = SmallVAE(SmallVAEConfig(4, 0, 4, 0)).requires_grad_(False)
    spec = replace(wan_spec(), config=SMALL)
    return WanTask(spec, build_wan(spec, 0), vae, WanRecipe(vae="test"))


def keys(step, *indices):
    return [SampleKey(3, step, index) for index in indices]


@torch.no_grad()
def batches(task, count, size=4):
    return [task.draw(keys(step, *range(size))) for step in range(count)]


def words_of(task, context):
    ids = context.argmax(-1)
    return [[task.vocabulary.words[number - 1] for number in row.tolist() if number] for row in ids]


def test_a_sample_hangs_on_its_key_alone(task):
    whole, alone = task.draw(keys(1, 0, 1, 2)), task.draw(keys(1, 1))
    assert set(whole) == {"latents", "noise", "sigma", "context", "frame_mask"}
    for name, value in alone.items():
        torch.testing.assert_close(whole[name][1:2], value, msg=name)  # rounding of a batch in the VAE


@pytest.mark.slow
def test_the_mix_is_as_promised(task):
    drawn = batches(task, 48)
    single = [batch for batch in drawn if batch["latents"].shape[2] == 1]
    video = [batch for batch in drawn if batch["latents"].shape[2] == 5]
    assert len(single) + len(video) == 48 and 2 <= len(single) <= 15
    assert not any(set(words) & set(GROUPS["motion"]) for batch in single for words in words_of(task, batch["context"]))
    assert all(batch["frame_mask"].all() for batch in single)
    given = torch.cat([batch["frame_mask"][:, 0] == 0 for batch in video])
    said = [words for batch in video for words in words_of(task, batch["context"])]
    assert 0.17 < float(given.float().mean()) < 0.4 and all(bool(batch["frame_mask"][:, 1:].all()) for batch in video)
    silent = torch.tensor([not words for words in said])
    assert 0.35 < float(silent[given].float().mean()) < 0.65 and 0.03 < float(silent[~given].float().mean()) < 0.2
    sides = {tuple(batch["latents"].shape[3:]) for batch in drawn}
    assert (8, 8) in sides and len(sides) > 1


def test_the_first_steps_mostly_give_the_first_frame_and_say_the_motion(task):
    lead = WanTask(task.spec, task.dit, task.vae, replace(OF_WORDS, lead_steps=12))
    drawn = [batch for batch in batches(lead, 12) if batch["latents"].shape[2] == 5]
    given = torch.cat([batch["frame_mask"][:, 0] == 0 for batch in drawn])
    said = [bool(words) for batch in drawn for words in words_of(lead, batch["context"])]
    assert len(drawn) >= 10 and float(given.float().mean()) > 0.7 and sum(said) / len(said) > 0.75
    late, usual = lead.draw(keys(12, 0, 1)), task.draw(keys(12, 0, 1))
    assert all(torch.equal(late[name], usual[name]) for name in usual)


def test_a_task_from_images_shows_every_clip_its_first_frame_and_noises_all(task):
    spec = replace(wan_spec(from_image=True), config=replace(SMALL, concat_channels=20))
    of_images = WanTask(spec, build_wan(spec, 0), task.vae, OF_IMAGES)
    batch = of_images.draw(keys(3, 0, 1))
    beside = batch["concat_latents"]
    assert beside.shape == (2, 20, *batch["latents"].shape[2:]) and batch["frame_mask"].all()
    assert beside[:, :4, 0].all() and not beside[:, :4, 1:].any()
    torch.testing.assert_close(beside[:, 4:, 0], batch["latents"][:, :, 0])  # the VAE looks at nothing behind it
    assert not torch.equal(beside[:, 4:, 1], batch["latents"][:, :, 1])
    other = {**batch, "concat_latents": beside.flip(0)}
    with torch.no_grad():
        of_images.dit.head.head.weight.normal_()
        assert not torch.equal(of_images.loss(batch), of_images.loss(other))


def test_words_said_are_those_of_one_group_each(task):
    for words in words_of(task, batches(task, 3)[0]["context"]):
        groups = [next(group for group, known in GROUPS.items() if word in known) for word in words]
        assert len(set(groups)) == len(groups)


def test_a_frame_that_is_given_does_not_count_and_is_not_noised(task):
    batch = next(each for each in batches(task, 6) if (each["frame_mask"] == 0).any())
    other = {**batch, "noise": torch.where(batch["frame_mask"].view(-1, 1, 5, 1, 1) == 0, 9.0, batch["noise"])}
    assert torch.equal(task.loss(batch), task.loss(other))


def test_a_caption_reaches_the_network_in_training_as_it_does_when_drawing(task, saved):
    file, seen = read_builtin_wan(saved[1]), []
    hook = task.dit.register_forward_pre_hook(lambda module, given: seen.append(given[2].context.shape[1]))
    task.loss(task.draw(keys(1, 0)))
    hook.remove()
    assert seen == [len(file.vocabulary.tokenize("red ball"))] == [file.spec.text_tokens]


def test_the_loss_falls_and_every_weight_learns(task):
    batch = task.draw(keys(2, 0, 1, 2, 3))
    dit = build_wan(task.spec, 1)
    learning = WanTask(task.spec, dit, task.vae, task.recipe)
    optimizer = torch.optim.Adam(dit.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = learning.loss(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(value.grad is not None and value.grad.any() for value in dit.parameters())
    assert {"blocks.0.ffn.0.weight", "time_projection.1.weight"} <= learning.matrices()
    assert not {"patch_embedding.weight", "text_embedding.0.weight"} & learning.matrices()


@pytest.fixture
def saved(task, tmp_path):
    dit = build_wan(task.spec, 2)
    torch.nn.init.normal_(dit.head.head.weight, std=0.05)
    path = tmp_path / "wan.safetensors"
    save_builtin_wan(path, task.spec, as_file_weights(dit.state_dict(), task.spec), GROUPS, {"seed": "2"})
    return dit.requires_grad_(False), path


def test_the_file_holds_the_network_that_was_trained_with_words_as_vectors(saved):
    dit, path = saved
    file = read_builtin_wan(path)
    assert file.vocabulary.groups == SceneVocabulary(GROUPS).groups and file.metadata["seed"] == "2"
    assert file.spec.config == SMALL and file.spec.sampling == wan_spec().sampling
    ids = torch.tensor([file.vocabulary.tokenize("red ball, on sand, moves left"), [0] * 8])
    latents = torch.randn(2, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    number = Conditions(torch.nn.functional.one_hot(ids, file.vocabulary.size).float())
    vector = Conditions(word_vectors(file.vocabulary.size, 4096)[ids])
    ours, theirs = dit(latents, torch.tensor([700.0, 300.0]), number), file.network()
    error = (theirs(latents, torch.tensor([700.0, 300.0]), vector) - ours).abs().max() / ours.abs().max()
    assert float(error) < 5e-3  # float16 of the file; between trained and written weights it is rounding alone
    state = as_file_weights(dit.state_dict(), replace(wan_spec(), config=SMALL))
    theirs.load_state_dict(state)
    exact = (theirs(latents, torch.tensor([700.0, 300.0]), vector) - ours).abs().max() / ours.abs().max()
    assert float(exact) < 2e-5


@pytest.mark.parametrize("change, says", [({"words": ""}, "not usable"), ({"words": '{"a": ["Red"]}'}, "not usable"),
                                          ({"sampling": '{"shift": -1}'}, "shift is -1")])  # fmt: skip
def test_a_file_that_says_nothing_right_of_itself_is_refused(saved, tmp_path, change, says):
    tensors, metadata = read_safetensors(saved[1])
    path = tmp_path / "other.safetensors"
    write_safetensors(path, tensors, {**metadata, **change})
    with pytest.raises(CheckpointError, match=says):
        read_builtin_wan(path)


def test_a_wan_file_without_words_is_refused_and_weights_of_another_size_are_not_saved(saved, task, tmp_path):
    tensors, metadata = read_safetensors(saved[1])
    path = tmp_path / "plain.safetensors"
    write_safetensors(path, tensors, {name: value for name, value in metadata.items() if name != "words"})
    with pytest.raises(CheckpointError, match="no words of its own"):
        read_builtin_wan(path)
    with pytest.raises(CheckpointError):
        save_builtin_wan(tmp_path / "bad.safetensors", wan_spec(), tensors, GROUPS)


def test_heads_begin_by_looking_where_they_are_told():
    spec = wan_spec()
    dit = build_wan(spec, 0)
    rotary = dit.places(None, (5, 7, 7), torch.zeros(1, 16, 5, 14, 14))
    asked, turn = 2 * 49 + 3 * 7 + 3, 0  # the middle of all
    for block in dit.blocks:
        attention = block.self_attn
        nothing = torch.zeros(1, 5 * 49, spec.config.width)
        query, key = (each(nothing, rotary).unflatten(-1, (2, 128)) for each in (attention.query, attention.key))
        for head in range(2):
            scores = (key[0, :, head] @ query[0, asked, head]).view(5, 7, 7)
            frame, row, column = LOOKS[turn]
            best = torch.tensor(torch.unravel_index(scores.argmax(), scores.shape)) - torch.tensor([2, 3, 3])
            assert best.tolist() == [frame, round(row), round(column)], turn
            turn += 1


def test_a_training_from_images_starts_as_the_text_model_it_came_from(saved, task):
    dit, path = saved
    spec = replace(wan_spec(from_image=True), config=replace(SMALL, concat_channels=20))
    begun = build_wan(spec, 5)
    begun.load_state_dict(as_started(read_builtin_wan(path).network().state_dict(), spec))
    latents, beside = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 20, 2, 4, 4)
    context = torch.nn.functional.one_hot(torch.tensor([[3, 9, 0, 0, 0, 0, 0, 0]]), task.vocabulary.size).float()
    with torch.no_grad():
        found = begun(latents, torch.tensor([500.0]), Conditions(context, concat_latents=beside))
        expected = dit(latents, torch.tensor([500.0]), Conditions(context))
    assert float((found - expected).abs().max() / expected.abs().max()) < 5e-3  # float16 of the file


def test_a_training_goes_on_from_a_file_with_the_channels_it_has():
    spec = replace(wan_spec(from_image=True), config=replace(SMALL, concat_channels=20))
    state = as_file_weights(build_wan(spec, 6).state_dict(), spec)
    begun = as_started(state, spec)
    assert begun["patch_embedding.weight"].shape[1] == 36
    assert torch.equal(begun["patch_embedding.weight"], state["patch_embedding.weight"])


def test_the_recipe_weighs_motion_as_it_says(task):
    (batch,), heavy = batches(task, 1), WanTask(task.spec, task.dit, task.vae, replace(task.recipe, motion_weight=3.0))
    with torch.no_grad():
        assert (heavy.loss(batch) > 1.5 * task.loss(batch)).all()


@pytest.mark.slow
def test_the_script_writes_files_that_say_how_and_go_on_from_them(tmp_path, monkeypatch):
    def run(name, *more):
        folder = tmp_path / name
        given = ["train_wan.py", "--folder", str(folder), "--steps", "1", "--batch", "1", "--fp32", *map(str, more)]
        monkeypatch.setattr("sys.argv", given)
        train_wan.main()
        return read_builtin_wan(folder / "step00001.safetensors")

    first = run("first", "--seed", 3)
    assert first.metadata["command"] == "python tools/train_wan.py --steps 1 --batch 1 --rate 0.004 --fp32 --seed 3"
    assert "history" not in first.metadata and not first.spec.config.concat_channels
    path = tmp_path / "first" / "step00001.safetensors"
    further, pictures = run("further", "--begin", path), run("pictures", "--from-image", path)
    assert json.loads(further.metadata["history"])["command"] == first.metadata["command"]
    assert "--begin step00001.safetensors" in further.metadata["command"]
    assert "--from-image step00001.safetensors" in pictures.metadata["command"]
    assert [file.spec.config.concat_channels for file in (further, pictures)] == [0, 20]
    moved = (further.network().head.head.weight - first.network().head.head.weight).abs().max()
    assert 0 < float(moved) < 0.05, "it begins where the first ended"
