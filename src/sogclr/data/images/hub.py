"""Images that a Hugging Face data set holds."""

import io
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

from ..image_source import ImageSource, UnreadableImageError, to_rgb
from .folder import DECODING_ERRORS, reason_of, training_size

__all__ = ["HubImages"]


class HubImages(ImageSource):
    """A column of images; one that occurs in several rows is one sample.

    A sample's id is a hash of its encoded bytes. Rows without an image, or with one whose header
    cannot be read, are left out.

    Args:
        dataset: a `datasets.Dataset`.
        column: its column of images.
        name: for messages.

    Attributes:
        row_of: for each row of the data set, its row here; None where it is left out.
        reasons: for each row of the data set, why it is left out; "" where it is not.
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
        self.reasons: list[str] = []
        sides: list[int] = []
        for row, record in enumerate(self._encoded):
            try:
                content = _content(record[column])
                key = int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
                if key not in position:
                    with Image.open(io.BytesIO(content)) as image:
                        sides.append(min(image.size))
                    position[key] = len(position)
                    self._first.append(row)
                self.row_of.append(position[key])
                self.reasons.append("")
            except DECODING_ERRORS as error:
                self.row_of.append(None)
                self.reasons.append(reason_of(error))
        self.ids = np.array(list(position), dtype=np.uint64)
        self.marks = np.zeros(len(position), dtype=np.int64)
        self.names = [f"row {row + 1}" for row in self._first]
        self.left_out = []
        self.image_size = training_size(float(np.median(sides))) if sides else 0

    def image(self, row: int) -> Image.Image:
        try:
            content = _content(self._encoded[self._first[row]][self._column])
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return to_rgb(image)
        except DECODING_ERRORS as error:
            raise UnreadableImageError(self.names[row], reason_of(error)) from error

    def describe(self) -> str:
        return f"{self._name}: {len(self):,} images"


def _content(encoded: Any) -> bytes:
    if encoded is None:
        raise ValueError("no image")
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    with open(encoded["path"], "rb") as file:
        return file.read()
