import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from helpers.views import LARGEST, OFF, SMALLEST, draws_for, images_of, one_by_one

from sogclr.common.options import Augmentation
from sogclr.data.views import draws as module
from sogclr.data.views.draws import (
    DRAWS,
    blur_sigma,
    jitter_amounts,
)
from sogclr.data.views.photometric import BRIGHTNESS, CONTRAST, HUE, SATURATION
from sogclr.data.views.pipeline import photometric


@pytest.mark.parametrize("column", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
@pytest.mark.parametrize("color", [0.5, 1, 1.25])
def test_each_change_of_colour_is_torchvisions(column, color):
    """The other three are at their neutral point, half way for color <= 1.25."""
    images, draws = images_of(64, 12), draws_for(64)
    amounts = np.full((64, 4), 0.5)
    amounts[:, column] = np.linspace(SMALLEST, LARGEST, 64)
    draws[:, module._AMOUNTS] = amounts
    draws[:, module._JITTER] = 0
    views = Augmentation(crop_min=1, flip=0, color=color, gray=0, blur=0)
    amount = jitter_amounts(draws, views)[:, column]
    change = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue][column]
    expected = [change(x.float() / 255, float(a)) for x, a in zip(images, amount, strict=True)]
    actual = photometric(images, draws, views)
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-5, rtol=0)


def test_hue_of_every_colour_is_torchvisions():
    """All colours on a grid, the ties between channels included, at shifts both ways."""
    levels = torch.arange(0, 256, 15, dtype=torch.uint8)  # 18
    colours = torch.cartesian_prod(levels, levels, levels).T  # (3, 5832)
    image = torch.nn.functional.pad(colours, (0, 77**2 - 5832)).reshape(1, 3, 77, 77)
    images = image.expand(9, -1, -1, -1)
    draws = np.full((9, DRAWS), 0.5)
    draws[:, module._AMOUNTS.start + HUE] = np.linspace(SMALLEST, LARGEST, 9)
    views = Augmentation(crop_min=1, flip=0, color=1.25, gray=0, blur=0)
    expected = one_by_one(images, draws, views)
    torch.testing.assert_close(photometric(images, draws, views), expected, atol=1e-5, rtol=0)


def test_flip_mirrors_the_width():
    images, draws = images_of(8, 6), draws_for(8)
    views = Augmentation(flip=1).over(OFF)
    torch.testing.assert_close(
        photometric(images, draws, views), images.flip(-1) / 255, atol=0, rtol=0
    )


def test_gray_is_torchvisions():
    images, draws = images_of(16, 9), draws_for(16)
    views = Augmentation(gray=1).over(OFF)
    expected = TF.rgb_to_grayscale(images.float() / 255, 3)
    torch.testing.assert_close(photometric(images, draws, views), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [20, 32, 45, 224, 260])
def test_blur_is_torchvisions(size):
    """Also where torchvision's kernel is longer than ours, beyond 220 pixels."""
    images, draws = images_of(5, size), draws_for(5)
    draws[:, module._SIGMA] = np.linspace(SMALLEST, LARGEST, 5)
    views = Augmentation(blur=1).over(OFF)
    expected = one_by_one(images, draws, views)
    torch.testing.assert_close(photometric(images, draws, views), expected, atol=1e-5, rtol=0)


def test_kernels_cut_to_small_sigmas_are_torchvisions():
    """Whose kernels are 23 pixels long, whatever sigma is."""
    images, draws = images_of(5, 224), draws_for(5)
    draws[:, module._SIGMA] = np.linspace(SMALLEST, 0.3, 5)
    views = Augmentation(blur=1).over(OFF)
    expected = one_by_one(images, draws, views)
    torch.testing.assert_close(photometric(images, draws, views), expected, atol=1e-5, rtol=0)


def test_blurred_white_is_not_brighter_than_white():
    images = torch.full((100, 3, 64, 64), 255, dtype=torch.uint8)
    result = photometric(images, draws_for(100), Augmentation(blur=1).over(OFF))
    assert result.max() <= 1
    assert result.min() > 1 - 1e-5


def test_small_images_are_blurred_too():
    images, draws = images_of(1, 8), np.full((1, DRAWS), 0.9)
    actual = photometric(images, draws, Augmentation(blur=1).over(OFF))
    expected = TF.gaussian_blur(images / 255, [3, 3], [float(blur_sigma(draws)[0])] * 2)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
