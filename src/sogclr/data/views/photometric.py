"""Change colours and blur a batch, each view with its own parameters.

Every function equals one of `torchvision.transforms.v2.functional` on a float image. Images x are
`(B, 3, S, S)` float32 in [0, 1] on any device. Parameters come from the host, and nothing is copied
back.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "BRIGHTNESS",
    "CONTRAST",
    "HUE",
    "SATURATION",
    "blend_",
    "blend_weights",
    "blur",
    "blur_planes",
    "gaussians",
    "gray",
    "hue_position",
    "jitter_",
    "on_device",
    "shift_hue_",
]

Floats = NDArray[np.float64]

# The four colour changes: columns of `amounts`, and the values in `order`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_LUMA = (0.2989, 0.587, 0.114)
# Weights below this share of the largest are set to 0: float32 does not resolve them, and subnormal
# numbers make the convolution up to five times slower on a CPU.
_SMALLEST_WEIGHT = 1e-9
_REACH = math.sqrt(-2 * math.log(_SMALLEST_WEIGHT))  # 6.4 sigmas


def on_device(device: torch.device, array: NDArray[np.generic]) -> Tensor:
    """Copy an array to a device without waiting; floats become float32."""
    tensor = torch.from_numpy(array)
    if tensor.is_floating_point():
        tensor = tensor.float()
    return tensor.to(device, non_blocking=device.type == "cuda")


def jitter_(x: Tensor, amounts: Floats, order: NDArray[np.int64]) -> None:
    """Apply the four colour changes in each view's own order, in place.

    Brightness, contrast and saturation are one formula with three weights, see `blend_`. Every view
    therefore takes three blends, with the hue shift before, between or after them. The views are
    sorted by the position of their hue shift. Those that take the k-th blend before the shift are
    the tail of the batch, the others its head. That makes seven calls on slices for all 24 orders.

    Args:
        x: changed in place.
        amounts: `(B, 4)`, factors of brightness, contrast and saturation, and hue shift in turns.
        order: `(B, 4)`, columns of `amounts` in each view's order; views sorted by `hue_position`.
    """
    position = hue_position(order)
    weights = on_device(x.device, blend_weights(amounts, order))  # (3, B, 3)
    shift = on_device(x.device, amounts[:, HUE])
    heads = [int((position <= k).sum()) for k in range(3)]
    for k, head in enumerate(heads):
        blend_(x[head:], weights[k, head:])
    shift_hue_(x, shift)
    for k, head in enumerate(heads):
        blend_(x[:head], weights[k, :head])


def hue_position(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the changes before the hue shift, `(B,)` from 0 to 3."""
    return (order == HUE).argmax(axis=1)


def blend_weights(amounts: Floats, order: NDArray[np.int64]) -> Floats:
    """Return the weights of image, grey image and mean grey for each blend, `(3 blends, B, 3)`."""
    blends = order[order != HUE].reshape(-1, 3)  # (B, 3), in each view's order
    factors = np.take_along_axis(amounts, blends, axis=1)
    toward = [(1 - factors) * (blends == target) for target in (SATURATION, CONTRAST)]
    return np.stack([factors, *toward], axis=-1).transpose(1, 0, 2)


def blend_(x: Tensor, weights: Tensor) -> None:
    """Set x to w0 x + w1 grey(x) + w2 mean(grey(x)), clamped to [0, 1]; weights `(B, 3)`.

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
    """Return the weighted sum of the channels, `(B, 1, S, S)`."""
    red, green, blue = x.split(1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def shift_hue_(x: Tensor, shift: Tensor) -> None:
    """Add `shift` `(B,)`, in turns, to the hue of HSV.

    Saturation and value stay, so a pixel's largest and smallest channel value stay. The hue places
    each channel between them, by its distance from the channel's own hue. Up to a sixth of a turn
    the channel has the largest value, beyond two sixths the smallest; it is linear in between.
    """
    low = x.amin(1)  # (B, S, S)
    span = x.amax(1).sub_(low)
    sixths = _hue(x, low, span).add_(6 * shift[:, None, None])
    own = torch.arange(-2, 3, 2, device=x.device)[:, None, None]  # (3, 1, 1): red, green, blue
    # The distance of t on the circle is 3 - ||t| - 3| for |t| <= 6. Hue in [-3, 3] and shift in
    # [-1.5, 1.5] sixths make |t| <= 7 at most, and there the clamp hides the difference.
    share = (sixths[:, None] - own).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)  # (B, 3, S, S)
    torch.addcmul(low[:, None], share, span[:, None], out=x)


def _hue(x: Tensor, low: Tensor, span: Tensor) -> Tensor:
    """Return the hue in sixths of a turn from green towards blue, in [-3, 3], `(B, S, S)`.

    The formula has no cases. Scale the channels so that the smallest is 0, the largest 1
    and the middle one m. The distance from green is then m, 2 - m or 2 + m if green is the largest,
    the middle or the smallest channel. That is 1 + red + blue - green in all three cases, and its
    sign is that of blue - red.
    """
    red, green, blue = x.unbind(1)
    excess = (red + blue).sub_(green).sub_(low)
    distance = excess.div_(span.clamp(min=torch.finfo(x.dtype).tiny)).add_(1)
    return distance.copysign_(blue - red)


def gray(x: Tensor) -> Tensor:
    """Turn images grey; the three channels share the memory of one."""
    return _luma(x).expand_as(x)


def blur(x: Tensor, sigma: Floats, radius: int) -> Tensor:
    """Blur with a Gaussian along the width, then along the height; edges are reflected.

    Args:
        x: images.
        sigma: `(B,)` standard deviations in pixels.
        radius: largest radius of the kernel. The radius is cut to what the largest sigma needs, so
            batches of similar sigma are faster.
    """
    radius = min(radius, math.ceil(_REACH * float(sigma.max())))
    return blur_planes(x, on_device(x.device, gaussians(sigma, radius)))


def blur_planes(x: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image with its own kernel, `(B, 2 radius + 1)` on the device."""
    radius = kernels.shape[1] // 2
    kernels = kernels[:, None].expand(-1, 3, -1).flatten(0, 1)  # (3B, K), one for each plane
    planes = F.pad(x, (radius,) * 4, mode="reflect").flatten(0, 1)  # (3B, S + K - 1, S + K - 1)
    # Autocast would run the convolutions in half precision.
    with torch.autocast(x.device.type, enabled=False):
        planes = F.conv2d(planes[None], kernels[:, None, None], groups=len(kernels))
        planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    # Weights in float32 can add up to slightly more than 1.
    return planes.view_as(x).clamp_(max=1)


def gaussians(sigma: Floats, radius: int) -> Floats:
    """Return normalized Gaussian kernels `(B, 2 radius + 1)` for sigmas `(B,)`."""
    distance = np.arange(-radius, radius + 1) / sigma[:, None]
    weights = np.exp(-0.5 * distance**2)
    weights[weights < _SMALLEST_WEIGHT] = 0
    return weights / weights.sum(axis=1, keepdims=True)
