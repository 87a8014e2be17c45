"""Random views of an image in two stages, and the one view that evaluation sees.

    crop          one image in a loader worker: crop and resize, to uint8
    photometric   a whole batch on any device: flip, colour jitter, grey, blur (`changes.py`)

Decoding and cropping alone are twice as fast as all of it, and uint8 is a quarter of the bytes to
hand over; the rest is cheap where it is batched.

All that is random about a view comes from one row of `DRAWS` uniform numbers, made from the
sample's id on the host (`randomness.uniforms`). The layout of a row is the constants below; the
functions from `flipped` to `blur_sigma` are the only ones that give its numbers a meaning.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...common.options import Augmentation
from .photometric import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    blur,
    gray,
    hue_position,
    jitter_,
    on_device,
)

__all__ = [
    "BRIGHTNESS",
    "CONTRAST",
    "DRAWS",
    "HUE",
    "SATURATION",
    "blur_radius",
    "blur_sigma",
    "blurred",
    "center_view",
    "crop",
    "crop_box",
    "crop_boxes",
    "encoder_inputs",
    "flipped",
    "grayed",
    "jitter_amounts",
    "jitter_order",
    "jittered",
    "photometric",
    "standardize",
]

Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]

# A row of draws. The numbers are part of what a seed means: new ones go to the end.
_ATTEMPTS = 10
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

_SMALL = 64  # pixels

# Floats of a part. On a CPU what a part is made of has to stay in its caches; and a convolution
# with a kernel for each plane pads their number to a multiple of 16: five views of 224 px are 15.
_PART = 5 * 3 * 224**2


def crop_box(draws: Floats, width: int, height: int, crop_min: float) -> Box:
    """The part of an image that a view shows: `torchvision.transforms.RandomResizedCrop`'s.

    The share of the area is uniform in [crop_min, 1] and the logarithm of width/height in
    +-log(4/3). The first of ten such boxes that fits into the image is placed anywhere in it;
    if none fits, it is the largest central box within the limits of width/height.

    Args:
        draws: `(DRAWS,)` float64 in [0, 1).
        width: of the image, in pixels.
        height: of the image.
        crop_min: smallest share of the image's area, in [0, 1].

    Returns:
        left, top, right, bottom in pixels; at least one pixel, inside the image.
    """
    # Plain numbers, one box at a time: most often the first fits.
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
    """`crop_box` of each row of `(B, DRAWS)` draws, for images of one size: `(B, 4)`."""
    pixels = width * height * (crop_min + (1 - crop_min) * draws[:, _AREAS])  # (B, 10)
    shape = _RATIO_MIN * (_RATIO_MAX / _RATIO_MIN) ** draws[:, _RATIOS]
    w, h = np.rint(np.sqrt(pixels * shape)), np.rint(np.sqrt(pixels / shape))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    which = np.arange(len(draws)), fits.argmax(axis=1)  # the first
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


def crop(image: Image.Image, box: Box, size: int) -> NDArray[np.uint8]:
    """Cut out `box` and resize it, bilinear with antialiasing.

    Up to 64 px by Pillow, where a call of torch's costs more than the work. The pixels just
    outside the box have a part in those at its edge.

    Beyond, by torch, which has vector instructions for it: half the time, copies included. It is
    `RandomResizedCrop`: the box is cut out first. Bytes are within one grey level of the exact
    result, as Pillow's are; 19 of 20 are the same as Pillow's, the others one off, hardly any two.

    Args:
        image: mode RGB.
        box: left, top, right, bottom, from `crop_box`.
        size: of the result.

    Returns:
        `(3, size, size)` uint8, contiguous.
    """
    if size <= _SMALL:
        return _channels_first(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    pixels = torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1)  # (3, H, W)
    resized = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].numpy())


def center_view(
    image: Image.Image, size: int, *, share: float | None = None, sharp: bool = False
) -> NDArray[np.uint8]:
    """The view for evaluation, nothing random: resize, then cut out the centre.

    Rounding is that of torchvision's Resize and CenterCrop, in one resampling of what remains.

    Args:
        image: mode RGB.
        size: of the result.
        share: of the shorter side that is kept. Default: all of it up to 64 pixels, as there
            small images fill the frame, and 0.875 above (224 of 256 pixels: the usual protocol
            on ImageNet).
        sharp: bicubic, as CLIP's models are used to, instead of bilinear.

    Returns:
        `(3, size, size)` uint8, contiguous.
    """
    width, height = image.size
    share = share or (1.0 if size <= 64 else 0.875)
    shorter = round(size / share)
    scaled_width = shorter * width // min(width, height)
    scaled_height = shorter * height // min(width, height)
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    # Multiply first: a quotient that is rounded first can put the box outside the image.
    box = (
        left * width / scaled_width,
        top * height / scaled_height,
        (left + size) * width / scaled_width,
        (top + size) * height / scaled_height,
    )
    resampling = Image.Resampling.BICUBIC if sharp else Image.Resampling.BILINEAR
    return _channels_first(image.resize((size, size), resampling, box=box))


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # (3, S, S)


def flipped(draws: Floats, views: Augmentation) -> NDArray[np.bool_]:
    """Which samples are flipped, `(B,)` from draws `(B, DRAWS)`."""
    return draws[:, _FLIP] < _given(views.flip)


def jittered(draws: Floats, views: Augmentation) -> NDArray[np.bool_]:
    """Which samples have their colours changed, `(B,)`: 0.8 of them, none at strength 0."""
    return draws[:, _JITTER] < (_JITTER_PROBABILITY if _given(views.color) else 0)


def jitter_amounts(draws: Floats, views: Augmentation) -> Floats:
    """Factors of brightness, contrast and saturation, and hue shift in turns: `(B, 4)`.

    With c the strength, factors are uniform in [max(0, 1 - 0.8c), 1 + 0.8c], shifts in
    [-0.2c, 0.2c].
    """
    color = _given(views.color)
    smallest, largest = max(0.0, 1 - 0.8 * color), 1 + 0.8 * color
    low = np.array([smallest, smallest, smallest, -0.2 * color])
    high = np.array([largest, largest, largest, 0.2 * color])
    return low + (high - low) * draws[:, _AMOUNTS]


def jitter_order(draws: Floats) -> NDArray[np.int64]:
    """The four changes in the order in which a sample takes them, as columns of its amounts.

    `(B, 4)`, each row a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE.
    """
    return np.argsort(draws[:, _ORDER], axis=1, kind="stable")


def grayed(draws: Floats, views: Augmentation) -> NDArray[np.bool_]:
    """Which samples turn grey, `(B,)`."""
    return draws[:, _GRAY] < _given(views.gray)


def blurred(draws: Floats, views: Augmentation) -> NDArray[np.bool_]:
    """Which samples are blurred, `(B,)`."""
    return draws[:, _BLUR] < _given(views.blur)


def blur_sigma(draws: Floats) -> Floats:
    """Standard deviation of the blur in pixels, `(B,)`, uniform in [0.1, 2]."""
    return _SIGMA_MIN + (_SIGMA_MAX - _SIGMA_MIN) * draws[:, _SIGMA]


def blur_radius(size: int) -> int:
    """Of the blur's kernel, in pixels: a twentieth of the image, at least 1.

    SimCLR's rule, rounded as there. A kernel ends at 11 pixels, 5.5 of the largest sigmas, as
    what lies further out is below the resolution of float32.
    """
    return max(1, min(size // 20, _RADIUS_MAX))


def _given(value: float | None) -> float:
    if value is None:
        raise ValueError("views are not resolved: pass views.resolved(image_size)")
    return value


@torch.no_grad()
def photometric(images: Tensor, draws: Floats, views: Augmentation) -> Tensor:
    """Flip, colour jitter, grey, blur, in this order, each sample with its own parameters.

    Every operation gives what `torchvision.transforms.v2.functional` gives for a float image,
    hue included. Which samples take it is known on the host, so nothing waits for the device
    and work is done for those samples only. A result does not depend on the rest of the batch.

    Args:
        images: `(B, 3, S, S)` uint8, on any device.
        draws: `(B, DRAWS)` float64 in [0, 1), on the host.
        views: resolved, see `Views.resolved`.

    Returns:
        `(B, 3, S, S)` float32 in [0, 1] on the same device.

    Raises:
        ValueError: a choice in `views` is None.
    """
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for index, x in _changed_parts(images, draws, views):
        out.index_copy_(0, index, x)
    return out


@torch.no_grad()
def encoder_inputs(
    images: Tensor,
    draws: Floats,
    views: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """`photometric`, then `standardize`, in one pass over memory.

    Args:
        images: as `photometric` takes them, with draws and views.
        mean: as `standardize` takes it, with std.

    Returns:
        `(B, 3, S, S)` float32, channels last in memory, as convolutions like it.
    """
    out = torch.empty(
        images.shape,
        dtype=torch.float32,
        device=images.device,
        memory_format=torch.channels_last,
    )
    for index, x in _changed_parts(images, draws, views):
        # index_copy_ is slow where the layouts differ.
        done = _standardize_(x, mean, std).contiguous(memory_format=torch.channels_last)
        out.index_copy_(0, index, done)
    return out


def _changed_parts(
    images: Tensor, draws: Floats, views: Augmentation
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their views, `(b,)` int64 and `(b, 3, S, S)`, until all rows have been given."""
    most = max(1, len(images))
    if images.device.type == "cpu":
        most = max(1, _PART // math.prod(images.shape[1:]))
    for rows in _parts(draws, views, most):
        index = on_device(images.device, rows)
        yield index, _changed(images.index_select(0, index), draws[rows], views)


def _parts(draws: Floats, views: Augmentation, most: int) -> Iterator[NDArray[np.int64]]:
    """Rows to be worked on together, `most` at a time, such that changes are made in place.

    The rows of a part are either all blurred, and of like sigma, or none is. Those that are not
    jittered come first, the others sorted as `jitter_` asks for.
    """
    sigma = np.where(blurred(draws, views), blur_sigma(draws), 0.0)
    place = np.where(jittered(draws, views), hue_position(jitter_order(draws)), -1)
    order = np.lexsort((place, sigma))
    for rows in np.split(order, [int((sigma == 0).sum())]):
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            yield part[np.argsort(place[part], kind="stable")]


def _changed(images: Tensor, draws: Floats, views: Augmentation) -> Tensor:
    """The views of a part; `images` uint8 `(b, 3, S, S)` may be overwritten."""
    # While a pixel is a byte.
    _replace_(images, flipped(draws, views), lambda x: x.flip(-1))
    x = images.to(torch.float32).div_(255)
    jitter = jittered(draws, views)
    if jitter.any():
        first = int(jitter.argmax())
        amounts, order = jitter_amounts(draws[first:], views), jitter_order(draws[first:])
        jitter_(x[first:], amounts, order)
    _replace_(x, grayed(draws, views), gray)
    if blurred(draws, views).all():
        return blur(x, blur_sigma(draws), blur_radius(x.shape[-1]))
    return x


def _replace_(x: Tensor, chosen: NDArray[np.bool_], change: Callable[[Tensor], Tensor]) -> None:
    if chosen.any():
        index = on_device(x.device, np.flatnonzero(chosen))
        x.index_copy_(0, index, change(x.index_select(0, index)))


def standardize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std per channel.

    Args:
        images: `(B, 3, S, S)` floats in [0, 1].
        mean: three numbers, of the data or of what the encoder was trained on.
        std: three numbers > 0.

    Returns:
        `(B, 3, S, S)`, dtype and device of `images`.
    """
    return _standardize_(images.clone(), mean, std)


def _standardize_(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    table = np.array([mean, std])[:, :, None, None]  # (2, 3, 1, 1)
    shift, scale = on_device(x.device, table).to(x.dtype)
    return x.sub_(shift).div_(scale)
