"""Random views of an image in two stages, and the one view that evaluation sees.

    crop          one image in a loader worker, Pillow: crop and resize, to uint8
    photometric   a whole batch on any device: flip, colour jitter, grey, blur

Decoding and cropping alone are several times as fast as all of it, and uint8 is a quarter of
the bytes to hand over; the rest is cheap where it is batched.

All that is random about a view comes from one row of `DRAWS` uniform numbers, made from the
sample's id on the host (`randomness.uniforms`). The layout of a row is the constants below; the
functions from `flipped` to `blur_sigma` are the only ones that give its numbers a meaning.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..settings import Views

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

# Columns of `jitter_amounts`, values of `jitter_order`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_RATIO_MIN, _RATIO_MAX = 3 / 4, 4 / 3
_JITTER_PROBABILITY = 0.8
_SIGMA_MIN, _SIGMA_MAX = 0.1, 2.0
_RADIUS_MAX = 11
_LUMA = (0.2989, 0.587, 0.114)


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
    areas = width * height * (crop_min + (1 - crop_min) * draws[_AREAS])
    log_min, log_max = math.log(_RATIO_MIN), math.log(_RATIO_MAX)
    ratios = np.exp(log_min + (log_max - log_min) * draws[_RATIOS])
    widths = np.rint(np.sqrt(areas * ratios)).astype(int).tolist()
    heights = np.rint(np.sqrt(areas / ratios)).astype(int).tolist()
    for w, h in zip(widths, heights, strict=True):
        if 0 < w <= width and 0 < h <= height:
            left = int(draws[_LEFT] * (width - w + 1))
            top = int(draws[_TOP] * (height - h + 1))
            return left, top, left + w, top + h
    return _largest_central_box(width, height)


def _largest_central_box(width: int, height: int) -> Box:
    w = min(width, round(height * _RATIO_MAX))
    h = min(height, round(width / _RATIO_MIN))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop(image: Image.Image, box: Box, size: int) -> NDArray[np.uint8]:
    """Cut out `box` and resize it, bilinear with antialiasing.

    As everywhere in Pillow, the pixels just outside the box have a part in those at its edge.

    Args:
        image: mode RGB.
        box: left, top, right, bottom, from `crop_box`.
        size: of the result.

    Returns:
        `(3, size, size)` uint8, contiguous.
    """
    return _channels_first(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


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


def flipped(draws: Floats, views: Views) -> NDArray[np.bool_]:
    """Which samples are flipped, `(B,)` from draws `(B, DRAWS)`."""
    return draws[:, _FLIP] < _given(views.flip)


def jittered(draws: Floats, views: Views) -> NDArray[np.bool_]:
    """Which samples have their colours changed, `(B,)`: 0.8 of them, none at strength 0."""
    return draws[:, _JITTER] < (_JITTER_PROBABILITY if _given(views.color) else 0)


def jitter_amounts(draws: Floats, views: Views) -> Floats:
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


def grayed(draws: Floats, views: Views) -> NDArray[np.bool_]:
    """Which samples turn grey, `(B,)`."""
    return draws[:, _GRAY] < _given(views.gray)


def blurred(draws: Floats, views: Views) -> NDArray[np.bool_]:
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
def photometric(images: Tensor, draws: Floats, views: Views) -> Tensor:
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
    x = images.to(torch.float32).div_(255)
    # What _jitter asks for, and of no consequence to the others.
    order = np.argsort(_hue_position(draws), kind="stable")
    for chosen, change in (
        (flipped, _flip),
        (jittered, _jitter),
        (grayed, _gray),
        (blurred, _blur),
    ):
        rows = order[chosen(draws, views)[order]]
        if len(rows):
            index = _on(x.device, rows)
            x.index_copy_(0, index, change(x.index_select(0, index), draws[rows], views))
    return x


def standardize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std per channel.

    Args:
        images: `(B, 3, S, S)` floats in [0, 1].
        mean: three numbers, of the data or of what the encoder was trained on.
        std: three numbers > 0.

    Returns:
        `(B, 3, S, S)`, dtype and device of `images`.
    """
    table = np.array([mean, std])[:, :, None, None]  # (2, 3, 1, 1)
    shift, scale = _on(images.device, table).to(images.dtype)
    return (images - shift).div_(scale)


def _on(device: torch.device, array: NDArray[np.generic]) -> Tensor:
    """To the device without waiting for it. Floats become float32."""
    tensor = torch.from_numpy(array)
    if tensor.is_floating_point():
        tensor = tensor.float()
    return tensor.to(device, non_blocking=device.type == "cuda")


# Below, x is (B, 3, S, S) and holds only samples that take the change, draws is (B, DRAWS).
# x is a copy that a function may overwrite.


def _flip(x: Tensor, draws: Floats, views: Views) -> Tensor:
    return x.flip(-1)


def _jitter(x: Tensor, draws: Floats, views: Views) -> Tensor:
    """Four changes in each sample's own order, without sorting samples into its 24 cases.

    Brightness, contrast and saturation are one formula with three weights, see `_blend_`. So
    every sample takes blend, blend, blend, with the hue shift before, between or after them.
    With the samples sorted by where that is, those that take the k-th blend before it are a
    tail of the batch, the others a head: seven calls on views, whatever the orders are.
    """
    position = _hue_position(draws)
    amounts, order = jitter_amounts(draws, views), jitter_order(draws)
    weights = _on(x.device, _blend_weights(amounts, order))  # (3, B, 3)
    shift = _on(x.device, amounts[:, HUE])
    heads = [int((position <= k).sum()) for k in range(3)]
    for k, head in enumerate(heads):
        _blend_(x[head:], weights[k, head:])
    _shift_hue_(x, shift)
    for k, head in enumerate(heads):
        _blend_(x[:head], weights[k, :head])
    return x


def _hue_position(draws: Floats) -> NDArray[np.int64]:
    """How many of the other three changes come before the hue shift, `(B,)`."""
    return (jitter_order(draws) == HUE).argmax(axis=1)


def _blend_weights(amounts: Floats, order: NDArray[np.int64]) -> Floats:
    """Weights of the image, of its grey and of the mean of its grey: `(3 blends, B, 3)`."""
    blends = order[order != HUE].reshape(-1, 3)  # (B, 3): boolean indexing goes row by row
    factors = np.take_along_axis(amounts, blends, axis=1)
    toward = [(1 - factors) * (blends == target) for target in (SATURATION, CONTRAST)]
    return np.stack([factors, *toward], axis=-1).transpose(1, 0, 2)


def _blend_(x: Tensor, weights: Tensor) -> None:
    """x <- w0 x + w1 grey(x) + w2 mean(grey(x)), clamped; weights `(B, 3)`.

    Brightness has w1 = w2 = 0; saturation w1 = 1 - w0; contrast w2 = 1 - w0.
    """
    if not len(x):
        return
    keep, gray, mean = weights[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    luma = _luma(x)
    level = luma.mean(dim=(2, 3), keepdim=True)  # (B, 1, 1, 1)
    target = luma.mul_(gray).add_(level * mean)
    torch.addcmul(target, x, keep, out=x).clamp_(0, 1)


def _luma(x: Tensor) -> Tensor:
    """Weighted sum of the channels, `(B, 1, S, S)`."""
    red, green, blue = x.split(1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _shift_hue_(x: Tensor, shift: Tensor) -> None:
    """Add `shift` `(B,)`, in turns, to the hue of HSV.

    Saturation and value stay, so the largest and smallest of the three channels do; hue says
    how far each channel is from one to the other: it is at the largest up to a sixth of a turn
    from the channel's own hue, at the smallest beyond two, linear between.
    """
    low = x.amin(1)  # (B, S, S)
    span = x.amax(1).sub_(low)
    sixths = _hue(x, low, span).add_(6 * shift[:, None, None])
    own = torch.arange(-2, 3, 2, device=x.device)[:, None, None]  # (3, 1, 1): red, green, blue
    # Distance on the circle is 3 - ||t| - 3| for |t| <= 6. Beyond, up to |t| = 7, the clamp
    # hides the difference; hue is in [-3, 3] and shift in [-1.5, 1.5] sixths.
    share = (sixths[:, None] - own).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)  # (B, 3, S, S)
    torch.addcmul(low[:, None], share, span[:, None], out=x)


def _hue(x: Tensor, low: Tensor, span: Tensor) -> Tensor:
    """Hue in sixths of a turn from green towards blue, in [-3, 3]: `(B, S, S)`.

    Without the usual cases. With channels scaled so that the smallest is 0, the largest 1 and
    the one between m, the distance from green is m, 2 - m or 2 + m as green is the largest, the
    middle or the smallest: each time 1 + red + blue - green. Its sign is that of blue - red.
    """
    red, green, blue = x.unbind(1)
    excess = (red + blue).sub_(green).sub_(low)
    distance = excess.div_(span.clamp(min=torch.finfo(x.dtype).tiny)).add_(1)
    return distance.copysign_(blue - red)


def _gray(x: Tensor, draws: Floats, views: Views) -> Tensor:
    return _luma(x).expand_as(x)


def _blur(x: Tensor, draws: Floats, views: Views) -> Tensor:
    """Gaussian along the width, then along the height; edges reflected."""
    size = x.shape[-1]
    radius = blur_radius(size)
    kernels = _on(x.device, _gaussians(blur_sigma(draws), radius))  # (B, K)
    kernels = kernels[:, None].expand(-1, 3, -1).flatten(0, 1)  # (3B, K), one for each plane
    planes = F.pad(x, (radius,) * 4, mode="reflect").flatten(0, 1)  # (3B, S + K - 1, S + K - 1)
    # Under autocast a convolution would round to half precision.
    with torch.autocast(x.device.type, enabled=False):
        planes = F.conv2d(planes[None], kernels[:, None, None], groups=len(kernels))
        planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    # Weights rounded to float32 can add up to slightly more than 1.
    return planes.view_as(x).clamp_(max=1)


def _gaussians(sigma: Floats, radius: int) -> Floats:
    """Normalized kernels, `(B,)` to `(B, 2 radius + 1)`."""
    distance = np.arange(-radius, radius + 1) / sigma[:, None]
    weights = np.exp(-0.5 * distance**2)
    # Subnormal numbers make the convolution up to five times slower on a CPU.
    weights[weights < 1e-9] = 0
    return weights / weights.sum(axis=1, keepdims=True)
