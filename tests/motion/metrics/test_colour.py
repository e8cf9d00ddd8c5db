"""Lab and CIEDE2000 against scikit-image, closed forms and published pairs."""

import math

import numpy as np
import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.metrics import colour
from pack.motion.metrics.colour import delta_e_2000, luma, mean_colour_difference, mean_lab, srgb_to_lab

skimage_color = pytest.importorskip("skimage.color")
# Sharma, Wu, Dalal 2005, Table 1: pairs that catch a wrong hue mean, a wrong hue difference and a wrong sign.
PUBLISHED = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def pictures(seed=0, size=(40, 50)):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*size, 3, generator=generator, dtype=torch.float64) for _ in range(2))


def test_lab_equals_scikit_image_from_black_to_white():
    ramp = torch.linspace(0, 1, 30, dtype=torch.float64)
    grid = torch.cartesian_prod(ramp, ramp[::5], ramp[::7])
    assert np.abs(srgb_to_lab(grid).numpy() - skimage_color.rgb2lab(grid.numpy())).max() < 1e-3
    light, a, b = srgb_to_lab(torch.ones(3, dtype=torch.float64)).tolist()
    assert (light, a, b) == (pytest.approx(100, abs=1e-3), pytest.approx(0, abs=0.02), pytest.approx(0, abs=0.02))


@pytest.mark.parametrize(("one", "other", "difference"), PUBLISHED)
def test_published_pairs_come_out_to_the_fourth_digit(one, other, difference):
    a, b = torch.tensor([one, other], dtype=torch.float64)
    assert float(delta_e_2000(a, b)) == pytest.approx(difference, abs=1e-4)
    assert float(delta_e_2000(b, a)) == pytest.approx(difference, abs=1e-4)


def test_difference_equals_scikit_image_on_random_colours_and_greys():
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([100.0, 160.0, 160.0], dtype=torch.float64)
    a, b = ((torch.rand(5000, 3, generator=generator, dtype=torch.float64) - 0.5) * spread for _ in range(2))
    a[:, 0] += 50
    b[:, 0] += 50
    b[:500, 1:] = 0
    b[500:600] = a[500:600]
    truth = skimage_color.deltaE_ciede2000(a.numpy(), b.numpy())
    assert np.abs(delta_e_2000(a, b).numpy() - truth).max() < 1e-9
    assert float(delta_e_2000(a.float(), b.float()).sub(torch.from_numpy(truth)).abs().max()) < 1e-2


def test_mean_difference_of_pictures_equals_scikit_image_in_any_chunks(monkeypatch):
    a, b = pictures()
    truth = skimage_color.deltaE_ciede2000(*(skimage_color.rgb2lab(x.numpy()) for x in (a, b))).mean()
    assert mean_colour_difference(a, b) == pytest.approx(truth, abs=1e-4)
    whole, lab = mean_colour_difference(a, b), mean_lab(a)
    monkeypatch.setattr(colour, "CHUNK_PIXELS", 333)
    assert mean_colour_difference(a, b) == pytest.approx(whole, abs=1e-12)
    assert torch.allclose(mean_lab(a), lab, atol=1e-12)
    assert np.abs(lab.numpy() - skimage_color.rgb2lab(a.numpy()).mean((0, 1))).max() < 1e-3
    assert mean_colour_difference(a.float(), a.float()) == 0.0


def test_two_greys_differ_by_their_weighted_lightness_only():
    low, high = 0.5, 0.52
    lights = [116 * (((v + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16 for v in (low, high)]
    middle = sum(lights) / 2 - 50
    truth = (lights[1] - lights[0]) / (1 + 0.015 * middle**2 / math.sqrt(20 + middle**2))
    a, b = torch.full((8, 8, 3), low), torch.full((8, 8, 3), high)
    assert mean_colour_difference(a, b) == pytest.approx(truth, abs=2e-3)


def test_luma_weighs_the_channels():
    assert luma(torch.eye(3, dtype=torch.float64)).tolist() == pytest.approx([0.299, 0.587, 0.114])


def test_colours_that_are_no_colours_are_refused():
    for bad in (torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.uint8)):
        with pytest.raises(ShapeError, match="in \\[0, 1\\] are needed"):
            srgb_to_lab(bad)
    with pytest.raises(ShapeError, match="two equal"):
        mean_colour_difference(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))
