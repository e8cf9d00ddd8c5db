"""What tests of learning one clip's motion share: the three nodes on tiny parts, with their outputs by name."""

from pathlib import Path

import folder_paths
import torch

PREPARED = ("motion_clip", "frames", "caption", "plan")
CLASSIFIED = ("head_map", "picture", "text", "report")
TRAINED = ("model", "lora", "loss", "samples", "report", "path", "head_map")
SMALL = {"preset": "tiny", "spatial_steps": 2, "temporal_steps": 2, "rank": 2, "learning_rate": 1e-2, "batch_size": 1}


def moving(count=20, seed=2):
    """Frames (t, 32, 48, 3) that brighten."""
    picture = torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(seed))
    return torch.stack([picture * n / count for n in range(count)])


def prepared(ours, vae, **more):
    """What Prepare Motion Clip makes of five of nine frames."""
    given = {"images": moving(), "source_fps": 16.0, "num_frames": 9, "sparse_frames": 5, "resolution": 32,
             "caption": "a light"}  # fmt: skip
    return dict(zip(PREPARED, ours["PrepareMotionClip"].execute(vae, **{**given, **more}).args))


def classified(ours, model, clip, positive, **more):
    """What Classify Attention Heads makes of a MODEL."""
    return dict(zip(CLASSIFIED, ours["ClassifyHeads"].execute(model, clip, positive, **more).args))


def trained(ours, file_prefix, model, clip, positive, **more):
    """What Train Motion LoRA makes of a MODEL, half of whose heads are said to be temporal."""
    given = {"file_prefix": file_prefix, **SMALL, **more}
    if "head_map" not in given:
        given["head_map"] = classified(ours, model, clip, positive, target_fraction=0.5)["head_map"]
    return dict(zip(TRAINED, ours["TrainMotionLoRA"].execute(model, clip, positive, **given).args))


def lora_file(name):
    """Where the node writes a LoRA of this name."""
    return Path(folder_paths.get_output_directory()) / "loras" / f"{name}.safetensors"
