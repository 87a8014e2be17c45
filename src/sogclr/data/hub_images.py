"""Images that a Hugging Face data set holds."""

import io
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

from .folder import DECODING_ERRORS, training_size
from .source import ImageSource, UnreadableImageError, to_rgb

__all__ = ["HubImages"]

SIZED = 50  # images that are opened to learn the usual size


class HubImages(ImageSource):
    """A column of images; one that occurs in several rows is one sample.

    A sample's id is a hash of its encoded bytes.

    Args:
        dataset: a `datasets.Dataset`.
        column: its column of images.
        name: for messages.

    Attributes:
        row_of: for each row of the data set, its row here; None where it holds no image.
    """

    def __init__(self, dataset: Any, column: str, name: str) -> None:
        from datasets import Image as ImageFeature

        self._encoded = dataset.select_columns([column]).cast_column(
            column, ImageFeature(decode=False)
        )
        self._column, self._name = column, name
        position: dict[int, int] = {}
        self._first: list[int] = []
        self.row_of: list[int | None] = []
        for row, record in enumerate(self._encoded):
            content = _content(record[column])
            if content is None:
                self.row_of.append(None)
                continue
            digest = blake2b(content, digest_size=8).digest()
            key = int.from_bytes(digest, "little")
            if key not in position:
                position[key] = len(position)
                self._first.append(row)
            self.row_of.append(position[key])
        self.ids = np.array(list(position), dtype=np.uint64)
        self.marks = np.zeros(len(position), dtype=np.int64)
        self.names = [f"row {row + 1}" for row in self._first]
        self.left_out = []
        sides = [min(self.image(row).size) for row in range(min(SIZED, len(self._first)))]
        self.image_size = training_size(float(np.median(sides))) if sides else 0

    def image(self, row: int) -> Image.Image:
        content = _content(self._encoded[self._first[row]][self._column])
        try:
            with Image.open(io.BytesIO(content or b"")) as image:
                image.load()
                return to_rgb(image)
        except DECODING_ERRORS as error:
            raise UnreadableImageError(self.names[row], str(error)) from error

    def describe(self) -> str:
        return f"{self._name}: {len(self):,} images"


def _content(encoded: Any) -> bytes | None:
    if encoded is None:
        return None
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    with open(encoded["path"], "rb") as file:
        return file.read()
