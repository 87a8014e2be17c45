"""Compare the pixels of pictures: is one a copy of the other, scaled, cropped or mirrored?"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["SIDE", "compare_pictures", "make_small"]

SIDE = 32  # pixels of the gray pictures that are cropped
COMPARED = 16  # pixels of the crops that are compared
CROPS = (28, 24)  # sides of crops: seven eighths, and three quarters
NOISE = 2.0  # gray levels; a picture with less contrast counts as blank


def make_small(image: Image.Image) -> np.ndarray:
    """Shrink an image to the gray picture that is compared, `(SIDE, SIDE)` uint8."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def compare_pictures(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Compute the correlation of the pixels of pairs of pictures, whichever alignment is best.

    Each picture of a pair is compared as a whole with crops of the other one, and with their mirror
    images. Brightness and contrast play no part.

    Args:
        small: `(n, SIDE, SIDE)` uint8, from `make_small`.
        pairs: `(p, 2)` int64 positions.

    Returns:
        `(p,)` float32 in [-1, 1].
    """
    pixels = torch.from_numpy(small).float()[:, None]  # (n, 1, SIDE, SIDE)
    whole = _standardize(pixels)
    first, second = torch.from_numpy(pairs).T
    best = torch.full((len(pairs),), -1.0)
    for top, left, side in _windows():
        crops = pixels[:, :, top : top + side, left : left + side]
        for view in (crops, crops.flip(3)):
            unit = _standardize(view)
            for one, other in ((first, second), (second, first)):
                best = torch.maximum(best, (unit[one] * whole[other]).sum(dim=1))
    return best.clamp(max=1).numpy()


def _windows() -> list[tuple[int, int, int]]:
    """List top, left and side of the whole picture and of its crops."""
    windows = [(0, 0, SIDE)]
    for side in CROPS:
        places = (0, (SIDE - side) // 2, SIDE - side)
        windows += [(top, left, side) for top in places for left in places]
    return windows


def _standardize(pixels: Tensor) -> Tensor:
    """Scale pictures to one size, mean 0 and norm 1, `(n, COMPARED ** 2)`."""
    scaled = interpolate(pixels, size=(COMPARED, COMPARED), mode="bilinear", antialias=True)
    flat = scaled.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    # One more number makes blank pictures alike, which otherwise would be compared by their noise.
    noise = torch.full_like(flat[:, :1], NOISE * COMPARED)
    return torch.nn.functional.normalize(torch.cat([flat, noise], dim=1), dim=1)
