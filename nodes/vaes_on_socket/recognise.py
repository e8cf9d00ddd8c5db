"""Which latent space a VAE of the host works in: ours say it themselves, the host's are told by class and channels."""

from ...motion.io.vaes.ltx2_names import LEAST_WIDTH
from ...motion.models.latent_spaces import SPACES, LatentSpace

# class of the network inside comfy.sd.VAE -> kind of space, if channels and px per cell agree as well
_CLASSES = {
    "comfy.ldm.wan.vae.WanVAE": "wan21",
    "comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE": "ltx2",
    "comfy.ldm.models.autoencoder.AutoencoderKL": "svd",
    "comfy.ldm.models.autoencoder.AutoencodingEngine": "svd",
}


def space_of_vae(vae) -> LatentSpace | None:
    """The space that a VAE encodes into; None for one that no model here works with.

    SVD's own VAE and the picture VAEs with its 4 channels of 1/8 the size are one space here: their weights do not say
    more. LTX-Video's VAE has the shape of LTX-2's and other latents; its timestep conditioning gives it away.
    """
    own = getattr(vae, "latent_space", None)
    if isinstance(own, LatentSpace):
        return own
    network = getattr(vae, "first_stage_model", None)
    space = SPACES.get(_CLASSES.get(f"{type(network).__module__}.{type(network).__qualname__}", ""))
    if space is None or not _shaped_as(vae, space) or (space.kind == "ltx2" and not _of_ltx2(network)):
        return None
    return space


def _shaped_as(vae, space: LatentSpace) -> bool:
    """Whether channels and px per cell are those of the space, for pictures of three channels."""
    ratio = int(vae.spacial_compression_encode())
    shape = (vae.latent_channels, ratio, vae.temporal_compression_decode() or 1, getattr(vae, "output_channels", 3))
    return shape == (space.channels, space.spatial_ratio, space.temporal_ratio, 3)


def _of_ltx2(network) -> bool:
    """LTX-2's decoder takes no timestep, and its encoder ends in twice the channels of the first LTX-Video's."""
    conv = getattr(getattr(network.encoder, "conv_out", None), "conv", None)
    wide = conv is not None and conv.weight.shape[1] >= LEAST_WIDTH
    return wide and not getattr(network, "timestep_conditioning", True)
