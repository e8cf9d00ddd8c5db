"""The list of nodes handed to the host. Models and trainers are imported later, when a node runs."""

import importlib

from comfy_api.latest import ComfyExtension, io

from ..kernels.foreign_text import safe_logger

_log = safe_logger("motionblocks.nodes")
FAMILIES = {
    "loaders": ("LoadModel", "LoadBuiltin", "SamplePhoto"),
    "conditioning": ("ImageToVideo", "EmptyLatent"),
    "text": ("LoadTextEncoder", "EncodePrompts", "SetInstruction"),
    "sampling": ("FlowScheduler", "FlowDPM2M"),
    "noise": ("DCTInit",),
    "adapters": ("LoadAdapter", "AddToStack", "CombineAdapters", "ApplyAdapters"),
    "adapter_sampling": ("AdapterNoise", "MatchFirstFrame", "EmptyPrompt"),
    "measuring": ("MeasureDynamics",),
    "comparing": ("MeasureQuality", "CompareVideos"),
    "datasets": ("LoadClips", "GenerateClips", "ClipsFromImages", "MakeCameraClips"),
    "prompt_files": ("SavePrompts",),
    "training": ("TrainMotionModel",),
    "adapter_training": ("TrainAdapter",),
    "motion_transfer": ("PrepareMotionClip", "ClassifyHeads", "TrainMotionLoRA"),
    "motion_measuring": ("MeasureMotionTransfer",),
    "frame_places": ("RopeTimeScale",),
    "inflating": ("InflateModel",),
    "vaes": ("LoadVAE",),
    "pose": ("LoadPoses", "CleanPoses", "SavePoses", "PoseReport"),
    "pose_detecting": ("ExtractPoses",),
    "pose_drawing": ("RetargetPoses", "DrawPoses"),
    "pose_video": ("PoseVideo", "DecodePoseVideo"),
    "pose_training": ("BuildPoseDataset", "TrainPoseLoRA"),
}


class MotionBlocksExtension(ComfyExtension):
    """One family of nodes a file; a family that this host cannot carry is named in the log and left out."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = []
        for family, names in FAMILIES.items():
            try:
                module = importlib.import_module(f".{family}", __package__)
                nodes += [getattr(module, name) for name in names]
            except (ImportError, AttributeError) as error:
                _log.warning("MotionBlocks: nodes %s are missing on this host: %s", ", ".join(names), error)
        return nodes
