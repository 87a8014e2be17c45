"""Views in tensors whose shapes depend only on the size of the batch, for CUDA graphs.

`pipeline.encoder_inputs` changes only the views that need a change, which saves a CPU half of the
work. On a GPU, changing all views takes less time than selecting some, and a CUDA graph needs the
same shapes in every step. Views without a change get parameters that change nothing.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.options import Augmentation
from .draws import (
    blur_radius,
    blur_sigma,
    blurred,
    flipped,
    grayed,
    jitter_amounts,
    jitter_order,
    jittered,
)
from .photometric import (
    HUE,
    blend_,
    blend_weights,
    blur_planes,
    gaussians,
    gray,
    hue_position,
    shift_hue_,
)

__all__ = ["static_inputs", "view_parameters"]

Floats = NDArray[np.float64]

# Columns of the parameters, after flip, grey and hue shift.
_BEFORE, _AFTER = slice(3, 12), slice(12, 21)  # three weights of each of three blends
_KERNEL = slice(21, None)


def view_parameters(draws: Floats, augmentation: Augmentation, size: int) -> NDArray[np.float32]:
    """Turn random numbers into the parameters of each view.

    Args:
        draws: `(B, DRAWS)` random numbers.
        augmentation: resolved settings.
        size: side of the views in pixels.

    Returns:
        `(B, P)`: flip, grey, hue shift, three blends before the shift, three after it, and the
        kernel of the blur, whose width depends on `size`.
    """
    count = len(draws)
    order = jitter_order(draws)
    weights = blend_weights(jitter_amounts(draws, augmentation), order)  # (3, B, 3)
    nothing = np.array([1.0, 0.0, 0.0])
    jitter, position = jittered(draws, augmentation), hue_position(order)
    before = jitter & (position > np.arange(3)[:, None])  # (3, B)
    after = jitter & ~(position > np.arange(3)[:, None])
    radius = blur_radius(size)
    unchanged = np.eye(1, 2 * radius + 1, radius)
    columns = (
        flipped(draws, augmentation)[:, None],
        grayed(draws, augmentation)[:, None],
        (jitter_amounts(draws, augmentation)[:, HUE] * jitter)[:, None],
        *(
            np.where(taken[:, :, None], weights, nothing).transpose(1, 0, 2).reshape(count, 9)
            for taken in (before, after)
        ),
        np.where(
            blurred(draws, augmentation)[:, None], gaussians(blur_sigma(draws), radius), unchanged
        ),
    )
    return np.concatenate(columns, axis=1, dtype=np.float32)


@torch.no_grad()
def static_inputs(
    crops: Tensor,
    parameters: Tensor,
    augmentation: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Compute the same as `pipeline.encoder_inputs`, up to rounding.

    Args:
        crops: `(B, 3, S, S)`, grey levels from 0 to 255, any dtype.
        parameters: `(B, P)` float32 of `view_parameters`, on the same device.
        augmentation: resolved settings; a change with probability 0 is skipped for all views.
        mean: three numbers, the means of the encoder's training data.
        std: three numbers > 0, the standard deviations.

    Returns:
        `(B, 3, S, S)` float32, channels last in memory.
    """
    flip, gray_, shift = parameters[:, :3, None, None, None].unbind(1)  # (B, 1, 1, 1) each
    x = crops.to(torch.float32) / 255
    if augmentation.flip:
        x = torch.where(flip > 0, x.flip(-1), x)
    if augmentation.color:
        for weights in _blends(parameters[:, _BEFORE]):
            blend_(x, weights)
        shift_hue_(x, shift.flatten())
        for weights in _blends(parameters[:, _AFTER]):
            blend_(x, weights)
    if augmentation.gray:
        x = torch.where(gray_ > 0, gray(x), x)
    if augmentation.blur:
        x = blur_planes(x, parameters[:, _KERNEL])
    center, scale = _mean_and_std(tuple(mean), tuple(std), x.device)
    return x.sub(center).div_(scale).contiguous(memory_format=torch.channels_last)


@cache
def _mean_and_std(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Return mean and std `(2, 3, 1, 1)`; cached, because a graph must not copy from the host."""
    return torch.tensor([mean, std], device=device)[:, :, None, None]


def _blends(columns: Tensor) -> tuple[Tensor, ...]:
    """Split columns `(B, 9)` into the weights `(B, 3)` of three blends."""
    return columns.view(-1, 3, 3).unbind(1)
