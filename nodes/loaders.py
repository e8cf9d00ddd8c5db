"""Nodes that bring models and sample photos into a graph."""

from pathlib import Path

from comfy_api.latest import io, ui

from .host import checks, devices, folders
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/loaders"
KERNELS_TOOLTIP = (
    "Which backend of the fast operators runs. auto: Triton kernels where this machine can run them (tried once, see "
    "the console), else torch. torch: never Triton. triton: Triton, or an error that says why not."
)
ASSETS = Path(__file__).resolve().parents[1] / "assets"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def kernels_input():
    """The widget both loaders end with; optional, so that prompts queued before it existed still run."""
    from ..kernels.backend_choice import KERNELS

    return inp(
        io.Combo.Input, "kernels", options=list(KERNELS), default="auto", optional=True, tooltip=KERNELS_TOOLTIP,
        advanced=True,
    )  # fmt: skip


def chosen_kernels(kernels: str) -> str:
    from ..kernels.backend_choice import KERNELS

    return checks.choose("kernels", kernels, KERNELS)


def sample_photos() -> list[str]:
    """Names of the photos that come with the pack."""
    return sorted(path.name for path in ASSETS.glob("*") if path.suffix.lower() in PHOTO_SUFFIXES)


class LoadModel(io.ComfyNode):
    """A video model from models/diffusion_models as MODEL, whatever layout it is saved in."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksLoadModel",
            display_name="Load Motion Model",
            category=CATEGORY,
            description="Loads a linear video model from models/diffusion_models: SANA-Video, a MiraMo layout, a file "
            "saved by MotionBlocks, or SANA image weights (untrained as a video model). Shows which VAE and text "
            "encoder belong to it. A file of another family is named and refused.",
            search_aliases=["sana", "sana-video", "miramo", "linear video dit", "i2v model", "t2v model"],
            inputs=[
                inp(
                    io.Combo.Input, "model_name", options=folders.model_names(folders.WEIGHTS_FOLDER),
                    tooltip="A .safetensors file or a diffusers folder in models/diffusion_models; docs/models.md says "
                    "which. Pickles (.pt, .pth, .ckpt) are never opened.",
                ),
                inp(
                    io.Combo.Input, "weight_dtype", options=list(devices.WEIGHT_DTYPES), default="default",
                    tooltip="Number type the weights are kept in. default: what your device computes best. fp8 halves "
                    "the memory of bf16 at some loss of quality.", advanced=True,
                ),
                kernels_input(),
            ],
            outputs=[out(io.Model, "model", "The model, ready for KSampler.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, model_name):
        return folders.check_model_name(folders.WEIGHTS_FOLDER, model_name)

    @classmethod
    def fingerprint_inputs(cls, model_name, weight_dtype, kernels="auto"):
        stamp = folders.model_stamp(folders.WEIGHTS_FOLDER, model_name)
        return f"{model_name} {weight_dtype} {kernels} {stamp}".rstrip()

    @classmethod
    def execute(cls, model_name, weight_dtype="default", kernels="auto") -> io.NodeOutput:
        from .models.load import load_and_describe

        dtype = devices.WEIGHT_DTYPES[checks.choose("weight_dtype", weight_dtype, devices.WEIGHT_DTYPES)]
        path = folders.model_path(folders.WEIGHTS_FOLDER, model_name)
        model, text = load_and_describe(path, dtype, chosen_kernels(kernels))
        return io.NodeOutput(model, ui=text_under(cls, text))


class LoadBuiltin(io.ComfyNode):
    """A model that comes with the pack: MODEL, CLIP and VAE at once."""

    @classmethod
    def define_schema(cls):
        from ..motion.io.networks.builtin_names import ALL_NAMES

        return schema(
            node_id="MotionBlocksLoadBuiltin",
            display_name="Load Built-in Motion Model",
            category=CATEGORY,
            description="Loads a small model that comes with the pack; nothing to download. motionblocks-tiny moves "
            "the picture (pan, zoom, rotate, still); motionblocks-small also moves one object or a part of it (slide, "
            "bounce, orbit, swing, clouds, sway, rain, snow and more): cfg 1.0 and about 8 steps. motionblocks-wan is "
            "a small Wan that draws plain shapes from words, motionblocks-wan-i2v one that goes on from a drawing of "
            "them: cfg 2.0 and 20 steps; motionblocks-wan-pose has a drawn puppet follow poses, behind Pose Video: cfg "
            "1.0 and 20 steps. Nodes for Wan take all three.",
            search_aliases=["motionblocks", "tiny model", "small model", "animate photo", "rain", "snow", "tiny wan"],
            inputs=[
                inp(
                    io.Combo.Input, "model_name", options=list(ALL_NAMES),
                    tooltip="Which built-in model. Its weights are a few MB inside the pack.",
                ),
                kernels_input(),
            ],
            outputs=[
                out(io.Model, "model", "For KSampler; euler, simple. cfg 1.0 and 8 steps; for Wan cfg 2.0 and 20."),
                out(
                    io.Clip, "clip", "For CLIP Text Encode; knows motions such as 'pan left, zoom in', for Wan "
                    "things such as 'red ball, on sand, moves left'.",
                ),
                out(io.Vae, "vae", "For Photo to Video, whose own vae output decodes at full resolution."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model_name, kernels="auto") -> io.NodeOutput:
        import torch

        from ..motion.io.networks.builtin_names import ALL_NAMES, WAN_NAMES, builtin_path
        from ..motion.io.networks.linear_video import read_linear_video
        from ..motion.models.heads.flow_codec import FlowCodec
        from .models.builtin_wan import load_scene
        from .models.linear_video import build_patcher
        from .text_encoders.motion_vocabulary import build_clip
        from .vaes_on_socket.builtin import BuiltinVAE

        path = str(builtin_path(checks.choose("model_name", model_name, ALL_NAMES)))
        kernels = chosen_kernels(kernels)
        with torch.inference_mode(False):
            if model_name in WAN_NAMES:
                return io.NodeOutput(*load_scene(path))
            file = read_linear_video(path)
            clip = build_clip(file.text_encoder or {}, file.metadata)
            vae = BuiltinVAE(FlowCodec(file.spec.latent.working_size))
            return io.NodeOutput(build_patcher(file, path, kernels=kernels), clip, vae)


class SamplePhoto(io.ComfyNode):
    """One of the photos that come with the pack, so that a shipped workflow runs at once."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksSamplePhoto",
            display_name="Sample Photo",
            category=CATEGORY,
            description="A photo that comes with the pack. Replace this node by Load Image to animate your own photo.",
            search_aliases=["example image", "demo photo"],
            inputs=[
                inp(
                    io.Combo.Input, "photo", options=sample_photos(),
                    tooltip="A photo from the pack's assets folder (free licence, see assets/README.md).",
                ),
            ],
            outputs=[out(io.Image, "image", "The photo at its own size.")],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, photo) -> io.NodeOutput:
        from ..motion.io.media.video import read_photo

        path = folders.safe_join(ASSETS, checks.choose("photo", photo, sample_photos()))
        image = read_photo(path).movedim(0, -1).unsqueeze(0).contiguous()
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
