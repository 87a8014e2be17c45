import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from helpers.views import OFF, draws_for, images_of, one_by_one
from torch._subclasses.fake_tensor import FakeTensorMode

from sogclr.common.options import Augmentation
from sogclr.data.views import draws as draws_module
from sogclr.data.views import pipeline as module
from sogclr.data.views.draws import (
    blur_sigma,
    blurred,
    jitter_order,
    jittered,
)
from sogclr.data.views.photometric import HUE
from sogclr.data.views.pipeline import encoder_inputs, photometric, standardize

ALL = Augmentation(crop_min=0.08, flip=0.5, color=1, gray=0.3, blur=0.5)


@pytest.mark.parametrize(
    ("size", "views"), [(24, ALL), (32, Augmentation().resolved(32)), (96, ALL)]
)
def test_the_whole_is_torchvisions_one_sample_at_a_time(size, views):
    images, draws = images_of(192, size), draws_for(192)
    # Each of the 24 orders on each kind of image.
    draws[:, draws_module._ORDER] = np.repeat(list(itertools.permutations(range(4))), 8, axis=0) / 4
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
