"""`ImageSource`: the interface that every kind of image data offers to the rest of the package.

Every sample has a stable 64-bit id, from which its place in the order and its views derive. Its row
is its position in the source, and the row of the normalizer table. When the data changes, rows
follow the ids. State therefore survives shuffling, resuming, another number of workers, and a data
set that has grown.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.options import Augmentation
from .decode import USUAL_SIZE

__all__ = ["NO_LABEL", "SHOWN", "ImageSource", "summarize"]

NO_LABEL = -1  # of a sample without a label, in data that has labels
SHOWN = 5  # items named in a message


class ImageSource(ABC):
    """Images by row.

    Attributes:
        ids: `(n,)` uint64 sample ids, stable and distinct.
        names: n strings for messages: relative paths, keys in shards, or row numbers.
        marks: `(n,)` int64, the size of each file or a hash of its pixels. If the mark of an id
            changes, its image was replaced.
        labels: `(n,)` int64, `NO_LABEL` for a sample without one; None if the data has no labels.
        classes: names of the labels; None if the data has no labels.
        image_size: side in pixels at which to train by default.
        size_reason: why, as it is printed.
        augmentation: settings that this data needs instead of the usual ones.
        left_out: `(name, reason)` of each sample that exists but cannot be read.
        damaged: descriptions of the files in `left_out` that are broken; see `require_undamaged`.
        local: whether all images are in memory, so that loader workers do not help.
    """

    ids: np.ndarray
    names: Sequence[str]
    marks: np.ndarray
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    image_size: int
    size_reason: str = USUAL_SIZE
    augmentation: Augmentation = Augmentation()
    left_out: list[tuple[str, str]]
    damaged: Sequence[str] = ()
    local: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def image(self, row: int) -> Image.Image:
        """Return the image of this row, in mode RGB.

        Raises:
            UnreadableImageError: the file is missing or damaged.
        """

    def file(self, row: int) -> Path | None:
        """Return the file of this row's image; None if the image has no file to itself."""
        return None

    @abstractmethod
    def describe(self) -> str:
        """Say in one line what the data is and how many images it has."""


def summarize(items: Sequence[str]) -> str:
    """Join the first five items, and say how many more there are."""
    more = len(items) - SHOWN
    return "; ".join(items[:SHOWN]) + (f"; and {more:,} more" if more > 0 else "")
