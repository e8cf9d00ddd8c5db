"""Which MODEL of the host is plain Wan: the one door to it, where all that touches the host's own Wan asks first.

The host's classes alone do not tell: Fun-Control has the same ones, with more channels. Wan 2.2 A14B image to video has
those of text to video, with 36 channels. The two experts of Wan 2.2 cannot be told apart, nor from Wan 2.1 14B.
"""

from dataclasses import dataclass

from torch import nn

from ...motion.errors import ConfigError
from ...motion.io.networks.base_licence import licence_of
from ...motion.models.latent_spaces import SPACES, LatentSpace
from ...motion.models.wan.config import WanConfig

SPACE = SPACES["wan21"]
SCENE = "motionblocks_scene"  # attachment: the spec of a small Wan that comes with the pack
TEXT_CHANNELS, IMAGE_CHANNELS = SPACE.channels, 36  # read by text to video; and beside them, a start video and its mask
TITLES = {  # of the host's classes, where the name of the class is not that of the model
    "WAN22": "Wan 2.2 5B (WAN22)", "WAN22_S2V": "Wan 2.2 speech to video (WAN22_S2V)",
    "WAN22_Animate": "Wan 2.2 Animate (WAN22_Animate)", "WAN21_Vace": "Wan 2.1 VACE (WAN21_Vace)",
    "WAN21_Camera": "Wan Fun-Camera (WAN21_Camera)",
}  # fmt: skip
WAY_OUT = (
    "plain Wan is needed: Wan 2.1 text or image to video, or an expert of Wan 2.2 A14B, from the host's own loader "
    "(Load Diffusion Model)"
)


@dataclass(frozen=True, eq=False)
class NativeWan:
    """A plain Wan MODEL. patcher: the MODEL itself. network: the host's WanModel in it."""

    patcher: object
    network: nn.Module
    channels: int  # that the network reads: 16, or 36 with a start video and its mask

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, host's WanAttentionBlock each."""
        return self.network.blocks

    @property
    def starts_from_image(self) -> bool:
        """Whether it reads a start video beside the latents."""
        return self.channels == IMAGE_CHANNELS

    @property
    def reads_clip_vision(self) -> bool:
        """Whether its text attention also reads CLIP vision tokens; the A14B experts have none."""
        return self.network.img_emb is not None

    @property
    def space(self) -> LatentSpace:
        """The latent space it works in."""
        return SPACE

    def licence(self) -> dict[str, str]:
        """Metadata that names the licence of the weights; the host's loaders keep none of their file's."""
        return licence_of({}, is_wan=True, is_ours=self.patcher.get_attachment(SCENE) is not None)

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"Wan {'image' if self.starts_from_image else 'text'} to video ({self.channels} channels)"


def native_wan(model) -> NativeWan:
    """The plain Wan in a MODEL. Raises ConfigError naming what it is instead, what is accepted and the way out."""
    found = find_native_wan(model)
    if found is None:
        raise ConfigError(f"this MODEL is {_what_it_is(model)}; {WAY_OUT}")
    refuse_context_windows(model.model_options)
    return found


def find_native_wan(model) -> NativeWan | None:
    """The plain Wan in a MODEL; None for every other model."""
    from comfy.ldm.wan.model import WanAttentionBlock, WanModel
    from comfy.model_base import WAN21
    from comfy.model_sampling import CONST

    if type(model.model) is not WAN21:
        return None
    network = model.get_model_object("diffusion_model")
    if type(network) is not WanModel or any(type(block) is not WanAttentionBlock for block in network.blocks):
        return None
    channels, patch = network.patch_embedding.weight.shape[1], tuple(network.patch_size)
    is_plain = (
        channels in (TEXT_CHANNELS, IMAGE_CHANNELS) and network.ref_conv is None
        and (network.out_dim, patch) == (SPACE.channels, (1, 2, 2))
        and isinstance(model.get_model_object("model_sampling"), CONST)
    )  # fmt: skip
    return NativeWan(model, network, channels) if is_plain else None


def wan_config(network: nn.Module) -> WanConfig:
    """The sizes of the host's WanModel."""
    channels, positions = network.patch_embedding.weight.shape[1], getattr(network.img_emb, "emb_pos", None)
    return WanConfig(
        in_channels=network.out_dim, concat_channels=channels - network.out_dim,
        image_tokens=network.img_emb is not None,
        position_tokens=0 if positions is None else positions.shape[1], patch_size=network.patch_size[1],
        num_layers=len(network.blocks), num_attention_heads=network.num_heads,
        attention_head_dim=network.dim // network.num_heads, hidden_width=network.ffn_dim,
        caption_channels=network.text_dim,
    )  # fmt: skip


def refuse_context_windows(model_options: dict) -> None:
    """Refuse core's context windows, which would put the start image into the first frame of every window.

    Raises ConfigError.
    """
    if model_options.get("context_handler") is not None:
        raise ConfigError(
            "this MODEL is sampled in context windows, each of which would begin with the start image; remove the node "
            "Context Windows and make fewer frames"
        )


def _what_it_is(model) -> str:
    """What a message calls a MODEL that is no plain Wan."""
    from comfy.ldm.wan.model import WanAttentionBlock, WanModel
    from comfy.model_base import WAN21
    from comfy.model_sampling import CONST

    found = type(model.model)
    if found is not WAN21:
        return TITLES.get(found.__name__, found.__name__) + _channels_of(model)
    network = model.get_model_object("diffusion_model")
    if type(network) is not WanModel:
        return f"WAN21 around another network ({type(network).__name__})"
    odd = next((type(block) for block in network.blocks if type(block) is not WanAttentionBlock), None)
    if odd is not None:
        return f"Wan with blocks of another kind ({odd.__name__})"
    channels = network.patch_embedding.weight.shape[1]
    if network.ref_conv is not None:
        return f"Wan Fun-Control with a reference image (WAN21, {channels} input channels)"
    if channels not in (TEXT_CHANNELS, IMAGE_CHANNELS):
        control = "Wan Fun-Control" if channels == 48 else "a variant of Wan"
        return f"{control} (WAN21, {channels} input channels; {TEXT_CHANNELS} and {IMAGE_CHANNELS} are known)"
    if not isinstance(model.get_model_object("model_sampling"), CONST):
        return "Wan with a sampling that is no flow (a Model Sampling node other than SD3's)"
    return f"a variant of Wan (WAN21, {network.out_dim} output channels, patches of {tuple(network.patch_size)})"


def _channels_of(model) -> str:
    """How many channels another network of Wan's kind reads, as a message says it; "" where it does not tell."""
    weight = getattr(getattr(getattr(model.model, "diffusion_model", None), "patch_embedding", None), "weight", None)
    return "" if weight is None else f" of {weight.shape[1]} input channels"
