"""The latents of a sequence: given parts know no target pixel, a decode gives as many frames as were asked."""

import pytest
import torch
from pack.motion.choices import JOINT, SEQUENCE_MODES
from pack.motion.errors import ShapeError
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig
from pack.motion.sequence.conditions import decode_target, encode_sequence
from pack.motion.sequence.layout import SequenceLayout


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return SmallVAE(SmallVAEConfig(8, 2, 8, 2)).double().requires_grad_(False)


def parts(count, batch=1, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, 3, frames, 32, 48, generator=made, dtype=torch.float64) for frames in (1, count, count)]


@pytest.mark.parametrize("mode", SEQUENCE_MODES)
@pytest.mark.parametrize("count", [1, 4, 6, 8, 9])
def test_no_target_pixel_reaches_what_is_given_or_shown(vae, mode, count):
    layout = SequenceLayout(count, mode)
    reference, skeletons, target = parts(count)
    one = encode_sequence(vae.encode, layout, reference, skeletons, target)
    other = encode_sequence(vae.encode, layout, reference, skeletons, 1 - target)
    bare = encode_sequence(vae.encode, layout, reference, skeletons)
    assert torch.equal(one.given, other.given) and torch.equal(one.shown, other.shown)
    assert torch.equal(one.given, bare.given) and torch.equal(one.shown, bare.shown) and bare.target is None
    assert not torch.equal(one.target, other.target)
    assert one.given.shape[2] == layout.given_latents and one.target.shape[2] == layout.target_latents
    assert one.shown.shape[2] == layout.latent_frames
    assert torch.equal(one.shown[:, :, : layout.given_latents], one.given)


def test_joint_target_latents_depend_on_the_skeletons_before_them_and_separate_ones_do_not(vae):
    reference, skeletons, target = parts(8)
    for mode in SEQUENCE_MODES:
        layout = SequenceLayout(8, mode)
        one, other = (encode_sequence(vae.encode, layout, reference, each, target).target
                      for each in (skeletons, 1 - skeletons))  # fmt: skip
        assert torch.equal(one, other) is (mode != JOINT)


def test_a_model_that_reads_nothing_beside_is_shown_no_grey(vae):
    reference, skeletons, _ = parts(8)
    for mode in SEQUENCE_MODES:
        layout = SequenceLayout(8, mode)
        whole = encode_sequence(vae.encode, layout, reference, skeletons)
        bare = encode_sequence(vae.encode, layout, reference, skeletons, with_grey=False)
        torch.testing.assert_close(bare.given, whole.given, rtol=0, atol=1e-12)
        assert torch.equal(bare.shown, bare.given)


@pytest.mark.parametrize("mode", SEQUENCE_MODES)
@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 9])
def test_a_decode_gives_the_frames_that_were_asked_for_in_their_places(vae, mode, count):
    layout = SequenceLayout(count, mode)
    reference, skeletons, target = parts(count)
    coded = encode_sequence(vae.encode, layout, reference, skeletons, target)
    frames = decode_target(vae.decode, layout, coded.given, coded.target)
    assert frames.shape == (1, 3, count, 32, 48)
    padded = layout.padded(target)
    if mode == JOINT:
        whole = vae.decode(vae.encode(torch.cat((reference, layout.padded(skeletons), padded), dim=2)))
        expected = whole[:, :, 1 + layout.padded_frames :]
    else:
        expected = vae.decode(vae.encode(padded))
    torch.testing.assert_close(frames, expected[:, :, :count], rtol=0, atol=1e-12)


def test_latents_of_another_layout_are_not_decoded(vae):
    with pytest.raises(ShapeError, match=r"made latents are \(1, 16, 3, 2, 2\); 2 latent frames"):
        decode_target(vae.decode, SequenceLayout(8), torch.zeros(1, 16, 3, 2, 2), torch.zeros(1, 16, 3, 2, 2))


@pytest.mark.parametrize("which, part, message", [
    (1, torch.zeros(1, 3, 8, 32, 32), "skeletons: .* needed, the size of the reference"),
    (1, torch.zeros(1, 3, 7, 32, 48), r"skeletons: .*\(b, 3, 8, 32, 48\) is needed"),
    (1, torch.zeros(2, 3, 8, 32, 48), "skeletons: 2 of them beside 1 references"),
    (2, torch.zeros(1, 3, 9, 32, 48), "target: .* is needed"),
    (0, torch.zeros(1, 3, 1, 32, 40), "the reference is 40x32 px; Wan 2.1 VAE needs multiples of 16"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_refused_with_what_is_needed(vae, which, part, message):
    given = parts(8)
    given[which] = part
    with pytest.raises(ShapeError, match=message):
        encode_sequence(vae.encode, SequenceLayout(8), *given)
