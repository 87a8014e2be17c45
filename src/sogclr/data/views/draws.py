"""The meaning of a view's random numbers: which crop, which changes, and how strong.

All randomness of a view comes from `DRAWS` uniform numbers in [0, 1), derived from the sample's id
(`randomness.uniforms`). The constants below are their layout; only the functions of this file
interpret them.

Arguments named `draws` are `(B, DRAWS)` float64 on the host. Arguments named `augmentation` are
resolved, see `Augmentation.resolved`; a setting that is None raises ValueError.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ...common.options import Augmentation

__all__ = [
    "DRAWS",
    "Box",
    "Floats",
    "blur_radius",
    "blur_sigma",
    "blurred",
    "crop_box",
    "crop_boxes",
    "flipped",
    "grayed",
    "jitter_amounts",
    "jitter_order",
    "jittered",
]

Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, right, bottom

# The layout. Reordering it would change what every seed gives; append new numbers at the end.
_ATTEMPTS = 10  # boxes that are tried before the fallback
_AREAS = slice(0, _ATTEMPTS)
_RATIOS = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_LEFT, _TOP = 20, 21
_FLIP = 22
_JITTER = 23
_AMOUNTS = slice(24, 28)
_ORDER = slice(28, 32)
_GRAY = 32
_BLUR = 33
_SIGMA = 34
DRAWS = 35

_RATIO_MIN, _RATIO_MAX = 3 / 4, 4 / 3
_JITTER_PROBABILITY = 0.8
_SIGMA_MIN, _SIGMA_MAX = 0.1, 2.0
_RADIUS_MAX = 11


def crop_box(draws: Floats, width: int, height: int, crop_min: float) -> Box:
    """Return the box that a view shows, as `torchvision.transforms.RandomResizedCrop` draws it.

    The box's share of the image's area is uniform in [crop_min, 1], and the logarithm of its
    width/height is uniform in [-log(4/3), log(4/3)]. The first of ten such boxes that fits into the
    image gets a random position. If none fits, the box is the largest central one with width/height
    within the limits.

    Args:
        draws: `(DRAWS,)` random numbers of one view.
        width: width of the image, in pixels.
        height: height of the image, in pixels.
        crop_min: smallest share of the image's area, in [0, 1].

    Returns:
        left, top, right, bottom in pixels: a box of at least one pixel inside the image.
    """
    # One box at a time and without NumPy: usually the first one fits.
    for area, ratio in zip(draws[_AREAS].tolist(), draws[_RATIOS].tolist(), strict=True):
        pixels = width * height * (crop_min + (1 - crop_min) * area)
        shape = _RATIO_MIN * (_RATIO_MAX / _RATIO_MIN) ** ratio
        w, h = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < w <= width and 0 < h <= height:
            left = int(draws[_LEFT] * (width - w + 1))
            top = int(draws[_TOP] * (height - h + 1))
            return left, top, left + w, top + h
    return _largest_central_box(width, height)


def crop_boxes(draws: Floats, width: int, height: int, crop_min: float) -> Floats:
    """Return the `crop_box` of each view, `(B, 4)`, for images of equal size."""
    pixels = width * height * (crop_min + (1 - crop_min) * draws[:, _AREAS])  # (B, 10)
    shape = _RATIO_MIN * (_RATIO_MAX / _RATIO_MIN) ** draws[:, _RATIOS]
    w, h = np.rint(np.sqrt(pixels * shape)), np.rint(np.sqrt(pixels / shape))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    which = np.arange(len(draws)), fits.argmax(axis=1)  # the first box that fits
    w, h = w[which], h[which]
    left = np.floor(draws[:, _LEFT] * (width - w + 1))
    top = np.floor(draws[:, _TOP] * (height - h + 1))
    boxes = np.stack([left, top, left + w, top + h], axis=1)
    return np.where(fits.any(axis=1, keepdims=True), boxes, _largest_central_box(width, height))


def _largest_central_box(width: int, height: int) -> Box:
    w = min(width, round(height * _RATIO_MAX))
    h = min(height, round(width / _RATIO_MIN))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def flipped(draws: Floats, augmentation: Augmentation) -> NDArray[np.bool_]:
    """Tell which views are flipped, `(B,)`."""
    return draws[:, _FLIP] < _resolved(augmentation.flip)


def jittered(draws: Floats, augmentation: Augmentation) -> NDArray[np.bool_]:
    """Tell which views get colour jitter, `(B,)`: a share of 0.8, or none if the strength is 0."""
    return draws[:, _JITTER] < (_JITTER_PROBABILITY if _resolved(augmentation.color) else 0)


def jitter_amounts(draws: Floats, augmentation: Augmentation) -> Floats:
    """Return factors of brightness, contrast and saturation, and hue shifts, `(B, 4)`.

    With strength c, factors are uniform in [max(0, 1 - 0.8c), 1 + 0.8c]. Hue shifts are uniform in
    [-0.2c, 0.2c] turns of the colour circle.
    """
    color = _resolved(augmentation.color)
    smallest, largest = max(0.0, 1 - 0.8 * color), 1 + 0.8 * color
    low = np.array([smallest, smallest, smallest, -0.2 * color])
    high = np.array([largest, largest, largest, 0.2 * color])
    return low + (high - low) * draws[:, _AMOUNTS]


def jitter_order(draws: Floats) -> NDArray[np.int64]:
    """Return the order of the four colour changes, as columns of `jitter_amounts`.

    Returns:
        `(B, 4)` int64, for each view a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE.
    """
    return np.argsort(draws[:, _ORDER], axis=1, kind="stable")


def grayed(draws: Floats, augmentation: Augmentation) -> NDArray[np.bool_]:
    """Tell which views turn grey, `(B,)`."""
    return draws[:, _GRAY] < _resolved(augmentation.gray)


def blurred(draws: Floats, augmentation: Augmentation) -> NDArray[np.bool_]:
    """Tell which views are blurred, `(B,)`."""
    return draws[:, _BLUR] < _resolved(augmentation.blur)


def blur_sigma(draws: Floats) -> Floats:
    """Return the blur's standard deviation in pixels, `(B,)`, uniform in [0.1, 2]."""
    return _SIGMA_MIN + (_SIGMA_MAX - _SIGMA_MIN) * draws[:, _SIGMA]


def blur_radius(size: int) -> int:
    """Return the radius of the blur's kernel in pixels: a twentieth of the image, 1 to 11.

    This is SimCLR's rule, with SimCLR's rounding. 11 pixels are 5.5 times the largest sigma;
    weights further out are below the resolution of float32.

    Args:
        size: side of the image in pixels.
    """
    return max(1, min(size // 20, _RADIUS_MAX))


def _resolved(value: float | None) -> float:
    if value is None:
        raise ValueError("augmentation: not resolved; pass augmentation.resolved(image_size)")
    return value
