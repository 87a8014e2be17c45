"""Changed copies of a picture correlate with it, other pictures do not."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sogclr.evaluation.findings.same_picture import (
    LEAST,
    MOST,
    choose_threshold,
    compare_pictures,
    make_small,
)


def make_picture(seed, side=96):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def compare(one, other):
    small = np.stack([make_small(one), make_small(other)])
    return float(compare_pictures(small, np.array([[0, 1]]))[0])


CHANGES = {
    "same": lambda image: image,
    "smaller": lambda image: image.resize((40, 40)),
    "cropped": lambda image: image.crop((12, 0, 96, 84)),
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "gray": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_the_same_picture(change):
    image = make_picture(0)
    assert compare(image, change(image)) > 0.97
    assert compare(change(image), image) == pytest.approx(compare(image, change(image)), abs=1e-5)


def test_other_pictures_are_not_the_same():
    assert max(compare(make_picture(0), make_picture(seed)) for seed in range(1, 20)) < 0.9


def test_blank_pictures_are_the_same_whatever_their_noise():
    noise = np.random.default_rng(0).integers(200, 202, (2, 40, 40, 3), dtype=np.uint8)
    blank, other = (Image.fromarray(pixels) for pixels in noise)
    assert compare(blank, other) > 0.97
    assert compare(blank, make_picture(0)) < 0.5


def draw_correlations(usual, count=2_000):
    """Draw correlations around a usual one, as Fisher's scale spreads them."""
    return np.tanh(np.random.default_rng(0).normal(np.arctanh(usual), 0.2, count))


def test_the_threshold_is_above_what_is_usual():
    assert choose_threshold(draw_correlations(0.5)) == LEAST
    alike = draw_correlations(0.92)
    assert LEAST < choose_threshold(alike) < MOST
    assert (alike >= choose_threshold(alike)).mean() < 0.001
    assert choose_threshold(np.empty(0)) == LEAST


@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_copies_are_above_the_threshold_however_many_there_are(share):
    similarity = draw_correlations(0.92)
    copies = round(share * len(similarity))
    similarity[:copies] = np.linspace(0.9955, 1, copies)
    found = similarity >= choose_threshold(similarity)
    assert found[:copies].all()
    assert found[copies:].mean() < 0.01 if copies < len(found) else True
