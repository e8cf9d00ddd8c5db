"""What tests of training on poses share: both nodes on tiny parts, with their outputs by name."""

from pathlib import Path

import folder_paths
from posed_clips import HEIGHT, WIDTH, pictures, poses

BUILT = ("dataset", "sheet", "summary")
TRAINED = ("model", "lora", "loss", "samples", "report", "path")
SIZE = {"num_frames": 8, "width": WIDTH, "height": HEIGHT}
SMALL = {"preset": "tiny", "steps": 3, "rank": 2, "learning_rate": 1e-2, "batch_size": 1}


def images(count=20):
    """Frames (t, 32, 48, 3) of a figure that walks."""
    return pictures(range(count)).movedim(1, -1)


def built(ours, vae, **more):
    """What Build Pose Dataset makes of twenty frames and their poses."""
    given = {"images": images(), "poses": poses(20).to_frames(), "source_fps": 16.0, "caption": "a square walks"}
    return dict(zip(BUILT, ours["BuildPoseDataset"].execute(vae, **{**given, **SIZE, **more}).args))


def trained(ours, file_prefix, model, dataset, clip, **more):
    """What Train Pose LoRA makes of a MODEL."""
    given = {"file_prefix": file_prefix, **SMALL, **more}
    return dict(zip(TRAINED, ours["TrainPoseLoRA"].execute(model, dataset, clip, **given).args))


def lora_file(name):
    """Where the node writes a LoRA of this name."""
    return Path(folder_paths.get_output_directory()) / "loras" / f"{name}.safetensors"


def listed(ours, name):
    """A LoRA that the node wrote, as Load Motion Adapter gives it from where that looks."""
    folder = Path(folder_paths.models_dir) / "motion_adapters"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(lora_file(name).read_bytes())
    return ours["LoadAdapter"].execute(f"{name}.safetensors").args[0]
