"""Decoded frames become RGB by their own tags: every matrix, range and layout against H.273 in float64."""

import av
import numpy as np
import pytest
import torch
from pack.motion.io.media.pictures import rgb_picture
from pack.motion.io.media.video import read_video, write_video

BARS = np.array([(220, 30, 40), (30, 160, 60), (30, 60, 200), (230, 200, 40)], dtype=np.float64)
KR_KB = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
         9: (0.2627, 0.0593)}  # fmt: skip
LAYOUTS = ("yuv444p", "yuv420p", "yuv422p", "nv12", "yuv420p10le", "yuyv422", "yuva420p")


def encoded(matrix, is_full, size=(64, 128)):
    """Bars as Y, Cb, Cr (3, h, w), by the formulas of H.273."""
    kr, kb = KR_KB[matrix]
    red, green, blue = BARS.T
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = np.stack((luma, (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))))
    scale = np.array([1, 1, 1] if is_full else [219 / 255, 224 / 255, 224 / 255])
    values = planes * scale[:, None] + np.array([0 if is_full else 16, 128, 128])[:, None]
    return np.repeat(values.round().astype(np.uint8), size[1] // 4, axis=1)[:, None].repeat(size[0], axis=1)


def frame_of(planes, layout, matrix, is_full):
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv444p")
    frame = frame if layout == "yuv444p" else frame.reformat(format=layout)
    frame.colorspace, frame.color_range = matrix, 2 if is_full else 1
    return frame


def bars_of(picture):
    """Median colour of the four bars (4, 3)."""
    height, width, _ = picture.shape
    middles = [width * (2 * index + 1) // 8 for index in range(4)]
    return np.stack([np.median(picture[height // 3 : -height // 3, at - 4 : at + 4], axis=(0, 1)) for at in middles])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_full", [False, True])
def test_every_matrix_range_and_layout_gives_its_colours(layout, is_full):
    for matrix in KR_KB:
        picture = rgb_picture(frame_of(encoded(matrix, is_full), layout, matrix, is_full), 64, 128)
        assert np.abs(bars_of(picture) - BARS).max() <= 2, (matrix, bars_of(picture))


def test_full_range_by_name_is_full_range():
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(encoded(6, True)), format="yuvj444p")
    for kind in ("yuvj444p", "yuvj420p"):
        again = frame.reformat(format=kind)
        again.colorspace = 6
        assert np.abs(bars_of(rgb_picture(again, 64, 128)) - BARS).max() <= 2, kind


@pytest.mark.parametrize("size, matrix", [((720, 1280), 1), ((480, 1280), 1), ((1080, 608), 1), ((576, 720), 6),
                                          ((64, 128), 6)])  # fmt: skip
def test_untagged_frames_are_bt709_from_hd_on_and_bt601_below(size, matrix):
    frame = frame_of(encoded(matrix, False, size), "yuv420p", 2, False)
    assert np.abs(bars_of(rgb_picture(frame, *size)) - BARS).max() <= 2


@pytest.mark.parametrize("layout", ["rgba", "bgra", "yuva444p", "gbrap", "rgba64le"])
def test_transparent_pixels_are_white_whatever_they_hide(layout):
    pixels = np.full((32, 48, 4), (255, 0, 255, 0), np.uint8)
    pixels[8:24, 8:40] = (0, 200, 0, 255)
    pixels[12:20, 20:28] = (0, 200, 0, 128)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
    if layout != "rgba":
        frame = frame.reformat(format=layout)
    picture = rgb_picture(frame, 32, 48).astype(int)
    assert np.abs(picture[2, 2] - 255).max() <= 1
    assert np.abs(picture[10, 12] - (0, 200, 0)).max() <= 3
    assert np.abs(picture[16, 24] - (127, 227, 127)).max() <= 4
    assert rgb_picture(av.VideoFrame.from_ndarray(pixels, format="rgba"), 16, 24).min(axis=2).max() == 255


@pytest.mark.parametrize("layout", ["gray", "gray10le", "rgb24", "bgr24", "gbrp", "rgb48le", "ya8"])
def test_grey_and_rgb_keep_their_values(layout):
    frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 100, np.uint8), format="rgb24").reformat(format=layout)
    assert np.abs(rgb_picture(frame, 32, 48).astype(int) - 100).max() <= 1


def test_frames_of_another_size_are_resized():
    picture = rgb_picture(frame_of(encoded(1, False), "yuv420p", 1, False), 32, 256)
    assert picture.shape == (32, 256, 3) and np.abs(bars_of(picture) - BARS).max() <= 2


def test_what_we_write_is_tagged_bt709_and_read_back_in_its_colours(tmp_path):
    picture = np.repeat(np.repeat(BARS, 64, axis=0)[None], 128, axis=0)
    frames = torch.from_numpy(picture).float().div(255).expand(3, -1, -1, -1)
    written = write_video(tmp_path / "a.mp4", frames, 8)
    with av.open(str(written.path)) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
        luma = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)[:, : frame.width]
    truth = encoded(1, False, (128, 256))[0]
    assert np.abs(np.median(luma.reshape(128, 4, 64), axis=(0, 2)) - truth[0, 32::64]).max() <= 1
    back, _ = read_video(written.path)
    assert np.abs(bars_of(back[1].numpy() * 255) - BARS).max() <= 3
