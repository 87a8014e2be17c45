import numpy as np
import pytest
import torch

from sogclr import UserError
from sogclr.data.images.arrays import ArraySource
from sogclr.data.open_images import open_images

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        torch.from_numpy(PIXELS),
        PIXELS.transpose(0, 3, 1, 2),
        (PIXELS / 255).astype(np.float32),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255,
        (torch.from_numpy(PIXELS) / 255).double().requires_grad_(),
    ],
    ids=["hwc", "tensor", "chw", "float", "float tensor chw", "double with gradient"],
)
def test_every_layout_gives_the_same_images(images):
    source = open_images(images)
    assert len(source) == 5
    for row in range(5):
        assert np.array_equal(np.asarray(source.image(row)), PIXELS[row])


def test_brain_floats_are_read():
    source = open_images((torch.from_numpy(PIXELS) / 255).to(torch.bfloat16))
    assert np.abs(np.asarray(source.image(1)).astype(int) - PIXELS[1]).max() <= 1


def test_grey_becomes_rgb():
    grey = PIXELS[..., 0]
    image = np.asarray(open_images(grey).image(2))
    assert np.array_equal(image, np.repeat(grey[2][..., None], 3, axis=-1))


def test_labels_and_ids_are_kept():
    source = ArraySource(PIXELS, labels=[0, 1, 2, 1, 0], ids=[30, 10, 20, 50, -1])
    assert source.labels.tolist() == [0, 1, 2, 1, 0]
    assert source.ids.view(np.int64).tolist() == [30, 10, 20, 50, -1]
    assert open_images((PIXELS, torch.tensor([0, 1, 2, 1, 0]))).labels.tolist() == [0, 1, 2, 1, 0]


def test_marks_differ_where_pixels_do():
    changed = PIXELS.copy()
    changed[3, 0, 0, 0] ^= 1
    same = ArraySource(PIXELS).marks == ArraySource(changed).marks
    assert same.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": PIXELS[0, 0]}, "expected images"),
        ({"images": PIXELS.astype(np.int64)}, "must be uint8 or floats"),
        ({"images": PIXELS.astype(np.float32)}, r"must lie in \[0, 1\]"),
        ({"images": np.full((2, 4, 4), np.nan)}, r"must lie in \[0, 1\]"),
        ({"images": PIXELS, "labels": [0, 1]}, "expected 5 integers"),
        ({"images": PIXELS, "labels": [0.5] * 5}, "expected 5 integers"),
        ({"images": PIXELS, "labels": [0, 1, 2, 3, 2**62]}, "count classes from 0"),
        ({"images": [PIXELS[0], PIXELS[1, :3]]}, "data: cannot be read as an array"),
        ({"images": torch.zeros(2, 3, 3, device="meta")}, "data: cannot be read as an array"),
        ({"images": PIXELS, "labels": [[0], [1, 2]]}, "labels: cannot be read as an array"),
        ({"images": PIXELS, "ids": [1, 2, 3, 4, 1]}, "1 occurs more than once"),
    ],
)
def test_what_is_not_images_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ArraySource(**arguments)


def test_digits_are_embedded():
    source = open_images("digits")
    assert len(source) == 1797
    assert len(source.classes) == 10
    assert source.augmentation.flip == 0.0
