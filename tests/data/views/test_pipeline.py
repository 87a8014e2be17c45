import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import RandomResizedCrop

from sogclr.common.options import Augmentation
from sogclr.data.randomness import uniforms
from sogclr.data.views import pipeline as module
from sogclr.data.views.pipeline import (
    BRIGHTNESS,
    CONTRAST,
    DRAWS,
    HUE,
    SATURATION,
    blur_radius,
    blur_sigma,
    blurred,
    center_view,
    crop,
    crop_box,
    encoder_inputs,
    flipped,
    grayed,
    jitter_amounts,
    jitter_order,
    jittered,
    photometric,
    standardize,
)

OFF = Augmentation(crop_min=0.08, flip=0, color=0, gray=0, blur=0)
ALL = Augmentation(crop_min=0.08, flip=0.5, color=1, gray=0.3, blur=0.5)
SMALLEST, LARGEST = 0.0, np.nextafter(1, 0)


def draws_for(count: int, seed: int = 0) -> np.ndarray:
    return uniforms(seed, 0, np.arange(count, dtype=np.uint64), 0, DRAWS)


def images_of(count: int, size: int) -> Tensor:
    """Noise, with uniform and saturated colours, greys and two-level pixels among it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    images[1::8] = 0
    images[2::8] = 255
    images[3::8] = images[3::8, :1]  # grey
    images[4::8] = (images[4::8] > 127) * 255  # black, white and the six saturated colours
    images[5::8] = images[5::8, :, :1, :1]  # one colour each
    images[6::8] = images[6::8] // 64 * 85  # many ties between channels
    return images


def picture(width: int, height: int) -> Image.Image:
    """Smooth, so that a shift by part of a pixel is small but visible."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [x, y, 0.5 + 0.5 * np.sin(9 * x + 5 * y)]
    return Image.fromarray((255 * np.stack(channels, axis=-1)).astype(np.uint8), "RGB")


def one_by_one(images: Tensor, draws: np.ndarray, views: Augmentation) -> Tensor:
    """The definition: torchvision's functions, one sample and one operation at a time."""
    flip, jitter = flipped(draws, views), jittered(draws, views)
    amounts, order = jitter_amounts(draws, views), jitter_order(draws)
    gray, blur, sigma = grayed(draws, views), blurred(draws, views), blur_sigma(draws)
    taps = 2 * (images.shape[-1] // 20) + 1
    changes = {
        BRIGHTNESS: TF.adjust_brightness,
        CONTRAST: TF.adjust_contrast,
        SATURATION: TF.adjust_saturation,
        HUE: TF.adjust_hue,
    }
    results = []
    for i, image in enumerate(images):
        x = image.float() / 255
        if flip[i]:
            x = TF.horizontal_flip(x)
        if jitter[i]:
            for column in order[i]:
                x = changes[column](x, float(amounts[i, column]))
        if gray[i]:
            x = TF.rgb_to_grayscale(x, 3)
        if blur[i]:
            x = TF.gaussian_blur(x, [taps, taps], [float(sigma[i])] * 2)
        results.append(x)
    return torch.stack(results)


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


# crop_box


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


# crop and center_view


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


# the meaning of the draws


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


# photometric


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


def test_kernel_is_a_tenth_of_the_image():
    assert [2 * blur_radius(size) + 1 for size in (32, 64, 96, 224)] == [3, 7, 9, 23]


@pytest.mark.parametrize(
    ("size", "views"), [(24, ALL), (32, Augmentation().resolved(32)), (96, ALL)]
)
def test_the_whole_is_torchvisions_one_sample_at_a_time(size, views):
    images, draws = images_of(192, size), draws_for(192)
    # Each of the 24 orders on each kind of image.
    draws[:, module._ORDER] = np.repeat(list(itertools.permutations(range(4))), 8, axis=0) / 4
    actual = photometric(images, draws, views)
    torch.testing.assert_close(actual, one_by_one(images, draws, views), atol=1e-5, rtol=0)


def test_result_is_float32_in_the_unit_interval():
    for size in (1, 24):
        views = ALL if size > 1 else Augmentation(blur=0).over(ALL)
        result = photometric(images_of(64, size), draws_for(64), views)
        assert result.dtype == torch.float32
        assert result.shape == (64, 3, size, size)
        assert result.min() >= 0
        assert result.max() <= 1


def test_all_off_is_the_image():
    images = images_of(16, 10)
    result = photometric(images, draws_for(16), OFF)
    torch.testing.assert_close(result, images.float() / 255, atol=0, rtol=0)


def test_a_result_does_not_depend_on_the_rest_of_the_batch():
    images, draws = images_of(48, 40), draws_for(48)
    together = photometric(images, draws, ALL)
    order = np.random.default_rng(0).permutation(48)
    permuted = photometric(images[order], draws[order], ALL)
    torch.testing.assert_close(permuted, together[order], atol=1e-6, rtol=0)
    for i in range(48):
        alone = photometric(images[i : i + 1], draws[i : i + 1], ALL)
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("most", [1, 3, 48])
def test_parts_are_all_rows_blurred_or_not_and_sorted(most):
    draws = draws_for(48)
    parts = list(module._parts(draws, ALL, most))
    assert sorted(np.concatenate(parts)) == list(range(48))
    largest = 0.0
    for part in map(draws.__getitem__, parts):
        assert len(part) <= most
        assert blurred(part, ALL).all() or not blurred(part, ALL).any()
        jitter = jittered(part, ALL)
        assert (np.diff(jitter.astype(int)) >= 0).all()
        assert (np.diff((jitter_order(part[jitter]) == HUE).argmax(axis=1)) >= 0).all()
        if blurred(part, ALL).any():
            assert blur_sigma(part).min() >= largest
            largest = blur_sigma(part).max()


@pytest.mark.parametrize("floats", [1, 3 * 24**2, 5 * 3 * 24**2])
def test_a_result_does_not_depend_on_the_size_of_parts(floats, monkeypatch):
    images, draws = images_of(48, 24), draws_for(48)
    whole = photometric(images, draws, ALL)
    monkeypatch.setattr(module, "_PART", floats)
    torch.testing.assert_close(photometric(images, draws, ALL), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 48])
def test_encoder_inputs_are_standardized_views(count):
    images, draws = images_of(count, 24), draws_for(count)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    actual = encoder_inputs(images, draws, ALL, mean, std)
    expected = standardize(photometric(images, draws, ALL), mean, std)
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_inputs_stay_as_they_were():
    images, draws = images_of(16, 24), draws_for(16)
    images_before, draws_before = images.clone(), draws.copy()
    photometric(images, draws, ALL)
    assert torch.equal(images, images_before)
    np.testing.assert_array_equal(draws, draws_before)


def test_empty_batch():
    assert photometric(images_of(0, 24), draws_for(0), ALL).shape == (0, 3, 24, 24)


def test_autocast_changes_nothing():
    images, draws = images_of(16, 24), draws_for(16)
    expected = photometric(images, draws, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        actual = photometric(images, draws, ALL)
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)


def test_nothing_is_read_back_from_the_device():
    """Fake tensors have no values: reading one raises, as does mixing it with one on the CPU."""
    draws = draws_for(64)
    with FakeTensorMode():
        images = torch.empty(64, 3, 24, 24, dtype=torch.uint8, device="cuda")
        mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
        standardized = standardize(photometric(images, draws, ALL), mean, std)
        inputs = encoder_inputs(images, draws, ALL, mean, std)
    for result in (standardized, inputs):
        assert result.device.type == "cuda"
        assert result.dtype == torch.float32


def test_standardize_is_per_channel():
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    before = images.clone()
    result = standardize(images, mean, std)
    torch.testing.assert_close(result, TF.normalize(images, mean, std))
    assert torch.equal(images, before)
    assert standardize(images.double(), mean, std).dtype == torch.float64
