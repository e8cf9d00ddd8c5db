"""The nodes that bring clips into a graph, on real hosts."""

import time

import comfy.model_management
import folder_paths
import pytest
import torch
from conftest import BASE
from pack.motion.data.clips import ClipCollection
from pack.motion.data.sources.folder import open_clip_folder
from pack.motion.io.media.video import write_video
from pack.nodes.host import progress

INPUT = BASE / "input"
SHIPPED = "shipped: jelly"


def put_clip(name, *, count=6, caption=None, size=(32, 48)):
    """A video of rising brightness inside the host's input folder."""
    path = INPUT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, torch.linspace(0.1, 0.9, count).view(-1, 1, 1, 1).expand(-1, *size, 3), 8, overwrite=True)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def option(node, name):
    return next(item for item in node.define_schema().inputs if item.id == name)


def test_shipped_clips_load_at_once(ours):
    assert folder_paths.get_input_directory() == str(INPUT)
    assert option(ours["LoadClips"], "folder").options[0] == SHIPPED
    result = ours["LoadClips"].execute(SHIPPED, 8.0)
    clips, preview, summary = result.args
    assert isinstance(clips, ClipCollection) and len(clips) == 10 and clips.fps == 8.0
    assert preview.shape == (8, 128, 128, 3) and 0 <= preview.min() and preview.max() <= 1
    assert summary.startswith("10 clips, 160 frames at 8 fps")
    assert len(result.ui["images"]) == 8 and result.ui["text"] == (summary,)


def test_folders_of_the_input_folder_are_offered_and_read_with_their_captions(ours):
    put_clip("mine/a.mp4", caption="pan left")
    put_clip("mine/b.mp4")
    put_clip("mine/one.mp4", count=1)
    (INPUT / "mine" / "bad.mp4").write_bytes(b"no video")
    assert "mine" in option(ours["LoadClips"], "folder").options
    clips, _, summary = ours["LoadClips"].execute("mine", 8.0, " zoom\nin ").args
    assert [(clip.name, clip.caption) for clip in clips.clips] == [("a.mp4", "pan left"), ("b.mp4", "zoom in")]
    assert "skipped 2:" in summary and "one.mp4: only 1" in summary and "bad.mp4: cannot be read" in summary
    assert "1 without a caption of their own (b.mp4): 'zoom in' is used" in summary
    with pytest.raises(ValueError, match=r"1 of 2 clips have no caption \(b.mp4\)"):
        ours["LoadClips"].execute("mine", 8.0, "zoom in", True)


def test_a_changed_folder_is_read_again_and_an_unchanged_one_is_not(ours):
    def mark(**inputs):
        return ours["LoadClips"].fingerprint_inputs(**{"folder": "changing", "fps": 8.0, **inputs})

    put_clip("changing/a.mp4", caption="still")
    first = mark()
    assert mark() == first and mark(fps=12.0) != first and mark(default_caption="x") != first
    time.sleep(0.02)
    (INPUT / "changing" / "a.txt").write_text("pan up")
    second = mark()
    put_clip("changing/b.mp4")
    assert len({first, second, mark()}) == 3
    assert mark(folder="gone") == mark(folder="gone")


@pytest.mark.parametrize("name", ["nowhere", "../input", "shipped: ../..", "shipped: nothing", "/", ""])
def test_folders_that_are_not_offered_are_refused(ours, name):
    with pytest.raises(ValueError, match="folder is .*; it must be one of: shipped: jelly"):
        ours["LoadClips"].execute(name, 8.0)


def test_an_impossible_rate_is_refused(ours):
    with pytest.raises(ValueError, match="fps is 0.5; it must be 1.0 to 240.0"):
        ours["LoadClips"].execute(SHIPPED, 0.5)


def test_cancel_stops_the_reading(ours):
    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            ours["LoadClips"].execute(SHIPPED, 8.0)
    finally:
        comfy.model_management.interrupt_current_processing(False)


def test_cancel_stops_the_reading_of_one_long_file_and_what_was_opened_can_be_cancelled_later(ours):
    put_clip("long/a.mp4", count=40)
    path, shown = BASE / "input" / "long", []

    def press_cancel():
        shown.append(1)
        if len(shown) == 5:
            comfy.model_management.interrupt_current_processing(True)
        progress.throw_if_cancelled()

    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            open_clip_folder(path, fps=8, default_caption="", check=press_cancel)
        assert len(shown) == 5
        (clip,) = ours["LoadClips"].execute("long", 8.0).args[0].clips
        comfy.model_management.interrupt_current_processing(True)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            clip.frames([39])
        assert clip.frames([39]).shape == (1, 3, 32, 48)
    finally:
        comfy.model_management.interrupt_current_processing(False)


def test_a_link_in_the_input_folder_is_a_folder_of_clips_and_one_further_down_is_not(ours, tmp_path):
    real = put_clip("elsewhere/a.mp4").parent.rename(tmp_path / "disk")
    (INPUT / "linked").symlink_to(real, target_is_directory=True)
    put_clip("holder/a.mp4")
    (INPUT / "holder" / "trap").symlink_to(real, target_is_directory=True)
    assert len(ours["LoadClips"].execute("linked", 8.0).args[0]) == 1
    with pytest.raises(ValueError, match="folder is 'holder/trap'; it must be one of"):
        ours["LoadClips"].execute("holder/trap", 8.0)
    summary = ours["LoadClips"].execute("holder", 8.0).args[2]
    assert "trap: a link to a folder; it is not followed" in summary


def test_generated_clips_come_with_preview_and_summary(ours):
    result = ours["GenerateClips"].execute("Pan Left\n\nzoom in, pan up", 3, 8, 32, 5)
    clips, preview, summary = result.args
    assert [clip.caption for clip in clips.clips] == ["pan left", "pan up, zoom in", "pan left"]
    assert clips.clips[0].num_frames == 8 and preview.shape == (6, 32, 32, 3)
    assert summary.startswith("3 clips, 24 frames at 8 fps") and result.ui["text"] == (summary,)
    with torch.inference_mode(False):
        assert not clips.clips[2].frames([0, 7]).is_inference()


def test_any_camera_keeps_to_the_words_of_every_model(ours, core):
    clips = ours["GenerateClips"].execute(" Any  camera ", 12, 4, 32).args[0]
    clip = ours["LoadBuiltin"].execute("motionblocks-tiny").args[1]
    for one in clips.clips:
        core("CLIPTextEncode", clip=clip, text=one.caption)
    assert len({one.caption for one in ours["GenerateClips"].execute("any", 12, 4, 32).args[0].clips}) > 3


@pytest.mark.parametrize("inputs, words", [
    (("fly", 3), "'fly' cannot be drawn; there are: pan left"), (("  \n", 3), "motions is empty"),
    (("any", 0), "num_clips is 0"), (("any", 3, 1), "num_frames is 1"), (("any", 3, 16, 70), "size is 70"),
    (("any\nzoom in", 3), "'any' cannot be drawn"),
])  # fmt: skip
def test_what_cannot_be_generated_is_refused(ours, inputs, words):
    with pytest.raises(ValueError, match=words):
        ours["GenerateClips"].execute(*inputs)


def test_photos_become_clips_of_one_camera_move_that_the_trainer_takes(ours):
    photos = torch.rand(2, 48, 64, 4, generator=torch.Generator().manual_seed(0))
    before = photos.clone()
    result = ours["MakeCameraClips"].execute(photos, "zoom out", 5, 8, 12.0, 0.2, 0.0, 32, 3)
    clips, preview, summary = result.args
    assert isinstance(clips, ClipCollection) and len(clips) == 5 and clips.fps == 12.0
    assert {(clip.caption, clip.num_frames, clip.height, clip.width) for clip in clips.clips} == {
        ("zoom out", 8, 32, 43)}
    assert preview.shape == (8, 32, 43, 3) and torch.equal(photos, before)
    assert "zoom out inside 2 photos" in summary and result.ui["text"] == (summary,)
    with torch.inference_mode(False):
        assert not clips.clips[4].frames([0, 7]).is_inference() and not clips.clips[4].flow([0, 7]).is_inference()
    assert len(ours["MakeCameraClips"].execute(photos[:1, ..., :3], "pan left").args[0]) == 100


@pytest.mark.parametrize("inputs, words", [
    ({"move": "away"}, "move is 'away'; it must be one of: pan left"), ({"fps": 0.5}, "fps is 0.5"),
    ({"amount": 0.7}, "amount is 0.7"), ({"num_clips": 0}, "num_clips is 0"), ({"size": 8}, "side is 8"),
    ({"images": torch.rand(1, 20, 64, 3)}, "photos are 64x20 px"), ({"images": torch.rand(0, 64, 64, 3)}, "images is"),
    ({"images": torch.full((1, 64, 64, 3), float("nan"))}, "images holds NaN"), ({"seed": -1}, "seed is -1"),
])  # fmt: skip
def test_camera_clips_that_cannot_be_made_are_refused(ours, inputs, words):
    with pytest.raises(ValueError, match=words):
        ours["MakeCameraClips"].execute(**{"images": torch.rand(1, 48, 64, 3), "move": "pan left", **inputs})
