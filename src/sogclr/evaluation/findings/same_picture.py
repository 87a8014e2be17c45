"""Compare the pixels of pictures: is one a copy of the other, scaled, cropped or mirrored?"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["SIDE", "choose_threshold", "compare_pictures", "make_small"]

SIDE = 32  # pixels of the gray pictures that are cropped
COMPARED = 16  # pixels of the crops that are compared
CROPS = (28, 24)  # sides of crops: seven eighths, and three quarters
NOISE = 2.0  # gray levels; a picture with less contrast counts as blank
# Correlation of the pixels of copies, the least anywhere and the most that is asked for. Of changed
# copies of photographs, nearly all have more than both, see docs/curate.md.
LEAST, MOST = 0.97, 0.995
UNUSUAL = 4.0  # standard deviations above the median; by chance one of 30,000 pairs


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


def choose_threshold(similarity: np.ndarray) -> float:
    """Choose the correlation from which two pictures are copies, by what is usual in the data.

    Small pictures of few shapes, such as digits, are often nearly the same without being copies. So
    copies have an unusually large correlation, on Fisher's scale, which spreads what is near 1.
    The spread is that of the lower half, on which copies have no influence. If most pictures have
    copies, those are usual; so nothing above 0.995 is left out.

    Args:
        similarity: `(p,)` correlations of neighbours, from `compare_pictures`.
    """
    if not len(similarity):
        return LEAST
    scale = np.arctanh(np.clip(similarity.astype(np.float64), -1 + 1e-6, 1 - 1e-6))
    quarter, middle = np.quantile(scale, [0.25, 0.5])
    unusual = np.tanh(middle + UNUSUAL * (middle - quarter) / 0.6745)
    return float(np.clip(unusual, LEAST, MOST))


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
