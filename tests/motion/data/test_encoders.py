"""Encoders of the data set: what the Wan VAE makes of frames, and when its fingerprint changes."""

import torch
from pack.motion.data.encoders import TextEntry, wan_encoders
from pack.motion.models.latent_spaces import WAN21_DEVIATION, WAN21_MEAN
from pack.motion.models.wan.vae import WanVAE


def encoders(vae, text="text"):
    return wan_encoders(vae, lambda caption: TextEntry(torch.full((1, 2), float(len(caption)))), text)


def test_wan_encoders_give_unscaled_latents_of_pixels_from_0_to_1():
    torch.manual_seed(0)
    vae = WanVAE(2)
    made = encoders(vae)
    frames = torch.rand(1, 3, 5, 16, 32)
    kept = frames.clone()
    latents = made.encode_frames(frames)
    assert latents.shape == (1, 16, 2, 2, 4) and not latents.requires_grad and torch.equal(frames, kept)
    assert torch.equal(latents, vae.encode(frames * 2 - 1)) and made.spatial_multiple == 16
    assert made.encode_text("ab").context.tolist() == [[2.0, 2.0]]


def test_one_bit_of_the_vae_changes_its_fingerprint_and_texts_have_their_own():
    torch.manual_seed(0)
    vae = WanVAE(2)
    before = encoders(vae).fingerprint
    assert encoders(vae).fingerprint == before == encoders(vae, "other").fingerprint
    assert encoders(vae, "other").text_fingerprint == "other"
    vae.decoder.head[2].bias.data.view(torch.int32)[1] ^= 1
    assert encoders(vae).fingerprint != before


def test_with_a_start_a_clips_first_frame_is_encoded_before_grey_and_scaled_behind_its_mask():
    torch.manual_seed(0)
    vae = WanVAE(2)
    made = wan_encoders(vae, encoders(vae).encode_text, "text", with_start=True)
    frames = torch.rand(1, 3, 5, 16, 32)
    seen = made.encode_beside(frames)["concat_latents"]
    grey = torch.cat((frames[:, :, :1] * 2 - 1, torch.zeros(1, 3, 4, 16, 32)), 2)  # 0.5 is 0 to the VAE
    mean, deviation = (torch.tensor(values).view(-1, 1, 1, 1) for values in (WAN21_MEAN, WAN21_DEVIATION))
    torch.testing.assert_close(seen[4:], (vae.encode(grey)[0] - mean) / deviation)
    assert seen.shape == (20, 2, 2, 4) and seen[:4].sum() == 4 * 2 * 4 and encoders(vae).encode_beside is None
