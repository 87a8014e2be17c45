"""Images in memory, and the handwritten digits that ship with scikit-learn."""

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...common.errors import UserError, one_line
from ...common.options import Augmentation
from ..image_source import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ArraySource", "digits"]

LARGEST_LABEL = 1_000_000  # each class up to the largest label has a name


class ArraySource(ImageSource):
    """An array of images.

    Args:
        images: `(n, H, W)`, `(n, H, W, 3)`, `(n, 3, H, W)`, or the same with one channel; uint8,
            or floats in [0, 1]; NumPy or torch.
        labels: `(n,)` integers from 0, or None.
        ids: `(n,)` distinct integers; default: 0 ... n-1. Pass ids if samples are added, removed
            or reordered between runs.
        name: what messages call the data.
        augmentation: settings that differ from the usual ones.

    Raises:
        UserError: wrong shape, range or length, or an id that occurs twice.
    """

    local = True

    def __init__(
        self,
        images: "np.ndarray | Tensor",
        labels: Any = None,
        ids: Any = None,
        *,
        name: str = "array",
        augmentation: Augmentation | None = None,
    ) -> None:
        self._images = _as_uint8_rgb(_to_numpy(images))  # (n, H, W, 3)
        n, height, width, _ = self._images.shape
        self._name = name
        self.names = [str(row) for row in range(n)]
        self.ids = np.arange(n, dtype=np.uint64) if ids is None else _as_ids(ids, n)
        self.marks = np.array([_mark(image) for image in self._images], dtype=np.int64)
        self.labels = None if labels is None else _as_labels(labels, n)
        if self.labels is not None:
            self.classes = [str(c) for c in range(int(self.labels.max()) + 1)]
        self.image_size = min(height, width, 224)
        self.augmentation = augmentation or Augmentation()
        self.left_out = []

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(self._images[row])

    def describe(self) -> str:
        n, height, width, _ = self._images.shape
        return f"{self._name}: {n:,} images in memory, {width} x {height} pixels"


def digits() -> ArraySource:
    """Load 1,797 handwritten digits of 8 x 8 pixels in ten classes from scikit-learn.

    Views are not flipped, because a mirrored digit is another sign. Crops keep at least half of
    the image, because smaller parts of different digits look alike. Images are trained at 16 x 16
    pixels, because strides would reduce 8 pixels to nothing.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    source = ArraySource(
        images, bunch.target, name="digits", augmentation=Augmentation(crop_min=0.5, flip=0.0)
    )
    source.image_size, source.size_reason = 16, "twice the side of these small images"
    return source


def _to_numpy(values: Any, name: str = "data") -> np.ndarray:
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            # NumPy has no bfloat16.
            values = values.float() if values.is_floating_point() else values
        return np.asarray(values)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{name}: cannot be read as an array ({one_line(error)})") from error


def _as_uint8_rgb(images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"data: expected images (n, H, W), (n, H, W, 3) or (n, 3, H, W), got {images.shape}"
        )
    if np.issubdtype(images.dtype, np.floating):
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise UserError("data: floating-point images must lie in [0, 1]; or pass uint8")
        images = (images * 255).round().astype(np.uint8)
    if images.dtype != np.uint8:
        raise UserError(f"data: images must be uint8 or floats in [0, 1], got {images.dtype}")
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))


def _as_ids(given: Any, n: int) -> np.ndarray:
    ids = _to_numpy(given, "ids")
    if ids.shape != (n,) or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"ids: expected {n} integers, got {ids.dtype} of shape {ids.shape}")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < n:
        raise UserError(f"ids: must be distinct, {unique[counts > 1][0]} occurs more than once")
    return ids.astype(np.int64).view(np.uint64)


def _as_labels(given: Any, n: int) -> np.ndarray:
    labels = _to_numpy(given, "labels")
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"labels: expected {n} integers from 0, got {labels.dtype} of shape {labels.shape}"
        )
    if labels.max() >= LARGEST_LABEL:
        raise UserError(f"labels: {labels.max()} is no number of a class; count classes from 0")
    return labels.astype(np.int64)


def _mark(image: np.ndarray) -> int:
    digest = blake2b(image.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
