"""A folder of clips becomes a collection: by time stamps, with captions, and with every bad clip named."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from pack.motion.data.sources.folder import open_clip_folder
from pack.motion.data.sources.video_names import folders_with_videos
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.media.video import write_video


def level(number):
    """Grey level that stands for frame `number`."""
    return 16 + 6 * number


def frames(count, height=32, width=48):
    """Frames whose grey level is their number (t, h, w, 3) in [0, 1]."""
    return torch.stack([torch.full((height, width, 3), level(number) / 255) for number in range(count)])


def numbers(pictures):
    """Frame numbers read back from their grey levels."""
    return [round((float(picture.mean()) * 255 - 16) / 6) for picture in pictures]


def put_clip(folder, name="clip.mp4", count=16, fps=8.0, caption="pan left", **size):
    folder.mkdir(exist_ok=True)
    write_video(folder / name, frames(count, **size), fps)
    if caption is not None:
        (folder / name).with_suffix(".txt").write_text(caption)
    return folder / name


def put_at_times(path, milliseconds, *, count_from=0, **options):
    """A video whose frames lie at the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "10", **options})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 48, 32, "yuv420p", Fraction(1, 1000)
        for number, time in enumerate(milliseconds, count_from):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level(number), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def whole(clip):
    return numbers(clip.frames(range(clip.num_frames)))


def test_frames_come_in_order_upright_in_range_and_only_those_asked_for(tmp_path):
    put_clip(tmp_path / "clips")
    (clip,) = open_clip_folder(tmp_path / "clips", fps=8).clips
    assert (clip.num_frames, clip.fps, clip.height, clip.width, clip.caption) == (16, 8.0, 32, 48, "pan left")
    assert whole(clip) == list(range(16))
    assert numbers(clip.frames([9, 3, 3])) == [9, 3, 3]
    assert clip.frames([0]).dtype == torch.float32 and clip.frames([0]).shape == (1, 3, 32, 48)


@pytest.mark.parametrize("own, wanted, truth", [
    (24, 8, [0, 3, 6, 9, 12, 15]), (8, 8, list(range(16))), (8, 16, [0, 0, 1, 1, 2, 2]), (30, 12, [0, 2, 5, 7, 10, 12]),
])  # fmt: skip
def test_frame_rate_is_brought_to_the_wanted_one(tmp_path, own, wanted, truth):
    put_clip(tmp_path / "clips", fps=own)
    collection = open_clip_folder(tmp_path / "clips", fps=wanted)
    assert whole(collection.clips[0])[: len(truth)] == truth
    assert ("slower than" in collection.summary()) == (own < wanted)


def test_variable_fps_is_read_by_time_stamps_and_reported(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    times = [0, 100, 200, 300, 700, 1100, 1500, 1600]
    put_at_times(folder / "uneven.mp4", times)
    collection = open_clip_folder(folder, fps=10, default_caption="")
    assert whole(collection.clips[0]) == [0, 1, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 7]
    assert "uneven.mp4: variable rate, 2.5 to 10 fps; resampled by its time stamps" in collection.summary()


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no video files in it .*put clips there"):
        open_clip_folder(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        open_clip_folder(tmp_path / "nowhere")


def broken_files(folder):
    """Files that are no usable video, and a word of the reason each is skipped with."""
    whole = put_clip(folder, "good.mp4").read_bytes()
    half = whole[: -len(whole) // 3]
    made = {
        "empty.mp4": (b"", "empty file"), "text.mp4": (b"<html>404</html>" * 40, "cannot be read as a video"),
        "noise.webm": (bytes(range(256)) * 40, "cannot be read as a video"), "cut.mp4": (half, "cut off"),
        "list.mp4": (b"#EXTM3U\n#EXTINF:1,\n" + os.fsencode(folder / "good.mp4"), "cannot be read as a video"),
    }  # fmt: skip
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    return {name: word for name, (_, word) in made.items()}


def test_unreadable_clips_are_skipped_and_counted_with_the_reason(tmp_path):
    reasons = broken_files(tmp_path / "clips")
    collection = open_clip_folder(tmp_path / "clips", fps=8)
    assert [clip.name for clip in collection.clips] == ["good.mp4"]
    found = dict(collection.skipped)
    assert set(found) == set(reasons)
    for name, word in reasons.items():
        assert word in found[name], (name, found[name])
    assert f"skipped {len(reasons)}:" in collection.summary()


def test_folder_of_nothing_but_bad_clips_is_refused_with_the_reasons(tmp_path):
    broken_files(tmp_path / "clips")
    (tmp_path / "clips" / "good.mp4").unlink()
    with pytest.raises(ConfigError, match=r"no usable clip \(cut.mp4: cut off.*empty.mp4: an empty file"):
        open_clip_folder(tmp_path / "clips", fps=8)


def test_one_frame_clip_is_skipped(tmp_path):
    put_clip(tmp_path / "clips")
    put_clip(tmp_path / "clips", "photo.mp4", 1)
    put_clip(tmp_path / "clips", "short.mp4", 3, fps=24)
    collection = open_clip_folder(tmp_path / "clips", fps=8)
    assert dict(collection.skipped)["photo.mp4"] == "only 1 of the 2 frames that are needed"
    assert "only 1 of the 2 frames that are needed, at 8 fps" in dict(collection.skipped)["short.mp4"]
    assert len(collection) == 1


def test_one_frame_clip_may_serve_where_pictures_do(tmp_path):
    put_clip(tmp_path / "clips", "photo.mp4", 1)
    (clip,) = open_clip_folder(tmp_path / "clips", fps=8, min_frames=1).clips
    assert whole(clip) == [0]


def test_missing_captions_are_refused_with_their_names(tmp_path):
    put_clip(tmp_path / "clips", "a.mp4")
    put_clip(tmp_path / "clips", "b.mp4", caption=None)
    with pytest.raises(ConfigError, match=r"1 of 2 clips have no caption \(b.mp4\); write clip.txt .*default caption"):
        open_clip_folder(tmp_path / "clips", fps=8)


def test_default_caption_stands_in_and_is_counted(tmp_path):
    put_clip(tmp_path / "clips", "a.mp4")
    put_clip(tmp_path / "clips", "b.mp4", caption=None)
    collection = open_clip_folder(tmp_path / "clips", fps=8, default_caption="still")
    assert [clip.caption for clip in collection.clips] == ["pan left", "still"]
    assert "1 without a caption of their own (b.mp4): 'still' is used" in collection.summary()


def test_captions_come_from_the_list_and_a_text_beside_the_clip_wins(tmp_path):
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    put_clip(folder, "a.mp4", caption="pan left\r\n slowly\n")
    put_clip(folder, "b.mp4", caption=None)
    put_clip(folder / "sub", "c.mp4", caption=None)
    put_clip(folder, "d.mp4", caption="")
    lines = [{"file": "a.mp4", "caption": "x"}, {"file": "b.mp4", "caption": "zoom in", "source": "me"},
             {"file": "./sub/c.mp4", "caption": "über"}, {"file": "gone.mp4", "caption": "y"}]  # fmt: skip
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "captions.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    collection = open_clip_folder(folder, fps=8)
    assert [clip.name for clip in collection.clips] == ["a.mp4", "b.mp4", "d.mp4", "sub/c.mp4"]
    assert [clip.caption for clip in collection.clips] == ["pan left slowly", "zoom in", "", "über"]
    assert "captions.jsonl names 1 clips that are not there (gone.mp4)" in collection.summary()


@pytest.mark.parametrize("line, words", [
    ("{", "line 2: not JSON"), ('{"file": "a.mp4"}', "line 2: .* is needed"), ("[]", "line 2: .* is needed"),
    ('{"file": "clip.mp4", "caption": "twice"}', "line 2: 'clip.mp4' has a caption already"),
])  # fmt: skip
def test_a_bad_line_in_the_list_is_named(tmp_path, line, words):
    put_clip(tmp_path / "clips", caption=None)
    text = '{"file": "clip.mp4", "caption": "still"}\n' + line
    (tmp_path / "clips" / "captions.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_clip_folder(tmp_path / "clips", fps=8)


def test_a_caption_that_is_no_text_is_refused_by_name(tmp_path):
    put_clip(tmp_path / "clips")
    for data in (b"\xff\xfep", b"pan\xff left", b"pan\0left", b"p\0\0a", b"\xff\xfe\0\xd8"):
        (tmp_path / "clips" / "clip.txt").write_bytes(data)
        with pytest.raises(ConfigError, match="clip.txt: cannot be read as UTF-8 text"):
            open_clip_folder(tmp_path / "clips", fps=8)
    (tmp_path / "clips" / "clip.txt").write_bytes(b"x" * 100_000)
    with pytest.raises(ConfigError, match="clip.txt: longer than"):
        open_clip_folder(tmp_path / "clips", fps=8)


def test_fingerprint_follows_the_bytes_and_the_rate_not_the_place_or_the_time(tmp_path):
    path = put_clip(tmp_path / "clips")
    first = open_clip_folder(tmp_path / "clips", fps=8).clips[0].fingerprint
    os.utime(path, (1, 1))
    (tmp_path / "clips").rename(tmp_path / "moved")
    assert open_clip_folder(tmp_path / "moved", fps=8).clips[0].fingerprint == first
    assert open_clip_folder(tmp_path / "moved", fps=4).clips[0].fingerprint != first
    put_clip(tmp_path / "other", count=17)
    assert open_clip_folder(tmp_path / "other", fps=8).clips[0].fingerprint != first


def test_frames_far_into_a_long_clip_are_the_right_ones(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    times = [40 * number for number in range(38)]
    put_at_times(folder / "long.mp4", times, g="10", bf="2")
    put_at_times(folder / "long.mkv", times, g="10", bf="2")
    for clip in open_clip_folder(folder, fps=25, default_caption="").clips:
        assert whole(clip) == list(range(38))
        assert numbers(clip.frames([37, 33])) == [37, 33]


def test_a_clip_cut_before_its_first_key_frame_begins_with_what_can_be_seen(tmp_path):
    """Clips cut out by copying packets begin between key frames."""
    folder = tmp_path / "clips"
    folder.mkdir()
    groups = {"g": "8", "bf": "0", "keyint_min": "8", "sc_threshold": "0"}
    put_at_times(tmp_path / "source.mkv", [40 * number for number in range(24)], **groups)
    with av.open(str(tmp_path / "source.mkv")) as source, av.open(str(folder / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts >= 200:
                packet.stream = stream
                target.mux(packet)
    (clip,) = open_clip_folder(folder, fps=25, default_caption="").clips
    assert whole(clip) == list(range(8, 24))


def test_a_file_that_vanishes_or_changes_later_is_named(tmp_path):
    path = put_clip(tmp_path / "clips")
    (clip,) = open_clip_folder(tmp_path / "clips", fps=8).clips
    path.write_bytes(b"x" * 2000)
    with pytest.raises(ShapeError, match="clip.mp4: cannot be read as a video"):
        clip.frames([0])
    path.unlink()
    with pytest.raises(ShapeError, match="clip.mp4: cannot be read as a video"):
        clip.frames([0])


def with_display_matrix(path, a, b, c, d):
    """Put a display matrix of quarter turns and mirrors into an mp4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer, volume
    assert data[at : at + 4] == b"\0\1\0\0", "the unit matrix was expected"
    for place, value in zip((0, 4, 12, 16), (a, b, c, d)):
        data[at + place : at + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("matrix", [
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
])  # fmt: skip
def test_recordings_are_turned_and_mirrored_as_their_display_matrix_says(tmp_path, matrix):
    """Truth: each pixel moved by x' = a x + c y, y' = b x + d y, in whole numbers."""
    (tmp_path / "clips").mkdir()
    y, x = np.mgrid[0:32, 0:48]
    stored = (40 + 3 * x + 2 * y).astype(np.uint8)
    video = torch.from_numpy(stored).float().div(255)[None, :, :, None].expand(4, -1, -1, 3)
    write_video(tmp_path / "clips" / "clip.mp4", video, 8)
    a, b, c, d = matrix
    with_display_matrix(tmp_path / "clips" / "clip.mp4", *matrix)
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    truth = np.zeros((to_y.max() + 1, to_x.max() + 1))
    truth[to_y, to_x] = stored
    (clip,) = open_clip_folder(tmp_path / "clips", fps=8, default_caption="").clips
    assert (clip.height, clip.width) == truth.shape
    assert np.abs(clip.frames([2])[0].mean(0).numpy() * 255 - truth).mean() < 3


def test_impossible_sides_are_skipped(tmp_path):
    put_clip(tmp_path / "clips")
    put_clip(tmp_path / "clips", "line.mp4", height=16, width=300)
    put_clip(tmp_path / "clips", "small.mp4", height=8, width=8)
    skipped = dict(open_clip_folder(tmp_path / "clips", fps=8).skipped)
    assert "300x16 px" in skipped["line.mp4"] and "8x8 px" in skipped["small.mp4"]


def test_hidden_files_do_not_count_and_progress_may_cancel(tmp_path):
    folder = tmp_path / "clips"
    for name in ("a.mp4", "b.mp4"):
        put_clip(folder, name)
    (folder / "._a.mp4").write_bytes(b"resource fork")
    steps = []
    open_clip_folder(folder, fps=8, on_step=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_clip_folder(folder, fps=8, on_step=cancel)


def test_folders_are_offered_when_videos_lie_in_them_and_not_too_deep(tmp_path):
    for name in ("a/clip.mp4", "a/b/CLIP.MOV", "photos/x.png", ".hidden/c.mp4", "1/2/3/c.mp4", "1/2/3/4/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "top.mp4").touch()
    assert folders_with_videos(tmp_path) == ["1/2/3", "a", "a/b"]
    assert folders_with_videos(tmp_path / "nowhere") == []


@pytest.mark.parametrize("fps", [-1, float("nan"), 1000])
def test_impossible_rates_are_refused(tmp_path, fps):
    with pytest.raises(ConfigError, match="fps is"):
        open_clip_folder(tmp_path, fps=fps)


@pytest.mark.parametrize("suffix, kind", [(".ts", "mpegts"), (".m2ts", "mpegts"), (".mts", "mpegts"), (".3gp", "3gp"),
                                          (".MOV", "mov")])  # fmt: skip
def test_containers_of_cameras_and_phones_are_read(tmp_path, suffix, kind):
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(24):
            picture = np.full((32, 48, 3), level(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (clip,) = open_clip_folder(tmp_path, fps=24, default_caption="").clips
    assert whole(clip) == list(range(24))


def test_videos_that_are_not_read_are_named_with_the_reason(tmp_path):
    put_clip(tmp_path / "clips")
    for name in ("old.WMV", "sub.flv", "anim.webp", "notes.txt", ".hidden.wmv", "photo.png"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    collection = open_clip_folder(tmp_path / "clips", fps=8)
    assert dict(collection.skipped) == {
        "old.WMV": ".wmv files are not read; save it as mp4", "sub.flv": ".flv files are not read; save it as mp4",
        "anim.webp": ".webp files are not read; save it as mp4",
    }  # fmt: skip
    assert "old.WMV: .wmv files are not read" in collection.summary()


def test_a_name_that_is_no_text_is_skipped_with_a_reason_that_can_be_printed(tmp_path):
    path = put_clip(tmp_path / "clips")
    try:
        os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/caf\xe9.mp4")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    put_clip(tmp_path / "clips")
    collection = open_clip_folder(tmp_path / "clips", fps=8)
    assert [clip.name for clip in collection.clips] == ["clip.mp4"]
    assert collection.skipped == (("caf\\udce9.mp4", "its name is not UTF-8; rename it"),)
    collection.summary().encode()


def linked(path, target, is_folder=False):
    try:
        path.symlink_to(target, target_is_directory=is_folder)
    except OSError:
        pytest.skip("links cannot be made here")


def test_the_folder_may_be_a_link_and_links_inside_may_not_lead_out_of_it(tmp_path):
    secret = put_clip(tmp_path / "private", "secret.mp4")
    put_clip(tmp_path / "real", "a.mp4")
    linked(tmp_path / "real" / "again.mp4", tmp_path / "real" / "a.mp4")
    linked(tmp_path / "real" / "out.mp4", secret)
    linked(tmp_path / "real" / "folder", tmp_path / "private", is_folder=True)
    linked(tmp_path / "real" / "gone.mp4", tmp_path / "nowhere.mp4")
    linked(tmp_path / "clips", tmp_path / "real", is_folder=True)
    collection = open_clip_folder(tmp_path / "clips", fps=8, default_caption="")
    assert [clip.name for clip in collection.clips] == ["a.mp4", "again.mp4"]
    assert dict(collection.skipped) == {
        "out.mp4": "a link that leads out of the folder", "gone.mp4": "a link that leads out of the folder",
        "folder": "a link to a folder; it is not followed",
    }  # fmt: skip


def test_captions_behind_links_that_lead_out_are_not_read_and_named(tmp_path):
    folder = tmp_path / "clips"
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        put_clip(folder, name, caption=None)
    (tmp_path / "secret.txt").write_text("password")
    (tmp_path / "list.jsonl").write_text('{"file": "c.mp4", "caption": "password"}')
    (folder / "own.text").write_text("pan left")
    linked(folder / "a.txt", tmp_path / "secret.txt")
    linked(folder / "b.txt", folder / "own.text")
    linked(folder / "captions.jsonl", tmp_path / "list.jsonl")
    collection = open_clip_folder(folder, fps=8, default_caption="still")
    assert [clip.caption for clip in collection.clips] == ["still", "pan left", "still"]
    assert dict(collection.skipped) == dict.fromkeys(
        ("a.txt", "captions.jsonl"), "a link that leads out of the folder"
    )


def test_a_link_in_the_root_is_offered_and_links_further_down_are_not(tmp_path):
    put_clip(tmp_path / "disk", "a.mp4")
    put_clip(tmp_path / "disk" / "sub", "b.mp4")
    root = tmp_path / "input"
    (root / "own").mkdir(parents=True)
    linked(root / "shared", tmp_path / "disk", is_folder=True)
    linked(root / "own" / "trap", tmp_path / "disk", is_folder=True)
    linked(root / "loop", root, is_folder=True)
    assert [name for name in folders_with_videos(root) if not name.startswith("loop")] == ["shared", "shared/sub"]


def put_packets(path, kind, places, count):
    """A motion JPEG video of `count` frames of which only those at `places` are kept, at their own times."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level(number), np.uint8), format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                if number in places:
                    container.mux(packet)
        container.mux(stream.encode())


def test_frames_that_a_recorder_dropped_are_held_and_do_not_make_a_clip_cut_off(tmp_path):
    kept = [*range(0, 10), *range(14, 24)]
    put_packets(tmp_path / "dropped.avi", "avi", kept, 24)
    (clip,) = open_clip_folder(tmp_path, fps=24, default_caption="").clips
    assert whole(clip) == [*range(0, 10), 9, 9, 14, 14, *range(14, 24)]


@pytest.mark.parametrize("kind", ["avi", "mp4"])
def test_a_clip_that_ends_early_in_time_is_cut_off(tmp_path, kind):
    put_packets(tmp_path / f"whole.{kind}", kind, range(24), 24)
    if kind == "mp4":  # its list of frames must stand in front to be read at all
        write_video(tmp_path / "whole.mp4", torch.rand(24, 64, 64, 3), 24, overwrite=True)
    data = (tmp_path / f"whole.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) * 2 // 3])
    collection = open_clip_folder(tmp_path, fps=24, default_caption="")
    assert "cut off" in dict(collection.skipped)[f"cut.{kind}"]
    assert [clip.num_frames for clip in collection.clips] == [24]


def test_pixels_that_are_higher_than_wide_make_the_clip_higher(tmp_path):
    with av.open(str(tmp_path / "tall.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.sample_aspect_ratio = 64, 32, "yuv420p", Fraction(1, 2)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    (clip,) = open_clip_folder(tmp_path, fps=24, default_caption="").clips
    assert (clip.height, clip.width) == (64, 64) and clip.frames([1]).shape == (1, 3, 64, 64)


def test_reading_a_file_looks_at_cancel_packet_by_packet_and_frame_by_frame(tmp_path):
    put_clip(tmp_path / "clips", count=40)
    asked, limit = [], [10**6]

    def check():
        asked.append(1)
        if len(asked) > limit[0]:
            raise KeyboardInterrupt

    (clip,) = open_clip_folder(tmp_path / "clips", fps=8, check=check).clips
    opening = len(asked)
    assert opening >= 40
    for stop in (3, opening - 2):
        asked.clear()
        limit[0] = stop
        with pytest.raises(KeyboardInterrupt):
            open_clip_folder(tmp_path / "clips", fps=8, check=check)
    asked.clear()
    limit[0] = 5
    with pytest.raises(KeyboardInterrupt):
        clip.frames(range(20))


def test_stamps_that_lead_far_away_and_clips_without_end_are_skipped_at_once(tmp_path):
    put_at_times(tmp_path / "jump.mkv", [0, 40, 80, 10**9, 10**9 + 40])
    put_at_times(tmp_path / "long.mkv", [3_600_000 * hour for hour in range(30)])
    put_at_times(tmp_path / "day.mkv", [0, 80_000_000])
    put_clip(tmp_path)
    skipped = dict(open_clip_folder(tmp_path, fps=24, default_caption="").skipped)
    assert skipped["jump.mkv"] == "its time stamps jump by 1e+06 s at frame 3; encode it again"
    assert "lasts 29 hours; up to 24 go; cut it into clips" in skipped["long.mkv"]
    assert "frames at 24 fps; up to 1048576 go; cut it into clips" in skipped["day.mkv"]


@pytest.mark.slow
def test_a_picture_that_claims_to_be_huge_is_refused_before_memory_is_taken_for_it(tmp_path):
    """A GIF of a few kilobytes that would unpack to gigabytes."""
    from PIL import Image

    huge = Image.new("P", (9000, 9000))
    huge.save(tmp_path / "huge.gif", save_all=True, append_images=[huge])
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import conftest\n"
        "from pathlib import Path; import av; from pack.motion.data.sources.video_index import index_video\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: index_video(Path(sys.argv[2]))\n"
        "except Exception as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[3]), str(tmp_path / "huge.gif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reason, megabytes = done.stdout.strip().splitlines()
    assert reason.startswith("9000x9000 px; sides of 16 to 4096 px") and int(megabytes) < 60


@pytest.mark.parametrize("name, codec", [("clip.mp4", b"avc1"), ("clip.avi", b"MJPG")])
def test_a_codec_that_nobody_knows_is_skipped_with_the_way_out(tmp_path, name, codec):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if codec == b"avc1" else "mjpeg", rate=8)
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuv420p" if codec == b"avc1" else "yuvj420p"
        for picture in frames(6):
            pixels = (picture * 255).round().byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    whole_file = path.read_bytes()
    assert codec in whole_file
    path.write_bytes(whole_file.replace(codec, b"zzzz"))
    with pytest.raises(ConfigError, match="codec is not known here; save the clip as H.264 in mp4"):
        open_clip_folder(tmp_path, fps=8, default_caption="")


def test_metadata_that_is_no_text_does_not_stand_in_the_way(tmp_path):
    path = put_clip(tmp_path / "clips")
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xff\xfe\xfdv"))
    assert len(open_clip_folder(tmp_path / "clips", fps=8).clips) == 1


def test_names_and_captions_cannot_write_lines_of_their_own_into_the_summary(tmp_path):
    put_clip(tmp_path / "clips", caption="x" * 100)
    try:
        (tmp_path / "clips" / "a\nskipped 9.wmv").write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes no such name")
    lines = open_clip_folder(tmp_path / "clips", fps=8).summary().splitlines()
    assert "  a skipped 9.wmv: .wmv files are not read; save it as mp4" in lines


def test_clips_at_their_own_times_are_resampled_once_to_the_same_frames_as_at_once(tmp_path):
    folder = tmp_path / "clips"
    put_clip(folder, "even.mp4", 24, fps=24)
    put_at_times(folder / "uneven.mp4", [0, 100, 500, 600, 1000, 1100])
    put_clip(folder, "short.mp4", 3, fps=24)
    (folder / "uneven.txt").write_text("still")
    kept = open_clip_folder(folder, fps=0)
    assert kept.fps == 0 and len(kept) == 3 and "frames at the times of their files, 4.55 to 24 fps" in kept.summary()
    even = next(clip for clip in kept.clips if clip.name == "even.mp4")
    assert whole(even) == list(range(24)) and even.times[1] == pytest.approx(1 / 24)
    for fps in (8, 10):
        once, later = open_clip_folder(folder, fps=fps), kept.at_rate(fps)
        assert later.fingerprint == once.fingerprint and later.fps == once.fps == fps
        assert [(clip.name, clip.num_frames, clip.fingerprint) for clip in later.clips] == [
            (clip.name, clip.num_frames, clip.fingerprint) for clip in once.clips
        ]  # fmt: skip
        assert [whole(clip) for clip in later.clips] == [whole(clip) for clip in once.clips]
        assert dict(later.skipped) == dict(once.skipped) and "short.mp4" in dict(later.skipped)
        assert later.at_rate(3) is later


def put_masks(folder, name="clip.mask.mp4", count=16, height=32, width=48):
    """Frame n is white from the left up to n columns of 16 px."""
    shown = torch.zeros(count, height, width, 3)
    for n in range(count):
        shown[n, :, : 16 * (n % 4)] = 1
    write_video(folder / name, shown, 8.0)


@pytest.mark.parametrize("fps", [8.0, 0.0])
def test_a_video_of_masks_beside_a_clip_is_its_masks_and_no_clip(tmp_path, fps):
    put_clip(tmp_path)
    before = open_clip_folder(tmp_path, fps=fps).clips[0].fingerprint
    put_masks(tmp_path)
    found = open_clip_folder(tmp_path, fps=fps)
    (clip,) = found.clips
    masks = clip.at_rate(8.0).mask_frames([0, 3])
    assert masks.shape == (2, 32, 48) and masks[0].max() < 0.1
    assert masks[1, :, :40].min() > 0.9 and "masks: 1 of 1 clip" in found.summary()
    assert clip.fingerprint != before
    (tmp_path / "clip.mask.mp4").unlink()
    put_masks(tmp_path, height=16, width=32)
    with pytest.raises(ConfigError, match="its masks clip.mask.mp4 have 16 frames of 32x16, the clip 16 .* 48x32"):
        open_clip_folder(tmp_path, fps=fps)


def test_a_clip_that_is_only_called_like_masks_is_a_clip(tmp_path):
    put_clip(tmp_path, "iron.mask.mp4")
    assert [clip.name for clip in open_clip_folder(tmp_path).clips] == ["iron.mask.mp4"]
    assert open_clip_folder(tmp_path).clips[0].masks is None
