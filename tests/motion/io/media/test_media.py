"""Pictures in and videos out: odd kinds of picture by stated rules, broken ones refused, outputs never overwritten."""

import os
import struct
import weakref
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.files.names import check_output_name
from pack.motion.io.media import byte_frames
from pack.motion.io.media import video as media
from pack.motion.io.media.video import read_photo, read_video, write_video
from PIL import Image


def gradient(height=24, width=32):
    """uint8 picture whose every pixel is different."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((x * 7 % 256, y * 9 % 256, (x + y) * 3 % 256), axis=-1).astype(np.uint8)


def clip(frames=5, height=24, width=32):
    """A smooth moving clip (t, h, w, 3)."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [0.5 + 0.4 * np.sin((x + 2 * t) / 6 + c) * np.cos(y / 7) for c in range(3)]
    return torch.from_numpy(np.stack(waves, axis=-1)).float()


def saved(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def same(photo, array):
    return torch.equal(photo, torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width, height):
    """A PNG of a few bytes that claims any size."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_colour_picture_is_read_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    photo = read_photo(saved(tmp_path / f"a.{suffix}", gradient(), **options))
    assert photo.shape == (3, 24, 32) and photo.dtype == torch.float32 and photo.is_contiguous()
    assert same(photo, gradient())


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turn_is_applied(tmp_path, turn):
    upright = gradient()
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    path = saved(tmp_path / "a.png", np.ascontiguousarray(undo[turn](upright)), exif=exif)
    assert same(read_photo(path), upright)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = gradient()[..., 0]
    assert same(read_photo(saved(tmp_path / "a.png", grey)), np.repeat(grey[..., None], 3, -1))


def test_sixteen_bit_grey_keeps_its_depth(tmp_path):
    values = (np.arange(24 * 32).reshape(24, 32) * 80).astype(np.uint16)
    photo = read_photo(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert torch.equal(photo[0], torch.from_numpy(values.astype(np.float32) / 65535))
    assert torch.equal(photo[0], photo[2])


def test_float_grey_is_taken_in_range_and_refused_beyond(tmp_path):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert torch.equal(read_photo(saved(tmp_path / "a.tiff", values))[1], torch.from_numpy(values))
    for bad in (values * 2, values - 1, values * np.nan):
        with pytest.raises(ShapeError, match="beyond white or black"):
            read_photo(saved(tmp_path / "b.tiff", bad.astype(np.float32)))


def test_transparency_lies_over_white_or_the_stated_colour(tmp_path):
    values = np.dstack((gradient(), np.full((24, 32), 51, np.uint8)))
    path = saved(tmp_path / "a.png", values)
    truth = torch.from_numpy(gradient().astype(np.float64) / 255).permute(2, 0, 1)
    assert (read_photo(path) - (truth * 0.2 + 0.8)).abs().max() < 1e-6
    assert (read_photo(path, background=(0, 0, 0)) - truth * 0.2).abs().max() < 1e-6


def test_palette_with_transparency_and_grey_with_alpha_are_read(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((0, 0), 0)
    photo = read_photo(saved(tmp_path / "a.png", palette, transparency=0))
    assert photo[:, 0, 0].tolist() == [1, 1, 1] and photo[:, 1, 1].tolist() == [1, 0, 0]
    photo = read_photo(saved(tmp_path / "b.png", Image.new("LA", (2, 2), (0, 0))))
    assert (photo == 1).all()


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    suffix = "png" if mode == "1" else "tiff"
    photo = read_photo(saved(tmp_path / f"a.{suffix}", Image.new(mode, (6, 4))))
    assert photo.shape == (3, 4, 6) and 0 <= photo.min() and photo.max() <= 1


def test_one_pixel_picture_is_read(tmp_path):
    assert read_photo(saved(tmp_path / "a.png", gradient(1, 1))).shape == (3, 1, 1)


@pytest.mark.parametrize(("width", "height"), [(5000, 10), (16384, 16), (4097, 1), (60000, 60000), (2**31 - 1, 1)])
def test_picture_over_the_limit_is_refused_with_its_size_before_decoding(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(width, height))
    with pytest.raises(ShapeError, match=r"4096 px") as caught:
        read_photo(path)
    assert "bomb.png" in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_truncated_picture_is_refused(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", gradient(64, 64))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShapeError, match=f"a.{suffix}: .*(damaged or cut off|not a picture)"):
        read_photo(path)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"


@pytest.mark.parametrize("data", [b"", b"hello", b"<html>", EPS, b"\0" * 99], ids=lambda data: f"{len(data)} bytes")
def test_what_is_not_a_picture_is_refused_and_kinds_are_listed(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ShapeError, match="not a picture; PNG, JPEG"):
        read_photo(path)


def test_missing_photo_folder_and_nul_are_refused_by_name(tmp_path):
    for path, words in ((tmp_path / "none.png", "No such file"), (tmp_path, "directory"), ("a\0b.png", "NUL")):
        with pytest.raises(ConfigError, match=words):
            read_photo(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff"])
def test_flipped_bytes_give_a_picture_or_our_error_and_nothing_else(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", gradient())
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    assert read_photo(path).ndim == 3
    num_refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in generator.integers(len(data), size=4):
            data[place] = generator.integers(256)
        path.write_bytes(data)
        try:
            photo = read_photo(path)
        except (ShapeError, ConfigError):
            num_refused += 1
            continue
        assert torch.isfinite(photo).all() and photo.ndim == 3
    print(suffix, num_refused)
    assert num_refused > 0


def test_mp4_reads_back_close_with_its_frame_count_size_and_rate(tmp_path):
    frames = clip(7)
    written = write_video(tmp_path / "a.mp4", frames, 8)
    back, fps = read_video(written.path)
    assert written == media.WrittenVideo(tmp_path / "a.mp4", 7, 24, 32, False)
    assert back.shape == frames.shape and fps == 8
    assert (back - frames).abs().mean() < 0.02


@pytest.mark.parametrize("colour", [(0.8, 0.1, 0.3), (0.05, 0.6, 0.2), (0.9, 0.9, 0.1), (0, 0, 0), (1, 1, 1)])
def test_mp4_keeps_flat_colours(tmp_path, colour):
    frames = torch.tensor(colour, dtype=torch.float32).expand(2, 32, 32, 3)
    back, _ = read_video(write_video(tmp_path / "a.mp4", frames, 8).path)
    assert (back - frames).abs().max() < 0.015


def test_mp4_of_odd_size_is_padded_to_even_and_says_so(tmp_path):
    frames = clip(3, 23, 31)
    written = write_video(tmp_path / "a.mp4", frames, 8)
    assert (written.height, written.width, written.is_padded) == (24, 32, True)
    back, _ = read_video(written.path)
    assert back.shape == (3, 24, 32, 3)
    assert (back[:, :23, :31] - frames).abs().mean() < 0.02 and (back[:, 23] - back[:, 22]).abs().mean() < 0.05


def test_one_pixel_and_one_frame_can_be_written(tmp_path):
    written = write_video(tmp_path / "a.mp4", torch.ones(1, 1, 1, 3), 8)
    assert (written.height, written.width, written.is_padded) == (2, 2, True)
    assert read_video(written.path)[0].shape == (1, 2, 2, 3)


def test_png_frames_are_exact_to_eight_bits_and_keep_odd_sizes(tmp_path):
    frames = (torch.from_numpy(gradient(5, 7)).float() / 255).expand(3, 5, 7, 3)
    written = write_video(tmp_path / "frames", frames, 8)
    assert sorted(os.listdir(written.path)) == ["frame_00000.png", "frame_00001.png", "frame_00002.png"]
    assert torch.equal(read_video(written.path)[0], frames) and not written.is_padded


@pytest.mark.parametrize(("suffix", "limit"), [("webp", 0.03), ("gif", 0.06)])
def test_animated_pictures_read_back_close_with_count_and_rate(tmp_path, suffix, limit):
    frames = clip(6, 25, 33)
    written = write_video(tmp_path / f"a.{suffix}", frames, 10)
    back, fps = read_video(written.path)
    assert back.shape == frames.shape and fps == 10 and not written.is_padded
    assert (back - frames).abs().mean() < limit


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webp", "clip.gif", "clip"])
def test_existing_output_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    written = [write_video(tmp_path / name, clip(2), 8).path.name for _ in range(2)]
    stem, suffix = os.path.splitext(name)
    assert written == [f"{stem}_2{suffix}", f"{stem}_3{suffix}"] and (tmp_path / name).read_text() == "mine"


def test_overwrite_replaces_a_file_but_never_a_folder(tmp_path):
    (tmp_path / "a.gif").write_text("old")
    assert write_video(tmp_path / "a.gif", clip(2), 8, overwrite=True).path == tmp_path / "a.gif"
    assert read_video(tmp_path / "a.gif")[0].shape[0] == 2 and os.listdir(tmp_path) == ["a.gif"]
    assert write_video(tmp_path / "frames", clip(2), 8, overwrite=True).path == tmp_path / "frames"
    with pytest.raises(ConfigError, match="never overwritten"):
        write_video(tmp_path / "frames", clip(2), 8, overwrite=True)


@pytest.mark.parametrize("name", ["🎞️ étude 日本.mp4", "a b.gif", "x" * 236 + ".mp4", "-o.gif", "..a.gif", ".a.gif"])
def test_emoji_spaces_and_long_names_round_trip(tmp_path, name):
    assert write_video(tmp_path / name, clip(2), 8).path == tmp_path / name
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "names no file"),
        ("..", "names no file"),
        ("a/..", "names no file"),
        ("a\0.mp4", "control character"),
        ("a\n.mp4", "control character"),
        ("clip.mp4.", "ends with a dot"),
        ("clip.mp4 ", "space"),
        (" clip.mp4", "space"),
        ("x" * 300 + ".mp4", "304 bytes long; up to 240"),
        ("🎞" * 70 + ".mp4", "284 bytes long"),
        ("CON.mp4", "reserved"),
        ("com1.gif", "reserved"),
        ("CON .mp4", "reserved"),
        ("nul  .tar.mp4", "reserved"),
        ("conin$.mp4", "reserved"),
        ("CONOUT$", "reserved"),
        ("com¹.mp4", "reserved"),
        ("LPT³ .gif", "reserved"),
        ("nul:x.mp4", "holds :, which Windows forbids"),
        ("a<b>.mp4", "holds <, which"),
        ("a|b?.mp4", r"holds \|, which"),
        ("a\\b.mp4", r"holds \\, which"),
        ('say "hi".gif', 'holds ", which'),
        ("*", r"holds \*, which"),
        ("a\ud800.mp4", "half a character"),
        ("a\udcff.mp4", "half a character"),
        ("clip.avi", "ends in '.avi'"),
        ("clip.mp4.exe", "ends in '.exe'"),
    ],
)
def test_output_name_that_cannot_be_is_refused_and_nothing_written(tmp_path, name, words):
    with pytest.raises(ConfigError, match=words):
        write_video(f"{tmp_path}/{name}" if name else "", clip(1), 8)
    assert os.listdir(tmp_path) == []


def test_folders_before_the_name_are_the_callers_own(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / ".." / "a.gif", clip(2), 8)
    assert (tmp_path / "a.gif").exists() and check_output_name("../a.mp4") == Path("../a.mp4")


def test_missing_output_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist; create it first"):
        write_video(tmp_path / "no" / "a.mp4", clip(1), 8)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(0, 4, 4, 3), torch.zeros(1, 0, 4, 3), torch.zeros(4, 4, 3), torch.zeros(1, 4, 4, 4),
     torch.zeros(1, 4, 4, 3, dtype=torch.int16), torch.zeros(1, 4, 5000, 3)],
    ids=lambda frames: str(tuple(frames.shape)),
)  # fmt: skip
def test_frames_of_a_wrong_shape_are_refused(tmp_path, frames):
    with pytest.raises(ShapeError, match="no frames|floats .*h, w, 3.* are needed|up to 4096 px"):
        write_video(tmp_path / "a.mp4", frames, 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_nan_frame_is_named_and_leaves_nothing_behind(tmp_path, name):
    frames = clip(4)
    frames[2, 0, 0] = float("nan")
    with pytest.raises(ShapeError, match="frame 2 holds NaN"):
        write_video(tmp_path / name, frames, 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1000])
def test_impossible_frame_rate_is_refused(tmp_path, fps):
    with pytest.raises(ConfigError, match="fps is"):
        write_video(tmp_path / "a.mp4", clip(1), fps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_frames_of_any_float_type_are_written_and_left_alone(tmp_path, dtype):
    frames = (clip(2) * 2 - 0.5).to(dtype)  # goes beyond [0, 1]: clamped in the file only
    before = frames.clone()
    back, _ = read_video(write_video(tmp_path / "frames", frames, 8).path)
    assert torch.equal(frames, before)
    assert (back - frames.float().clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_full_disk_while_encoding_keeps_the_old_video_and_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.mp4"
    target.write_text("old")

    def fail(temp, frames, fps):
        temp.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    for name in ("_encode_mp4", "_write_pngs"):
        monkeypatch.setattr(media, name, fail)
    for options in ({}, {"overwrite": True}):
        with pytest.raises(CheckpointError, match="No space left on device"):
            write_video(target, clip(1), 8, **options)
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.mp4"]


EVERY_KIND = pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif", "a"])


def bytes_of(path):
    return [file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


@EVERY_KIND
def test_frames_one_by_one_give_the_file_that_their_tensor_gives(tmp_path, name):
    frames, counts = clip(6, 25, 33), []
    whole = write_video(tmp_path / name, frames, 8)
    single = write_video(tmp_path / name, (frame for frame in frames), 8, on_frame=counts.append)
    rounded = write_video(tmp_path / name, ((frame * 255).round().to(torch.uint8) for frame in frames), 8)
    assert bytes_of(rounded.path) == bytes_of(single.path) == bytes_of(whole.path) and counts == [1, 2, 3, 4, 5, 6]
    assert single == replace(whole, path=single.path) and single.num_frames == 6


@EVERY_KIND
def test_a_frame_is_gone_before_the_next_one_is_made(tmp_path, name):
    made = []

    def frames():
        for frame in clip(5):
            assert not any(earlier() for earlier in made)
            made.append(weakref.ref(fresh := frame.clone()))
            del frame
            yield fresh
            del fresh

    assert write_video(tmp_path / name, frames(), 8).num_frames == 5


@EVERY_KIND
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("place", ["frames", "on_frame"])
def test_cancel_or_error_amid_the_frames_passes_and_leaves_the_old_file_alone(tmp_path, name, stop, place):
    def frames():
        yield from clip(3)
        if place == "frames":
            raise stop("here")

    def on_frame(count):
        if place == "on_frame" and count == 2:
            raise stop("here")

    (tmp_path / "a.mp4").write_text("old")
    for overwrite in (False, True) if name != "a" else (False,):
        with pytest.raises(stop, match="here"):
            write_video(tmp_path / name, frames(), 8, overwrite=overwrite, on_frame=on_frame)
    assert os.listdir(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_text() == "old"


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "no frames"),
        ([torch.zeros(4, 4, 3), torch.zeros(4, 6, 3)], "frame 1 is 6x4 px and the first one 4x4"),
        ([torch.zeros(4, 4, 3), torch.zeros(4, 4)], r"frame 1 is \(4, 4\)"),
        ([torch.zeros(4, 4, 3, dtype=torch.int8)], "frame 0 is .*int8"),
        ([np.zeros((4, 4, 3), np.float32)], "frame 0 is a ndarray"),
        ([torch.zeros(4, 4, 3), torch.full((4, 4, 3), float("inf"))], "frame 1 holds NaN or Inf"),
    ],
)
@EVERY_KIND
def test_frame_that_cannot_be_is_named_and_leaves_nothing_behind(tmp_path, name, frames, words):
    with pytest.raises(ShapeError, match=words):
        write_video(tmp_path / name, iter(frames), 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "fits"), [("a.webp", 4), ("a.gif", 16)])
def test_formats_held_whole_are_refused_above_the_limit_with_a_count_that_fits(tmp_path, monkeypatch, name, fits):
    monkeypatch.setattr(byte_frames, "MAX_HELD_BYTES", 16 * 24 * 32)
    assert write_video(tmp_path / name, clip(fits), 8).num_frames == fits
    asked = []
    for frames in (clip(fits + 3), iter(clip(fits + 3))):  # the length is known at once, or found on the way
        with pytest.raises(ShapeError, match=f"32x24 px need .* or {fits} frames"):
            write_video(tmp_path / name, frames, 8, on_frame=asked.append)
    assert asked == list(range(1, fits + 1)) and os.listdir(tmp_path) == [name]
    assert write_video(tmp_path / "b.mp4", clip(fits + 3), 8).num_frames == fits + 3


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "settings"), [
    (1080, 1920, [b"rc_lookahead=40", b"bframes=3", b"subme=7", b"crf=16.0"]),
    (1090, 1921, [b"mbtree=0", b"bframes=0", b"slices=4", b"crf=16.0"]),
])  # fmt: skip
def test_mp4_above_full_hd_is_encoded_without_holding_frames_and_looks_as_good(tmp_path, height, width, settings):
    frames = clip(3, height, width)[..., :1].expand(-1, -1, -1, 3)  # grey: 4:2:0 costs nothing
    written = write_video(tmp_path / "a.mp4", frames, 8)
    data = written.path.read_bytes()
    assert all(words in data for words in settings)
    back = read_video(written.path)[0][:, :height, :width]
    assert back.shape == frames.shape and (back - frames).square().mean() < 4e-5  # 44 dB


def test_what_is_not_a_video_is_refused(tmp_path):
    for name in ("a.mp4", "a.gif"):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(ShapeError, match="not a video"):
            read_video(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShapeError, match="no frames"):
        read_video(tmp_path / "empty")
