"""Copies are told from pictures that are merely alike."""

import numpy as np
from PIL import ImageEnhance

from sogclr.data.images.arrays import ArraySource
from sogclr.data.open_images import open_images
from sogclr.evaluation.curation.find import find_duplicates
from sogclr.evaluation.pages.samples import Samples

CHANGES = (
    lambda image: image,
    lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    lambda image: ImageEnhance.Contrast(image).enhance(0.7),
)


def test_copies_among_digits_are_found_and_hardly_anything_else():
    digits = open_images("digits")
    images = [digits.image(row) for row in range(len(digits))]
    copied = np.random.default_rng(0).permutation(len(images))[:90].tolist()
    copies = [CHANGES[number % 3](images[row]) for number, row in enumerate(copied)]
    pixels = np.stack([np.asarray(image.convert("L")) for image in [*images, *copies]])
    vectors = pixels.reshape(len(pixels), -1).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    source = ArraySource(pixels)
    found = find_duplicates(Samples(source, np.arange(len(source)), vectors, None))
    pairs = {tuple(sorted((each.row, each.other))) for each in found}
    planted = {(row, len(images) + number) for number, row in enumerate(copied)}
    assert len(pairs & planted) > 0.95 * len(planted)
    assert len(pairs & planted) > 0.95 * len(pairs)
