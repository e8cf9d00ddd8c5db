"""The weights of motionblocks-vae: sharp enough for what it was made for, on clips that its training never drew."""

import math

import pytest
import torch
from pack.motion.data.procedural.puppets import PuppetSource
from pack.motion.data.procedural.sprites import SpriteSource
from pack.motion.io.networks.builtin_names import WEIGHTS
from pack.motion.io.vaes.small_vae import read_small_vae
from pack.motion.models.latent_spaces import SPACES

PATH = WEIGHTS / "motionblocks-vae.safetensors"


@pytest.fixture(scope="module")
def vae():
    return read_small_vae(PATH).requires_grad_(False)


def decibels(vae, clip):
    back = vae.decode(vae.encode(clip.unsqueeze(0) * 2 - 1))[0] / 2 + 0.5
    return -10 * math.log10(float((back.clamp(0, 1) - clip).square().mean()))


def unseen(seed):
    return torch.Generator().manual_seed(990_000 + seed)


def test_its_file_is_small():
    assert PATH.stat().st_size <= 8 * 2**20


@pytest.mark.slow
def test_sprites_come_back_at_28_db_and_puppets_and_skeletons_at_24(vae):
    sprites = [decibels(vae, SpriteSource().draw(unseen(seed)).render()[0]) for seed in range(32)]
    puppets = [PuppetSource().draw(unseen(seed)) for seed in range(2)]
    assert sum(sprites) / len(sprites) >= 28
    assert min(decibels(vae, clip.render()[0]) for clip in puppets) >= 24
    assert min(decibels(vae, clip.skeletons()) for clip in puppets) >= 24


def test_what_a_network_sees_of_sprites_is_centred_and_of_size_one(vae):
    frame = torch.tensor([0])
    clips = torch.stack([SpriteSource().draw(unseen(seed)).render(frame)[0] for seed in range(64)])
    seen = SPACES["wan21"].scaled(vae.encode(clips * 2 - 1))
    assert 0.8 < float(seen.square().mean().sqrt()) < 1.2
    assert float(seen.mean((0, 2, 3, 4)).abs().max()) < 0.4 * float(seen.std((0, 2, 3, 4)).max())
