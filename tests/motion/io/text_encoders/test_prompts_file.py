"""Encoded prompts on disk: every number comes back, zeros at the end are not stored, and what does not fit is named."""

import json

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_header
from pack.motion.io.text_encoders.prompts_file import SavedPrompt, open_prompts, write_prompts
from pack.motion.shell import main
from safetensors.torch import load_file, save_file

UMT5 = "umt5xxl"


def encoded(tokens, width=6, rows=32, seed=0):
    """What an encoder that pads with zeros makes of a prompt."""
    values = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))
    return torch.cat((values, torch.zeros(rows - tokens, width)))


def saved(path, texts=("", "a cat turns", "ein Baum, größer"), width=6, encoder=UMT5):
    whole = {text: encoded(n + 1, width, seed=n) for n, text in enumerate(texts)}
    write_prompts(path, {text: SavedPrompt.of(values) for text, values in whole.items()}, encoder, {"source": "test"})
    return whole


def test_what_an_encoder_gave_comes_back_bit_for_bit_and_its_padding_takes_no_room(tmp_path):
    whole = saved(tmp_path / "a.safetensors")
    file = open_prompts(tmp_path / "a.safetensors")
    assert file.texts == tuple(whole) and (file.width, file.encoder) == (6, UMT5)
    found = file.read(whole)
    for n, (text, values) in enumerate(whole.items()):
        assert torch.equal(found[text].full_context, values) and found[text].context.shape == (n + 1, 6)
    stored = load_file(tmp_path / "a.safetensors")
    assert {name: len(value) for name, value in stored.items()} == {"0.context": 1, "1.context": 2, "2.context": 3}
    assert read_header(tmp_path / "a.safetensors").metadata["source"] == "test"
    assert "2 tokens: 'a cat turns'" in file.describe() and "3 prompts, 6 wide" in file.describe()


def test_masked_rows_go_and_rows_that_count_stay_though_they_are_zeros(tmp_path):
    values = torch.ones(5, 3)
    values[2:] = 0
    mask, pooled = torch.tensor([1.0, 1, 1, 0, 0]), torch.arange(3.0)
    write_prompts(tmp_path / "a.safetensors", {"": SavedPrompt.of(values, mask, pooled)}, "gemma2_2b")
    found = open_prompts(tmp_path / "a.safetensors").read([""])[""]
    assert found.context.shape == (3, 3) and found.num_rows == 5 and torch.equal(found.full_context, values)
    assert torch.equal(found.attention_mask, mask[:3]) and torch.equal(found.pooled, pooled)
    assert SavedPrompt.of(torch.zeros(4, 2)).context.shape == (1, 2)


def test_a_prompts_file_of_another_width_is_refused(tmp_path):
    saved(tmp_path / "a.safetensors", width=6, encoder="gemma2_2b")
    with pytest.raises(ConfigError) as caught:
        open_prompts(tmp_path / "a.safetensors").check_encoder(4096, UMT5, "UMT5-XXL")
    told = str(caught.value)
    assert "a.safetensors are 6 wide, of 'gemma2_2b'" in told and "needs 4096, of UMT5-XXL" in told
    assert "save them with the node Save Prompts in ComfyUI, with that text encoder as clip" in told


def test_prompts_of_an_encoder_that_is_as_wide_are_refused_and_the_right_ones_pass(tmp_path):
    saved(tmp_path / "a.safetensors", encoder="t5xxl")
    file = open_prompts(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="encoded by 't5xxl'; the model needs 'umt5xxl', UMT5-XXL, which is as wide"):
        file.check_encoder(6, UMT5, "UMT5-XXL")
    file.check_encoder(6, "t5xxl", "T5-XXL")


def test_a_missing_caption_is_named_with_its_clip_with_what_there_is_and_with_the_way_out(tmp_path):
    saved(tmp_path / "a.safetensors", ("", *(f"text {n}" for n in range(7))))
    file = open_prompts(tmp_path / "a.safetensors")
    file.check_holds({"text 1": "one.mp4", "": "none.mp4"})
    with pytest.raises(ConfigError) as caught:
        file.check_holds({"text 1": "one.mp4", "a dog": "two.mp4", "a cow": "three.mp4"})
    told = str(caught.value)
    assert "lack the caption 'a dog' of clip 'two.mp4' and 1 more" in told
    assert "hold 'text 0', 'text 1', 'text 2', 'text 3', 'text 4' and 2 more" in told
    assert "Save Prompts in ComfyUI, with these clips connected, or change the captions" in told
    saved(tmp_path / "b.safetensors", ("",))
    with pytest.raises(ConfigError, match="they hold the empty prompt alone"):
        open_prompts(tmp_path / "b.safetensors").check_holds({"a dog": "two.mp4"})


def test_a_cut_file_another_kind_and_a_newer_one_are_refused(tmp_path):
    saved(tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-10])
    with pytest.raises(CheckpointError, match="cut.safetensors: cut off: .* bytes found"):
        open_prompts(tmp_path / "cut.safetensors")
    save_file({"text_model.a.weight": torch.zeros(2)}, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match="this is a CLIP text encoder; encoded prompts are needed: save"):
        open_prompts(tmp_path / "clip.safetensors")
    metadata = read_header(tmp_path / "a.safetensors").metadata | {"format_version": "2"}
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "new.safetensors", metadata)
    with pytest.raises(CheckpointError, match="prompts of version '2', this pack reads up to 1; update the pack"):
        open_prompts(tmp_path / "new.safetensors")


SPOILT = {
    "no list": {"prompts": "{"}, "twice": {"prompts": json.dumps([{"text": "", "rows": 9}] * 2)},
    "no empty one": {"prompts": json.dumps([{"text": "a", "rows": 9}])},
    "rows that are no number": {"prompts": json.dumps([{"text": "", "rows": True}])},
    "more prompts than tensors": {"prompts": json.dumps([{"text": "", "rows": 9}, {"text": "a", "rows": 9}])},
    "fewer rows than stored": {"prompts": json.dumps([{"text": "", "rows": 1}])}, "another width": {"width": "7"},
    "a width that is no number": {"width": "wide"},
}  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=list(SPOILT))
def test_a_list_that_does_not_fit_the_tensors_is_refused(tmp_path, spoilt):
    metadata = {"family": "prompts", "format_version": "1", "encoder": UMT5, "width": "6",
                "prompts": json.dumps([{"text": "", "rows": 9}])}  # fmt: skip
    write_safetensors(tmp_path / "a.safetensors", {"0.context": torch.ones(2, 6)}, metadata)
    assert open_prompts(tmp_path / "a.safetensors").texts == ("",)
    write_safetensors(tmp_path / "a.safetensors", {"0.context": torch.ones(2, 6)}, metadata | spoilt)
    with pytest.raises(CheckpointError, match="Save Prompts in ComfyUI again"):
        open_prompts(tmp_path / "a.safetensors")


def test_info_tells_encoder_width_and_texts(tmp_path, capsys):
    saved(tmp_path / "a.safetensors")
    assert main.main(["info", str(tmp_path / "a.safetensors")]) == 0
    told = capsys.readouterr().out
    assert "3 prompts, 6 wide, encoded by 'umt5xxl'" in told and "3 tokens: 'ein Baum, größer'" in told


def test_nothing_is_written_of_prompts_that_do_not_belong_together_or_are_not_finite(tmp_path):
    one, wide = SavedPrompt.of(torch.ones(2, 3)), SavedPrompt.of(torch.ones(2, 4))
    for prompts in ({"a": one}, {"": one, "a": wide}, {}):
        with pytest.raises(ConfigError, match="prompts of one width are needed, the empty one among them"):
            write_prompts(tmp_path / "a.safetensors", prompts, UMT5)
    with pytest.raises(CheckpointError, match="NaN or Inf"):
        write_prompts(tmp_path / "a.safetensors", {"": SavedPrompt.of(torch.full((2, 3), torch.nan))}, UMT5)
    with pytest.raises(ConfigError, match=r"gave text of \(1, 2, 3\); \(n, d\) is needed"):
        SavedPrompt.of(torch.ones(1, 2, 3))
    assert not list(tmp_path.iterdir())
