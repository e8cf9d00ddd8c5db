"""Our Wan 2.1 VAE gives what the host's class gives, with the same weights under the same names."""

import pytest
import torch
from pack.motion.models.wan.vae import WanVAE

FIXED = {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0,
         "temperal_downsample": [False, True, True]}  # fmt: skip


def host_class():
    from comfy.ldm.wan.vae import WanVAE as HostVAE

    return HostVAE


@pytest.fixture(scope="module")
def pair():
    """The host's VAE and ours with the same random weights."""
    torch.manual_seed(0)
    ours = WanVAE(8).eval()
    for weight in ours.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    theirs = host_class()(dim=8, **FIXED).eval()
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def apart(found, need):
    assert found.shape == need.shape
    return float((found - need).abs().max() / need.abs().max())


@pytest.mark.parametrize("frames", [1, 5, 9, 13])
@pytest.mark.parametrize("height, width", [(8, 16), (40, 24)])
def test_encodes_and_decodes_as_the_host_does(pair, frames, height, width):
    theirs, ours = pair
    video = torch.rand(2, 3, frames, height, width) * 2 - 1
    latents = torch.randn(2, 16, (frames + 3) // 4, height // 8, width // 8)
    with torch.no_grad():
        encoded, decoded = theirs.encode(video), theirs.decode(latents)
    for chunk in (1, None):
        assert apart(ours.encode(video, chunk=chunk), encoded) <= 1e-5
        assert apart(ours.decode(latents, chunk=chunk), decoded) <= 1e-5


def test_published_width_has_the_hosts_names_and_shapes():
    with torch.device("meta"):
        need = {name: weight.shape for name, weight in host_class()(dim=96, **FIXED).state_dict().items()}
    assert {name: weight.shape for name, weight in WanVAE(device="meta").state_dict().items()} == need
