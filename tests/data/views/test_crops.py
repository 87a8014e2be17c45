import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from helpers.views import draws_for
from PIL import Image

from sogclr.data.views.crops import center_view, crop
from sogclr.data.views.draws import (
    crop_box,
)


def picture(width: int, height: int) -> Image.Image:
    """Smooth, so that a shift by part of a pixel is small but visible."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [x, y, 0.5 + 0.5 * np.sin(9 * x + 5 * y)]
    return Image.fromarray((255 * np.stack(channels, axis=-1)).astype(np.uint8), "RGB")


def test_crop_is_channels_first_and_contiguous():
    image = Image.new("RGB", (9, 7), (10, 20, 30))
    view = crop(image, (1, 2, 8, 6), 5)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous
    expected = np.array([10, 20, 30])[:, None, None] * np.ones((1, 5, 5))
    np.testing.assert_array_equal(view, expected)


def test_crop_without_scaling_is_a_slice():
    image = picture(40, 30)
    view = crop(image, (3, 7, 23, 27), 20)
    np.testing.assert_array_equal(view, np.asarray(image)[7:27, 3:23].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [65, 96, 224])
@pytest.mark.parametrize("shape", [(500, 375), (90, 120), (224, 224)])
def test_large_crops_are_torchvisions(size, shape):
    """Of noise, the hardest to resize: as near to the exact result as Pillow, up to the edges."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    image, exact = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1).double()
    for row in draws_for(20):
        left, top, right, bottom = box = crop_box(row, *shape, 0.08)
        place = top, left, bottom - top, right - left
        view = crop(image, box, size).astype(int)
        exact_view = TF.resized_crop(exact, *place, [size, size], antialias=True).numpy()
        assert np.abs(view - exact_view).max() < 1.1
        pillow = np.asarray(TF.resized_crop(image, *place, [size, size])).transpose(2, 0, 1)
        assert np.abs(view - pillow).max() <= 2
        assert (view == pillow).mean() > 2 / 3


@pytest.mark.parametrize("size", [64, 65])
def test_crop_is_channels_first_and_contiguous_either_way(size):
    view = crop(picture(90, 80), (3, 5, 83, 75), size)
    assert view.shape == (3, size, size)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous


def test_crop_averages_when_it_shrinks():
    """Antialiasing: a fine checkerboard turns grey, it does not alias."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(np.stack([board] * 3, axis=-1).astype(np.uint8), "RGB")
    assert np.abs(crop(image, (0, 0, 64, 64), 8).astype(int) - 127).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2000)])
@pytest.mark.parametrize("result", [1, 32, 224])
def test_extreme_images_have_views(size, result):
    image = picture(*size)
    for row in draws_for(20):
        assert crop(image, crop_box(row, *size, 0.08), result).shape == (3, result, result)
    assert center_view(image, result).shape == (3, result, result)


@pytest.mark.parametrize("size", [(80, 50), (50, 80), (333, 200), (47, 301), (32, 32), (20, 31)])
@pytest.mark.parametrize(("result", "shorter"), [(32, 32), (64, 64), (96, 110), (224, 256)])
def test_center_view_is_resize_then_center_crop(size, result, shorter):
    image = picture(*size)
    two_steps = T.Compose([T.Resize(shorter, antialias=True), T.CenterCrop(result)])(image)
    view = center_view(image, result)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous
    expected = np.asarray(two_steps).transpose(2, 0, 1).astype(int)
    # One grey level: a box is computed in other steps than a whole image.
    assert np.abs(view - expected).max() <= 1


def test_center_view_of_an_image_of_that_size_is_the_image():
    image = picture(32, 32)
    np.testing.assert_array_equal(center_view(image, 32), np.asarray(image).transpose(2, 0, 1))
