"""Pictures that are sent to a browser, and pictures that come from it."""

import io
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from PIL import Image, ImageOps

from ...data.decode import DECODING_ERRORS, UnreadableImageError, decode_image, reason_of
from ...data.image_source import ImageSource
from ..searching.searchable import Searchable

__all__ = ["LARGE", "MOST_BYTES", "SMALL", "BadPictureError", "Upload", "Uploads", "shown_image"]

MOST_BYTES = 64 << 20  # of a picture that is dropped in
KEPT = 64  # pictures; a page that shows an older one asks for it again
SMALL, LARGE = 320, 1_024  # pixels of the longer side, in the grid and alone
QUALITY = 82  # of WebP, which all browsers show


class BadPictureError(Exception):
    """A picture that cannot be searched for; the message says why."""


@dataclass(frozen=True)
class Upload:
    """A picture that came from a browser.

    Attributes:
        vector: its unit vector `(d,)`.
        picture: the picture in WebP, small enough to be shown.
        pixelated: whether it is so small that its pixels are shown as squares.
    """

    vector: np.ndarray
    picture: bytes
    pixelated: bool


class Uploads:
    """The latest pictures that came from browsers, in memory alone.

    Args:
        searchable: embeds them.
    """

    def __init__(self, searchable: Searchable) -> None:
        self._searchable = searchable
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = Lock()  # one large picture in memory at a time

    def add(self, content: bytes) -> str:
        """Decode and embed a picture, and return the name by which `get` finds it.

        Raises:
            BadPictureError: it is damaged, too large, or no image.
        """
        with self._lock:
            try:
                image = decode_image(io.BytesIO(content))
            except DECODING_ERRORS as error:
                raise BadPictureError(f"This cannot be read: {reason_of(error)}.") from error
            vector = self._searchable.encode_image(image)
            name = secrets.token_urlsafe(9)
            self._kept[name] = Upload(vector, _as_webp(image, LARGE), is_tiny(max(image.size)))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> Upload | None:
        """Return a picture; None if it is unknown, or was forgotten since."""
        return self._kept.get(name)


def is_tiny(side: int) -> bool:
    """Tell whether the pixels of an image with this longer side are shown as squares."""
    return side <= 48


def shown_image(source: ImageSource, row: int, side: int) -> bytes | None:
    """Return an image of the data in WebP, at most `side` pixels long; None if it is unreadable."""
    try:
        return _as_webp(source.image(row), side)
    except (UnreadableImageError, *DECODING_ERRORS):
        return None


def _as_webp(image: Image.Image, side: int) -> bytes:
    if max(image.size) > side:
        image = ImageOps.contain(image, (side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, lossless=is_tiny(max(image.size)))
    return buffer.getvalue()
