"""The node that brings the VAEs of public video models into a graph."""

from comfy_api.latest import io

from .host import checks, devices, folders
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/loaders"
FOLDER, PART = "vae", "vae"
WEIGHT_DTYPES = ("default", "bf16", "fp32")
MODELS = {  # kind of latent space -> the models that work in it
    "dcae": "SANA image models, and the video models inflated from them",
    "wan21": "SANA-Video 480p, and Wan 2.1",
    "ltx2": "SANA-Video 720p, and LTX-2",
    "svd": "linear video models trained in its latents (patch 2), as MiraMo's published code is",
}


class LoadVAE(io.ComfyNode):
    """DC-AE, Wan 2.1 or LTX-2 VAE from models/vae, or from a whole diffusers folder, as VAE."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksLoadVAE",
            display_name="Load Video VAE",
            category=CATEGORY,
            description="Loads the VAE of a SANA or SANA-Video model (DC-AE f32c32, Wan 2.1, LTX-2) or SVD's, from one "
            "file or folder. Other VAEs are named and refused: use Load VAE for them.",
            search_aliases=["dc-ae", "dcae", "sana vae", "wan vae", "ltx vae", "autoencoder"],
            inputs=[
                inp(
                    io.Combo.Input, "vae_name", options=folders.model_names(FOLDER, PART),
                    tooltip="A .safetensors file or a folder in models/vae, or a whole diffusers folder in "
                    "models/diffusion_models that holds the VAE. docs/models.md says where to get them.",
                ),
                inp(
                    io.Combo.Input, "weight_dtype", options=list(WEIGHT_DTYPES), default="default",
                    tooltip="Number type the VAE computes in. default: what your device computes best, for DC-AE never "
                    "fp16. fp32 takes twice the memory of bf16 and is a little sharper.", advanced=True,
                ),
            ],
            outputs=[out(io.Vae, "vae", "For VAE Encode, VAE Decode, Photo to Video and Train Motion Model.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, vae_name):
        return folders.check_model_name(FOLDER, vae_name, PART)

    @classmethod
    def fingerprint_inputs(cls, vae_name, weight_dtype="default"):
        return f"{vae_name} {weight_dtype} {folders.model_stamp(FOLDER, vae_name, PART)}"

    @classmethod
    def execute(cls, vae_name, weight_dtype="default") -> io.NodeOutput:
        from .vaes_on_socket.public import load_video_vae

        dtype = devices.WEIGHT_DTYPES[checks.choose("weight_dtype", weight_dtype, WEIGHT_DTYPES)]
        vae, file = load_video_vae(folders.model_path(FOLDER, vae_name, PART), dtype)
        text = told(vae, file)
        return io.NodeOutput(vae, ui=text_under(cls, text))


def told(vae, file) -> str:
    """What stands under the node: which VAE, for which models, what it holds, its weights."""
    space = file.space
    frames = f"{space.temporal_ratio}k + 1 frames" if space.temporal_ratio > 1 else "any number of frames"
    count = sum(tensor.numel() for tensor in vae.first_stage_model.state_dict().values())
    kind = str(vae.vae_dtype).removeprefix("torch.")
    return (
        f"{space.title}: {space.channels} channels, cells of {space.spatial_ratio} px\n"
        f"for {MODELS[space.kind]}\n"
        f"holds sides that divide by {space.multiple}, {frames}\n"
        f"{count / 1e6:.1f} million weights in {kind}"
    )
