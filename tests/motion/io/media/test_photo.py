"""One photo, whatever the file: animations refused, transparency by value, sides and memory settled before decoding."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.io.media.photo import read_photo
from PIL import Image

TESTS = Path(__file__).resolve().parents[3]
COLOURS = ("red", "lime", "blue")


def png(width, height, bits, kind, rows, transparent):
    """A PNG from raw rows, each with its filter byte; kind: 0 grey, 2 RGB. transparent: values of its tRNS chunk."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)),
              (b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)), (b"IDAT", zlib.compress(rows)),
              (b"IEND", b""))  # fmt: skip
    made = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_animations_and_pages_are_refused_with_the_way_out(tmp_path, suffix):
    pictures = [Image.new("RGB", (8, 6), colour) for colour in COLOURS]
    path = tmp_path / f"a.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    with pytest.raises(ShapeError, match=rf"a.{suffix}: holds several pictures, .* save the one you want as PNG"):
        read_photo(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_of_one_frame_is_a_photo(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 6), "red").save(path, save_all=True, append_images=[], lossless=True)
    assert read_photo(path)[:, 0, 0].tolist() == [1, 0, 0]


def test_a_small_version_on_a_second_page_does_not_make_several_photos(tmp_path):
    Image.new("RGB", (8, 6), "red").save(
        tmp_path / "a.tiff", save_all=True, append_images=[Image.new("RGB", (4, 3), "lime")]
    )
    photo = read_photo(tmp_path / "a.tiff")
    assert photo.shape == (3, 6, 8) and photo[:, 0, 0].tolist() == [1, 0, 0]


def test_the_second_picture_of_a_phones_jpeg_does_not_make_several_photos(tmp_path):
    pictures = [Image.new("RGB", (16, 16), colour) for colour in COLOURS]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:2], quality=95)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.shape == (3, 16, 16) and photo[0].min() > 0.9 and photo[1:].max() < 0.1


def test_sixteen_bit_grey_shows_white_where_it_is_transparent():
    photo = read_photo(TESTS / "field" / "grey16_transparent.png")
    assert (photo * 255 == 255).all()


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.0, 0.5, 1.0)])
@pytest.mark.parametrize(("bits", "rows", "transparent", "levels"), [
    (16, b"\0" + struct.pack(">3H", 0x1234, 0x1235, 0xFFFF), 0x1234, (None, 0x1235 / 65535, 1.0)),
    (8, b"\0\5\6\xff", 5, (None, 6 / 255, 1.0)),
    (4, b"\0\x5a\xf0", 5, (None, 170 / 255, 1.0)),
    (2, b"\0\x1b", 1, (0.0, None, 170 / 255)),
    (1, b"\0\x40", 1, (0.0, None, 0.0)),
    (1, b"\0\x40", 0, (None, 1.0, None)),
])  # fmt: skip
def test_the_transparent_grey_of_a_png_shows_the_background_at_every_depth(
    tmp_path, bits, rows, transparent, levels, background
):
    (tmp_path / "a.png").write_bytes(png(3, 1, bits, 0, rows, [transparent]))
    photo = read_photo(tmp_path / "a.png", background=background)
    for place, level in enumerate(levels):
        truth = background if level is None else (level,) * 3
        assert photo[:, 0, place].tolist() == pytest.approx(truth, abs=1e-6)


def test_a_transparent_colour_of_16_bits_is_refused_since_8_do_not_tell_it(tmp_path):
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1235, 0x5678, 0x9ABC)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, rows, (0x1234, 0x5678, 0x9ABC)))
    with pytest.raises(ShapeError, match="a.png: 16 bits a channel with one transparent colour; save it with 8 bits"):
        read_photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", (1, 2, 3)))
    assert (read_photo(tmp_path / "b.png")[:, 0, 0] == 1).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "I;16"])
def test_photos_higher_than_a_band_are_read_row_for_row(tmp_path, mode):
    shade = np.linspace(0, 255, 600 * 5).reshape(600, 5)
    grey = Image.fromarray(shade.astype(np.uint8))
    picture = Image.fromarray((shade * 257).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(grey)
    picture.save(tmp_path / "a.png")
    depth = (shade * 257).astype(np.uint16) / 65535 if mode == "I;16" else shade.astype(np.uint8) / 255
    truth = depth * depth + 1 - depth if mode in ("RGBA", "LA") else depth
    assert (read_photo(tmp_path / "a.png") - torch.from_numpy(truth)).abs().max() < 1e-6


CHILD = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
from pack.motion.errors import ShapeError
from pack.motion.io.media.photo import read_photo
from PIL import Image
Image.init()

def peak():  # of this process alone; getrusage also knows its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
try:
    said = str(tuple(read_photo(sys.argv[2]).shape))
except ShapeError as error:
    said = str(error)
print((peak() - before) // 1024, said)
"""


def memory_of(path):
    """Megabytes that reading a photo takes in a fresh process, and what it gives."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD, str(TESTS), str(path)], capture_output=True,
                          text=True, check=True)  # fmt: skip
    megabytes, said = done.stdout.split(" ", 1)
    return int(megabytes), said


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_sides_are_settled_before_anything_is_decoded(tmp_path, suffix):
    options = {"webp": {"lossless": True, "method": 0}, "tiff": {"compression": "tiff_lzw"}}.get(suffix, {})
    Image.new("L", (9000, 9000)).save(tmp_path / f"a.{suffix}", **options)
    megabytes, said = memory_of(tmp_path / f"a.{suffix}")
    assert megabytes < 30 and "9000x9000 px; sides go up to 4096 px" in said


@pytest.mark.slow
def test_a_gif_whose_picture_is_larger_than_its_screen_is_refused_before_it_is_decoded(tmp_path):
    stored = io.BytesIO()
    Image.new("L", (9000, 9000)).save(stored, "GIF")
    data = bytearray(stored.getvalue())
    data[6:10] = struct.pack("<HH", 8, 8)
    (tmp_path / "a.gif").write_bytes(data)
    megabytes, said = memory_of(tmp_path / "a.gif")
    assert megabytes < 30 and "9000x9000 px" in said


@pytest.mark.slow
def test_the_largest_photo_takes_its_own_memory_and_little_more(tmp_path):
    """4096 x 4096 floats in three channels are 192 MiB, Pillow's own bytes 64."""
    Image.new("RGBA", (4096, 4096), (255, 0, 0, 128)).save(tmp_path / "a.png", compress_level=1)
    megabytes, said = memory_of(tmp_path / "a.png")
    assert megabytes < 192 + 64 + 64 and "(3, 4096, 4096)" in said
