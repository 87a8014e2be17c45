import itertools

import numpy as np
import pytest
import torch
from helpers.views import LARGEST, SMALLEST, draws_for, images_of
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from sogclr.common.options import Augmentation
from sogclr.data.views import draws as module
from sogclr.data.views.draws import (
    DRAWS,
    blur_radius,
    blur_sigma,
    blurred,
    crop_box,
    flipped,
    grayed,
    jitter_amounts,
    jitter_order,
    jittered,
)
from sogclr.data.views.pipeline import photometric


def test_every_number_of_a_row_has_one_meaning():
    places = [
        module._AREAS,
        module._RATIOS,
        module._LEFT,
        module._TOP,
        module._FLIP,
        module._JITTER,
        module._AMOUNTS,
        module._ORDER,
        module._GRAY,
        module._BLUR,
        module._SIGMA,
    ]
    row = np.arange(DRAWS)
    used = np.concatenate([np.atleast_1d(row[place]) for place in places])
    np.testing.assert_array_equal(np.sort(used), row)


def boxes(width: int, height: int, crop_min: float, count: int = 4000) -> np.ndarray:
    return np.array([crop_box(row, width, height, crop_min) for row in draws_for(count)])


@pytest.mark.parametrize("crop_min", [0, 0.08, 0.5, 1])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (1, 1000), (1000, 1), (2, 3), (5, 4000), (32, 32), (500, 375)]
)
def test_boxes_are_inside_the_image(size, crop_min):
    left, top, right, bottom = boxes(*size, crop_min, count=500).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right > left).all()
    assert (bottom > top).all()
    assert (right <= size[0]).all()
    assert (bottom <= size[1]).all()


@pytest.mark.parametrize("end", [SMALLEST, LARGEST])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (7, 1000), (224, 224)])
def test_boxes_at_the_ends_of_the_draws(size, end):
    left, top, right, bottom = crop_box(np.full(DRAWS, end), *size, 0.08)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


def test_area_and_ratio_keep_their_limits():
    left, top, right, bottom = boxes(800, 600, 0.2).T
    width, height = right - left, bottom - top
    area, ratio = width * height / (800 * 600), width / height
    # Rounding to pixels moves a side of at least 200 by up to half a pixel.
    assert 0.2 * 0.99 < area.min() < 0.22
    assert 0.95 < area.max() <= 1
    assert 3 / 4 * 0.99 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 4 / 3 * 1.01


@pytest.mark.parametrize(
    ("size", "crop_min"),
    [
        ((300, 300), 0.08),
        ((32, 32), 0.08),
        ((80, 50), 0.08),
        ((200, 40), 0.08),
        ((30, 45), 0.6),
        ((3, 2), 0.08),
    ],
)
def test_distribution_is_that_of_torchvision(size, crop_min):
    ours = boxes(*size, crop_min)
    image = Image.new("RGB", size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array(
            [
                RandomResizedCrop.get_params(image, [crop_min, 1.0], [3 / 4, 4 / 3])
                for _ in range(len(ours))
            ]
        )
    top, left, height, width = theirs.T
    expected = [left, top, left + width, top + height, width / height, width * height]
    left, top, right, bottom = ours.T
    width, height = right - left, bottom - top
    actual = [left, top, right, bottom, width / height, width * height]
    for a, b in zip(actual, expected, strict=True):
        # Kolmogorov and Smirnov's distance: beyond 0.05 once in 20,000 times at 4,000 each.
        values = np.union1d(a, b)
        shares = [np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (a, b)]
        assert np.abs(shares[0] - shares[1]).max() < 0.05


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (1, 50), (50, 1), (31, 1), (63, 20)])
def test_where_no_box_fits_it_is_torchvisions_central_one(size):
    """No box of the whole area fits into images this long, so nothing is random."""
    top, left, height, width = RandomResizedCrop.get_params(
        Image.new("RGB", size), [1.0, 1.0], [3 / 4, 4 / 3]
    )
    for row in draws_for(10):
        assert crop_box(row, *size, 1.0) == (left, top, left + width, top + height)


def test_where_no_box_fits_an_image_of_usual_shape_it_is_everything():
    draws = np.full(DRAWS, LARGEST)  # every attempt is the whole area at 4/3
    assert crop_box(draws, 40, 50, 1.0) == (0, 0, 40, 50)


def test_probabilities_zero_and_one_are_never_and_always():
    ends = np.array([np.full(DRAWS, SMALLEST), np.full(DRAWS, LARGEST)])
    always, never = Augmentation(flip=1, gray=1, blur=1), Augmentation(flip=0, gray=0, blur=0)
    for chosen in (flipped, grayed, blurred):
        assert chosen(ends, always).all()
        assert not chosen(ends, never).any()
    assert not jittered(ends, Augmentation(color=0)).any()


def test_shares_are_the_probabilities():
    draws = draws_for(10_000)
    views = Augmentation(flip=0.5, color=0.5, gray=0.2, blur=0.7)
    for chosen, share in ((flipped, 0.5), (jittered, 0.8), (grayed, 0.2), (blurred, 0.7)):
        assert abs(chosen(draws, views).mean() - share) < 0.03


@pytest.mark.parametrize(("color", "factors"), [(0.5, (0.6, 1.4)), (1.25, (0, 2)), (1, (0.2, 1.8))])
def test_amounts_fill_their_ranges(color, factors):
    amounts = jitter_amounts(draws_for(10_000), Augmentation(color=color))
    low = np.array([*[factors[0]] * 3, -0.2 * color])
    high = np.array([*[factors[1]] * 3, 0.2 * color])
    share = (amounts - low) / (high - low)
    assert share.min() >= 0
    assert share.max() <= 1
    deciles = np.linspace(0, 1, 11)
    for column in share.T:
        np.testing.assert_allclose(np.quantile(column, deciles), deciles, atol=0.03)


def test_orders_are_the_24_permutations_equally_often():
    orders, counts = np.unique(jitter_order(draws_for(9600)), axis=0, return_counts=True)
    assert set(map(tuple, orders)) == set(itertools.permutations(range(4)))
    assert np.abs(counts - 400).max() < 120


def test_sigma_is_uniform_from_a_tenth_to_two():
    sigma = blur_sigma(draws_for(10_000))
    assert 0.1 <= sigma.min() < 0.11
    assert 1.99 < sigma.max() <= 2
    assert abs(sigma.mean() - 1.05) < 0.03


def test_unresolved_views_are_refused():
    with pytest.raises(ValueError, match="resolved"):
        photometric(images_of(2, 8), draws_for(2), Augmentation())


def test_kernel_is_a_tenth_of_the_image():
    assert [2 * blur_radius(size) + 1 for size in (32, 64, 96, 224)] == [3, 7, 9, 23]
