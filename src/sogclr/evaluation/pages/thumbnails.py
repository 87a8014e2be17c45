"""Turn images into `data:` addresses, which need no file beside the page."""

import io
from base64 import b64encode
from pathlib import Path

from PIL import Image, ImageOps

from ...data.decode import DECODING_ERRORS, UnreadableImageError, decode_image, reason_of
from ...data.image_source import ImageSource
from .page import Thumbnail

__all__ = ["SMALL", "as_data", "contain_in_square", "file_as_data", "make_thumbnail", "tile_image"]

SIDE = 112  # pixels of a thumbnail's longer side
SMALL = 48  # an image up to this side is enlarged with its pixels as squares
QUALITY = 80  # of WebP, which all browsers show


def as_data(image: Image.Image) -> str:
    """Encode an image as a `data:` address; small ones without loss."""
    buffer = io.BytesIO()
    lossless = max(image.size) <= SMALL
    image.save(buffer, format="WEBP", quality=QUALITY, lossless=lossless)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode("ascii")


def file_as_data(path: Path, widest: int) -> str | None:
    """Encode an image file, at most `widest` pixels wide; None if it is missing or damaged."""
    try:
        image = decode_image(path)
    except DECODING_ERRORS:
        return None
    if image.width > widest:
        image = ImageOps.contain(image, (widest, image.height))
    return as_data(image)


def make_thumbnail(source: ImageSource, row: int) -> Thumbnail:
    """Make a thumbnail of an image; a placeholder if the image cannot be read."""
    try:
        image = source.image(row)
    except UnreadableImageError as error:
        return Thumbnail(None, str(error.args[-1]))
    except DECODING_ERRORS as error:
        return Thumbnail(None, reason_of(error))
    pixelated = max(image.size) <= SMALL
    if max(image.size) > SIDE:
        image = ImageOps.contain(image, (SIDE, SIDE))
    return Thumbnail(as_data(image), pixelated=pixelated)


def tile_image(source: ImageSource, row: int, side: int) -> Image.Image | None:
    """Return an image within a square of `side` pixels; None if it cannot be read."""
    try:
        image = source.image(row)
    except (UnreadableImageError, *DECODING_ERRORS):
        return None
    return contain_in_square(image, side)


def contain_in_square(image: Image.Image, side: int) -> Image.Image:
    """Shrink or enlarge an image to fit into a square; the pixels of a small one stay squares."""
    method = Image.Resampling.NEAREST if max(image.size) <= SMALL else Image.Resampling.BICUBIC
    return ImageOps.contain(image, (side, side), method)
