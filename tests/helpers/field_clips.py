"""What comes of the small clips in tests/field, as plain values. Run as a script it prints them, for any PyAV.

Grey level of frame n is 16 + 8n where a frame number is meant.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

FIELD = Path(__file__).resolve().parents[1] / "field"
BARS = ((220, 30, 40), (30, 160, 60), (30, 60, 200), (230, 200, 40))
# File -> what is right. The last depends on PyAV: below 17 it would end the process, and is refused.
RIGHT = {
    "mp4_trimmed_by_edit_list.mp4": {"numbers": list(range(14, 22))},
    "avi_h264_b_frames.avi": {"numbers": list(range(24)), "noted": True},
    "mirrored_hflip.mp4": {"is_truth": True},
    "stamps_jump_to_epoch.webm": {"skipped": "time stamps jump"},
    "cover_picture_first.mkv": {"frames": 24},
    "anamorphic_720x576_16x9.mp4": {"size": [1024, 576]},
    "alpha_hidden_colour.mov": {"hidden": [255, 255, 255]},
    "bt709_tagged_colours.mp4": {"is_near": True},
    "mpeg_ps_named.mp4": {"frames": 24, "skipped": "MPEG program stream"},
}


def seen(name, right):
    """What the reader makes of a file, in the words of RIGHT."""
    from pack.motion.data.sources.folder import open_clip_folder
    from pack.motion.errors import ConfigError

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(FIELD / name, folder)
        try:
            collection = open_clip_folder(folder, fps=24, default_caption="")
        except ConfigError as error:
            return {"skipped": str(error)}
        (clip,) = collection.clips
        pictures = (clip.frames(range(clip.num_frames)) * 255).numpy()
        values = {
            "frames": lambda: clip.num_frames,
            "size": lambda: [clip.width, clip.height],
            "numbers": lambda: [round((float(picture.mean()) - 16) / 8) for picture in pictures],
            "noted": lambda: "time stamps do not rise" in collection.summary(),
            "is_truth": lambda: mean_error(pictures[0], true_picture()) <= 4,
            "hidden": lambda: [int(value) for value in pictures[0, :, 0, 0]],
            "is_near": lambda: largest_error(bars(pictures[3]), np.array(BARS).T) <= 4,
        }
        return {key: values[key]() for key in right if key in values}


def true_picture():
    from PIL import Image

    return np.asarray(Image.open(FIELD / "mirrored_hflip.truth.png").convert("RGB"), np.float32).transpose(2, 0, 1)


def bars(picture):
    """Median colour of four vertical bars (3, 4)."""
    width = picture.shape[2]
    middles = [width * (2 * index + 1) // 8 for index in range(4)]
    return np.stack([np.median(picture[:, 200:500, at - 40 : at + 40], axis=(1, 2)) for at in middles], axis=1)


def mean_error(found, truth):
    return float(np.abs(found - truth).mean())


def largest_error(found, truth):
    return float(np.abs(found - truth).max())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest  # noqa: F401  (mounts the pack)

    print(json.dumps({name: seen(name, right) for name, right in RIGHT.items()}))
