"""Open whatever a user passes as image data: a folder, shards, an array, or a name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..common.errors import UserError
from ..common.options import Damaged
from .image_source import ImageSource, summarize
from .images.arrays import ArraySource, digits
from .images.folder import FolderSource
from .tar.images import ShardSource
from .tar.patterns import find_shards
from .tar.urls import require_random_access

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Data", "open_images", "require_undamaged"]

Data: TypeAlias = "str | Path | np.ndarray | Tensor | tuple[Any, Any] | ImageSource"


def open_images(data: Data) -> ImageSource:
    """Open image data of any kind as an `ImageSource`.

    Args:
        data: one of

            - a folder, flat or nested, of JPEG, PNG, WebP, BMP, TIFF or GIF files;
            - tar shards, see `sogclr.data.tar.patterns.find_shards`;
            - `"digits"`: 1,797 handwritten digits that ship with scikit-learn;
            - an array or tensor of images, or a tuple `(images, labels)`;
            - an `ImageSource`, which is returned unchanged.

    Raises:
        UserError: the data is missing, empty, unreadable, or not images.
    """
    if isinstance(data, ImageSource):
        return data
    if isinstance(data, str) and data == "digits":
        return digits()
    if isinstance(data, str) and not data.strip():
        raise UserError("data: is empty; give a folder, shards, or the name digits")
    require_random_access(data)
    if isinstance(data, str | Path):
        shards = find_shards(data)
        return FolderSource(Path(data)) if shards is None else ShardSource(shards, str(data))
    if isinstance(data, tuple):
        if len(data) != 2:
            raise UserError(f"data: a tuple means (images, labels), got {len(data)} parts")
        return ArraySource(data[0], labels=data[1])
    return ArraySource(data)


def require_undamaged(damaged: Sequence[str], choice: Damaged) -> None:
    """Refuse damaged data, if the user chose that, before hours of training are spent without it.

    Args:
        damaged: the attribute `damaged` of a source of images or pairs.
        choice: "refuse" raises an error; "skip" does nothing.

    Raises:
        UserError: the data is damaged and `choice` is "refuse".
    """
    if damaged and choice != "skip":
        raise UserError(
            f"data: damaged: {summarize(damaged)}; replace the damaged files, "
            "or start with --on-damaged skip to train without them"
        )
