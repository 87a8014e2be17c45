"""Images in a column of a Hugging Face data set."""

import io
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

from ...common.regular_files import open_regular_file
from ..decode import (
    DECODING_ERRORS,
    UnreadableImageError,
    decode_image,
    read_header,
    reason_of,
    training_size,
)
from ..image_source import ImageSource

__all__ = ["HubImages"]


class HubImages(ImageSource):
    """A column of images; an image that occurs in several records is one sample.

    A sample's id is a hash of the encoded bytes. Records without an image, or with an unreadable
    header, are left out.

    Args:
        dataset: a `datasets.Dataset`.
        column: name of the column of images.
        name: what messages call the data.

    Attributes:
        row_of: for each record, the row of its image; None if the record is left out.
        reasons: for each record, why it is left out, or "".
    """

    def __init__(self, dataset: Any, column: str, name: str) -> None:
        from datasets import Image as ImageFeature

        self._encoded = dataset.select_columns([column]).cast_column(
            column, ImageFeature(decode=False)
        )
        self._column, self._name = column, name
        position: dict[int, int] = {}
        self._record_of: list[int] = []  # of each row, the first record that holds its image
        self.row_of: list[int | None] = []
        self.reasons: list[str] = []
        sides: list[int] = []
        for number, record in enumerate(self._encoded):
            try:
                content = _content(record[column])
                key = int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
                if key not in position:
                    header = read_header(io.BytesIO(content))
                    sides.append(min(header.width, header.height))
                    position[key] = len(position)
                    self._record_of.append(number)
                self.row_of.append(position[key])
                self.reasons.append("")
            except DECODING_ERRORS as error:
                self.row_of.append(None)
                self.reasons.append(reason_of(error))
        self.ids = np.array(list(position), dtype=np.uint64)
        self.marks = np.zeros(len(position), dtype=np.int64)
        self.names = [f"row {number + 1}" for number in self._record_of]
        self.left_out = []
        self.image_size = training_size(float(np.median(sides))) if sides else 0

    def image(self, row: int) -> Image.Image:
        try:
            content = _content(self._encoded[self._record_of[row]][self._column])
            return decode_image(io.BytesIO(content))
        except DECODING_ERRORS as error:
            raise UnreadableImageError(self.names[row], reason_of(error)) from error

    def describe(self) -> str:
        return f"{self._name}: {len(self):,} images"


def _content(encoded: Any) -> bytes:
    """Return the bytes of an image that `datasets` did not decode."""
    if encoded is None or (encoded["bytes"] is None and encoded["path"] is None):
        raise ValueError("no image")
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    with open_regular_file(encoded["path"]) as file:
        return file.read()
