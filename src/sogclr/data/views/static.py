"""Views without regard to who takes which change: every shape is given by the batch alone.

`views.encoder_inputs` works on the samples that take a change, which saves a CPU half the work.
A GPU has less to do for all samples than to look up some; and what has the same shapes in every
step can be captured as a CUDA graph. Whoever takes no change is given one that changes nothing.
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

# Flip, grey and shift come first.
_BEFORE, _AFTER = slice(3, 12), slice(12, 21)  # three weights of each of three blends
_KERNEL = slice(21, None)


def view_parameters(draws: Floats, views: Augmentation, size: int) -> NDArray[np.float32]:
    """What happens to each view, `(B, P)`; P is given by `size`, of the view in pixels.

    Columns: flip, grey, hue shift, blends before the shift, those after it, the blur's kernel.
    """
    count = len(draws)
    order = jitter_order(draws)
    weights = blend_weights(jitter_amounts(draws, views), order)  # (3, B, 3)
    nothing = np.array([1.0, 0.0, 0.0])
    jitter, position = jittered(draws, views), hue_position(order)
    before = jitter & (position > np.arange(3)[:, None])  # (3, B)
    after = jitter & ~(position > np.arange(3)[:, None])
    radius = blur_radius(size)
    unchanged = np.eye(1, 2 * radius + 1, radius)
    columns = (
        flipped(draws, views)[:, None],
        grayed(draws, views)[:, None],
        (jitter_amounts(draws, views)[:, HUE] * jitter)[:, None],
        *(
            np.where(taken[:, :, None], weights, nothing).transpose(1, 0, 2).reshape(count, 9)
            for taken in (before, after)
        ),
        np.where(blurred(draws, views)[:, None], gaussians(blur_sigma(draws), radius), unchanged),
    )
    return np.concatenate(columns, axis=1, dtype=np.float32)


@torch.no_grad()
def static_inputs(
    crops: Tensor,
    parameters: Tensor,
    views: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """What `views.encoder_inputs` gives, but for rounding.

    Args:
        crops: `(B, 3, S, S)`, grey levels from 0 to 255, any dtype.
        parameters: `(B, P)` float32 of `view_parameters`, on the same device.
        views: which changes there are at all.
        mean: three numbers, of the data or of what the encoder was trained on.
        std: three numbers > 0.

    Returns:
        `(B, 3, S, S)` float32, channels last in memory.
    """
    flip, gray_, shift = parameters[:, :3, None, None, None].unbind(1)  # (B, 1, 1, 1) each
    x = crops.to(torch.float32) / 255
    if views.flip:
        x = torch.where(flip > 0, x.flip(-1), x)
    if views.color:
        for weights in _blends(parameters[:, _BEFORE]):
            blend_(x, weights)
        shift_hue_(x, shift.flatten())
        for weights in _blends(parameters[:, _AFTER]):
            blend_(x, weights)
    if views.gray:
        x = torch.where(gray_ > 0, gray(x), x)
    if views.blur:
        x = blur_planes(x, parameters[:, _KERNEL])
    shift, scale = _standard(tuple(mean), tuple(std), x.device)
    return x.sub(shift).div_(scale).contiguous(memory_format=torch.channels_last)


@cache
def _standard(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """`(2, 3, 1, 1)`. Once, since no graph may hold a copy from the host."""
    return torch.tensor([mean, std], device=device)[:, :, None, None]


def _blends(columns: Tensor) -> tuple[Tensor, ...]:
    """Weights `(B, 3)` of each of three blends, out of `(B, 9)`."""
    return columns.view(-1, 3, 3).unbind(1)
