"""A source of images: what every kind of data set looks like to the rest of the package.

Its backbone is identity. Every sample has a stable 64-bit id: the row of the normalizer table
belongs to it, and its place in the order and its views derive from it, so that state survives
shuffling, resuming, other numbers of workers, and a data set that has grown.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from ..common.errors import UserError
from ..common.options import Augmentation, Damaged

if TYPE_CHECKING:
    from torch import Tensor

Data: TypeAlias = "str | Path | np.ndarray | Tensor | tuple[Any, Any] | ImageSource"

__all__ = [
    "Data",
    "ImageSource",
    "UnreadableImageError",
    "listed",
    "open_source",
    "require_whole",
    "stable_id",
    "to_rgb",
]

LISTED = 5  # in messages


class UnreadableImageError(Exception):
    """An image that cannot be decoded: `(name, reason)`."""


class ImageSource(ABC):
    """Images by row.

    Attributes:
        ids: `(n,)` uint64, stable and distinct.
        names: n strings for people: relative paths, keys in shards, or row numbers.
        marks: `(n,)` int64, something cheap that changes when a sample is another one
            (the file's size in bytes, a hash of the pixels).
        labels: `(n,)` int64 or None.
        classes: names of the labels, or None.
        image_size: the side, in pixels, at which to train unless told otherwise.
        views: augmentations that this data wants otherwise than usual.
        left_out: `(name, reason)` of what was found but cannot be read.
        damaged: that of it which was whole once, in words; what `require_whole` refuses.
        local: whether reading an image is a mere look-up, so that loader workers are no help.
    """

    ids: np.ndarray
    names: Sequence[str]
    marks: np.ndarray
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    image_size: int
    views: Augmentation = Augmentation()
    left_out: list[tuple[str, str]]
    damaged: Sequence[str] = ()
    local: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def image(self, row: int) -> Image.Image:
        """The image in this row, RGB.

        Raises:
            UnreadableImageError: the file is gone or turned out to be damaged.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what and how many."""


def open_source(data: "Data") -> ImageSource:
    """The source of what a person passed.

    Args:
        data: a folder (flat or nested, JPEG/PNG/WebP), tar shards (see
            `sogclr.data.tar.images.find_shards`), the name `"digits"` (1,797 handwritten digits
            that ship inside scikit-learn), an array or tensor of images, a pair
            `(images, labels)` of them, or a source.

    Raises:
        UserError: missing, empty, unreadable, or not images.
    """
    from .images.arrays import ArraySource, digits
    from .images.folder import FolderSource
    from .tar.http import require_readable_anywhere
    from .tar.images import ShardSource, find_shards

    if isinstance(data, ImageSource):
        return data
    if isinstance(data, str) and data == "digits":
        return digits()
    require_readable_anywhere(data)
    if isinstance(data, str | Path):
        shards = find_shards(data)
        return FolderSource(Path(data)) if shards is None else ShardSource(shards, str(data))
    if isinstance(data, tuple):
        if len(data) != 2:
            raise UserError(f"data: a tuple means (images, labels), got {len(data)} parts")
        return ArraySource(data[0], labels=data[1])
    return ArraySource(data)


def require_whole(damaged: Sequence[str], choice: Damaged) -> None:
    """Let damage pass, or refuse it before hours are spent without what is lost.

    Args:
        damaged: of a source of images or pairs.
        choice: "skip" or "refuse".

    Raises:
        UserError: something is damaged, and that is to be refused.
    """
    if damaged and choice != "skip":
        raise UserError(
            f"data: damaged: {listed(damaged)}; put whole ones in their place, "
            "or start with --on-damaged skip to go without what is lost"
        )


def listed(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(items) - LISTED
    return "; ".join(items[:LISTED]) + (f"; and {more:,} more" if more > 0 else "")


def stable_id(name: str) -> int:
    """64 bits of a name, the same on every machine and in every process."""
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, 16-bit and floating greys scaled rather than clipped."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")
