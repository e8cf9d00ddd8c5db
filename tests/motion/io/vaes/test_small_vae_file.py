"""Files of the small VAE: what was saved comes back, other files and damaged ones are refused."""

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.vaes.small_vae import SMALL_VAE, read_small_vae, save_small_vae
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig

SIZES = SmallVAEConfig(encoder_width=4, encoder_blocks=1, decoder_width=4, decoder_blocks=1)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    vae = SmallVAE(SIZES)
    vae.mean.normal_()
    path = tmp_path / "vae.safetensors"
    save_small_vae(path, vae, {"seed": "7"})
    return vae, path


def test_what_was_saved_comes_back(saved):
    vae, path = saved
    again, (tensors, metadata) = read_small_vae(path), read_safetensors(path)
    assert again.config == SIZES and metadata["seed"] == "7" and torch.equal(again.mean, vae.mean)
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(again.encode(video), vae.encode(video), atol=0.02)  # float16
    assert tensors["encoder_out.weight"].dtype == torch.float16 and tensors["mean"].dtype == torch.float32


@pytest.mark.parametrize(
    "change, says",
    [({"kind": "other"}, "not the VAE"), ({"config": '{"encoder_width": 5}'}, "encoder_in"),
     ({"config": "["}, "config"), ({"config": '{"encoder_width": "wide"}'}, "needs int")],
)  # fmt: skip
def test_other_files_are_refused(saved, tmp_path, change, says):
    tensors, metadata = read_safetensors(saved[1])
    path = tmp_path / "other.safetensors"
    write_safetensors(path, tensors, {**metadata, **change})
    with pytest.raises(CheckpointError, match=says):
        read_small_vae(path)


def test_weights_that_diverged_are_not_saved(saved, tmp_path):
    vae = saved[0]
    vae.mean[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        save_small_vae(tmp_path / "bad.safetensors", vae)
    assert not (tmp_path / "bad.safetensors").exists()
    assert SMALL_VAE == "motionblocks_small_vae"
