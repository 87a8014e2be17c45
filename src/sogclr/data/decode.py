"""Open image files: which formats are read, how a file becomes RGB, and why it cannot be read.

No other module opens images. Pillow would also try formats that run other programs (EPS starts
Ghostscript), so the formats are named here.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..common.regular_files import open_regular_file
from .own_pictures import is_own
from .rgb import to_rgb

__all__ = [
    "DECODING_ERRORS",
    "FORMATS",
    "SUFFIXES",
    "USUAL_SIZE",
    "ImageHeader",
    "UnreadableImageError",
    "decode_image",
    "read_header",
    "reason_of",
    "training_size",
]

_READERS = (JpegImageFile, PngImageFile, WebPImageFile, BmpImageFile, TiffImageFile, GifImageFile)
FORMATS = tuple(str(reader.format) for reader in _READERS)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

# What `decode_image` and `read_header` raise, whatever Pillow raises.
DECODING_ERRORS = (OSError, ValueError)


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the arguments are `(name, reason)`."""


class ImageHeader(NamedTuple):
    """What a file says about its image before the pixels.

    Attributes:
        width, height: stored sides in pixels; an orientation tag may exchange them.
        own: whether this package wrote the image, see `own_pictures.py`.
    """

    width: int
    height: int
    own: bool


def decode_image(file: str | Path | BinaryIO) -> Image.Image:
    """Decode the first frame or page of an image file to RGB, see `to_rgb`.

    Args:
        file: a path, or an open binary file.

    Raises:
        OSError, ValueError: the file is missing, damaged, not an image of `FORMATS`, or has too
            many pixels; see `reason_of`.
    """
    with _open(file) as image:
        return to_rgb(image)


def read_header(file: str | Path | BinaryIO) -> ImageHeader:
    """Read what a file says about its image before the pixels.

    Args:
        file: a path, or an open binary file.

    Raises:
        OSError, ValueError: as `decode_image`, as far as the header tells.
    """
    with _open(file) as image:
        return ImageHeader(*image.size, is_own(image))


@contextmanager
def _open(file: str | Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image of a format in `FORMATS`; turn all errors into `DECODING_ERRORS`."""
    try:
        stream = open_regular_file(file) if isinstance(file, str | Path) else nullcontext(file)
        with stream as opened, Image.open(opened, formats=FORMATS) as image:
            if min(image.size) < 1:
                raise ValueError(f"the image has {image.width} x {image.height} pixels")
            yield image
    except DECODING_ERRORS:
        raise
    except MemoryError as error:
        raise ValueError("too large for the memory") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels; {error}") from error
    # Damaged files make Pillow raise errors of many types (struct.error, IndexError, ...).
    except Exception as error:
        raise ValueError(f"damaged ({type(error).__name__}: {error})") from error


def reason_of(error: BaseException) -> str:
    """Say in a few words why a file cannot be read.

    Args:
        error: one of `DECODING_ERRORS`, or another error that reading the file raised.
    """
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image, or of a format other than {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__


USUAL_SIZE = "the images' usual shorter side, at most 224 px"  # what `training_size` derives


def training_size(side: float) -> int:
    """Derive the image size for training from the median length of the shorter sides.

    Args:
        side: the median in pixels.

    Returns:
        The side in pixels: at most 224, and above 32 a multiple of 8, which strides divide.
    """
    size = min(int(side), 224)
    return size if size <= 32 else size // 8 * 8
