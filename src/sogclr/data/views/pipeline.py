"""Turn a batch of crops into views: flip, colour jitter, grey and blur, on any device.

Loader workers only decode and crop (`crops.py`), to uint8. That takes half the time of a whole view
and sends a quarter of the bytes of float32. The rest is cheap in a batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.options import Augmentation
from .draws import (
    Floats,
    blur_radius,
    blur_sigma,
    blurred,
    flipped,
    grayed,
    jitter_amounts,
    jitter_order,
    jittered,
)
from .photometric import blur, gray, hue_position, jitter_, on_device

__all__ = ["encoder_inputs", "photometric", "standardize"]

# Floats in one part of a batch on a CPU: five views of 224 px, so that a part stays in the caches.
# A convolution with one kernel per plane pads planes to a multiple of 16; these views have 15.
_PART = 5 * 3 * 224**2


@torch.no_grad()
def photometric(images: Tensor, draws: Floats, augmentation: Augmentation) -> Tensor:
    """Flip, jitter colours, turn grey and blur, in this order, each view with its own parameters.

    Every operation equals one of `torchvision.transforms.v2.functional` on a float image. The host
    knows which views take an operation. So nothing waits for the device, and only those views cost
    work. A view does not depend on the rest of the batch.

    Args:
        images: `(B, 3, S, S)` uint8 crops, on any device.
        draws: `(B, DRAWS)` float64 in [0, 1), on the host.
        augmentation: resolved settings, see `Augmentation.resolved`.

    Returns:
        `(B, 3, S, S)` float32 in [0, 1] on the same device.

    Raises:
        ValueError: a setting of `augmentation` is None.
    """
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for index, x in _change_parts(images, draws, augmentation):
        out.index_copy_(0, index, x)
    return out


@torch.no_grad()
def encoder_inputs(
    images: Tensor,
    draws: Floats,
    augmentation: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Apply `photometric` and `standardize` in one pass over memory.

    Args:
        images, draws, augmentation: see `photometric`.
        mean, std: see `standardize`.

    Returns:
        `(B, 3, S, S)` float32, channels last in memory, which is fastest for convolutions.
    """
    out = torch.empty(
        images.shape,
        dtype=torch.float32,
        device=images.device,
        memory_format=torch.channels_last,
    )
    for index, x in _change_parts(images, draws, augmentation):
        # Convert the layout first: index_copy_ between different layouts is slow.
        part = _standardize_(x, mean, std).contiguous(memory_format=torch.channels_last)
        out.index_copy_(0, index, part)
    return out


def _change_parts(
    images: Tensor, draws: Floats, augmentation: Augmentation
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the views part by part: their places in the batch `(b,)`, and `(b, 3, S, S)`."""
    most = max(1, len(images))
    if images.device.type == "cpu":
        most = max(1, _PART // math.prod(images.shape[1:]))
    for places in _parts(draws, augmentation, most):
        index = on_device(images.device, places)
        yield index, _change(images.index_select(0, index), draws[places], augmentation)


def _parts(draws: Floats, augmentation: Augmentation, most: int) -> Iterator[NDArray[np.int64]]:
    """Divide a batch into parts of at most `most` views that are changed together, in place.

    The views of a part are either all blurred, with similar sigma, or none is. Within a part, views
    without jitter come first; the others are sorted as `jitter_` requires.
    """
    sigma = np.where(blurred(draws, augmentation), blur_sigma(draws), 0.0)
    position = np.where(jittered(draws, augmentation), hue_position(jitter_order(draws)), -1)
    order = np.lexsort((position, sigma))
    for places in np.split(order, [int((sigma == 0).sum())]):
        for start in range(0, len(places), most):
            part = places[start : start + most]
            yield part[np.argsort(position[part], kind="stable")]


def _change(images: Tensor, draws: Floats, augmentation: Augmentation) -> Tensor:
    """Make the views of one part; `images`, uint8 `(b, 3, S, S)`, may be overwritten."""
    # Flip first, while a pixel is a byte.
    _replace_(images, flipped(draws, augmentation), lambda x: x.flip(-1))
    x = images.to(torch.float32).div_(255)
    jitter = jittered(draws, augmentation)
    if jitter.any():
        first = int(jitter.argmax())
        amounts, order = jitter_amounts(draws[first:], augmentation), jitter_order(draws[first:])
        jitter_(x[first:], amounts, order)
    _replace_(x, grayed(draws, augmentation), gray)
    if blurred(draws, augmentation).all():
        return blur(x, blur_sigma(draws), blur_radius(x.shape[-1]))
    return x


def _replace_(x: Tensor, chosen: NDArray[np.bool_], change: Callable[[Tensor], Tensor]) -> None:
    """Change the chosen entries of x in place."""
    if chosen.any():
        index = on_device(x.device, np.flatnonzero(chosen))
        x.index_copy_(0, index, change(x.index_select(0, index)))


def standardize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images - mean) / std per channel.

    Args:
        images: `(B, 3, S, S)` floats in [0, 1].
        mean: three numbers, the means of the encoder's training data.
        std: three numbers > 0, the standard deviations.

    Returns:
        `(B, 3, S, S)`, dtype and device of `images`.
    """
    return _standardize_(images.clone(), mean, std)


def _standardize_(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    table = np.array([mean, std])[:, :, None, None]  # (2, 3, 1, 1)
    shift, scale = on_device(x.device, table).to(x.dtype)
    return x.sub_(shift).div_(scale)
