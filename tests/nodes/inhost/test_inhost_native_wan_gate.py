"""The one door to the host's own Wan: what is let in, and everything else refused by name."""

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import pytest
import tiny_native_wan as tiny
import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_base import WAN21
from pack.motion.errors import ConfigError
from pack.nodes.models.native_wan import find_native_wan, native_wan

OTHER_CLASSES = sorted(
    name for name, kind in vars(comfy.model_base).items()
    if isinstance(kind, type) and issubclass(kind, WAN21) and kind is not WAN21
)  # fmt: skip


def around(network):
    """A MODEL of the host's class WAN21 around a network."""
    config = comfy.supported_models.WAN21_T2V({"disable_unet_model_creation": True})
    model = WAN21(config)
    model.diffusion_model = network
    return patcher(model)


def patcher(model):
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def network(**sizes):
    given = {"dim": 12, "ffn_dim": 8, "text_dim": 4, "num_heads": 2, "num_layers": 1} | sizes
    return WanModel(**given, operations=torch.nn)


@pytest.mark.parametrize("kind, channels, clip", [("text", 16, False), ("image", 36, True), ("expert", 36, False)])
def test_plain_wan_from_cores_loader_is_let_in(kind, channels, clip):
    model = tiny.native(kind)
    wan = native_wan(model)
    assert (wan.channels, wan.reads_clip_vision, wan.starts_from_image) == (channels, clip, channels == 36)
    assert wan.patcher is model and wan.network is model.model.diffusion_model and len(wan.blocks) == 2
    assert wan.space.kind == "wan21" and native_wan(model.clone()).network is wan.network


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_every_other_class_of_wan_is_refused_by_name(name):
    config = comfy.supported_models.WAN21_T2V({"disable_unet_model_creation": True})
    model = patcher(getattr(comfy.model_base, name)(config))
    with pytest.raises(ConfigError, match=rf"this MODEL is .*\b{name}\b.*Load Diffusion Model"):
        native_wan(model)
    assert find_native_wan(model) is None


def test_the_list_of_other_classes_is_the_hosts():
    assert {"WAN21_Vace", "WAN21_Camera", "WAN21_HuMo", "WAN22_Animate", "WAN22_S2V", "WAN22"} <= set(OTHER_CLASSES)


@pytest.mark.parametrize("sizes, said", [
    ({"model_type": "i2v", "in_dim": 48}, "Wan Fun-Control .*48 input channels; 16 and 36"),
    ({"in_dim": 52, "in_dim_ref_conv": 16}, "Fun-Control with a reference image .*52"),
    ({"in_dim": 36, "in_dim_ref_conv": 16}, "Fun-Control with a reference image .*36"),
    ({"in_dim": 20}, "a variant of Wan .*20 input channels"),
    ({"out_dim": 32}, "a variant of Wan .*32 output channels"),
    ({"patch_size": (1, 1, 1)}, "a variant of Wan .*patches of \\(1, 1, 1\\)"),
])  # fmt: skip
def test_variants_that_have_the_hosts_plain_classes_are_refused_by_name(sizes, said):
    model = around(network(**sizes))
    assert (type(model.model), type(model.model.diffusion_model)) == (WAN21, WanModel)
    with pytest.raises(ConfigError, match=f"{said}.*plain Wan is needed"):
        native_wan(model)


def test_another_network_in_the_plain_class_is_refused():
    from comfy.ldm.wan.model import VaceWanModel

    other = VaceWanModel(dim=12, ffn_dim=8, text_dim=4, num_heads=2, num_layers=1, vace_layers=1, vace_in_dim=4,
                         operations=torch.nn)  # fmt: skip
    with pytest.raises(ConfigError, match="another network \\(VaceWanModel\\)"):
        native_wan(around(other))


def test_blocks_of_another_pack_are_refused():
    class Block(torch.nn.Module):
        pass

    model = around(network())
    model.model.diffusion_model.blocks[0] = Block()
    assert find_native_wan(model) is None
    with pytest.raises(ConfigError, match="blocks of another kind \\(Block\\)"):
        native_wan(model)


def test_a_sampling_that_is_no_flow_is_refused(core):
    (model,) = core("ModelSamplingDiscrete", model=tiny.native(), sampling="v_prediction", zsnr=False)
    with pytest.raises(ConfigError, match="sampling that is no flow"):
        native_wan(model)
    (shifted,) = core("ModelSamplingSD3", model=tiny.native(), shift=5.0)
    assert native_wan(shifted)


def test_a_model_of_ours_is_refused(ours):
    with pytest.raises(ConfigError, match="this MODEL is Linear"):
        native_wan(ours["LoadBuiltin"].execute("motionblocks-tiny").args[0])


def test_core_context_windows_are_refused():
    model = tiny.native()
    model.model_options["context_handler"] = object()
    with pytest.raises(ConfigError, match="context windows.*remove the node"):
        native_wan(model)
