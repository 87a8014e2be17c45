"""Decode image files: which files are images, how any of them becomes RGB, why one cannot."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

__all__ = [
    "DECODING_ERRORS",
    "SUFFIXES",
    "UnreadableImageError",
    "decode_image",
    "reason_of",
    "to_rgb",
    "training_size",
]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# Pillow's errors for damaged files; the type depends on the format and on the kind of damage.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the arguments are `(name, reason)`."""


def decode_image(file: str | Path | BinaryIO) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        file: a path, or an open binary file.

    Raises:
        DECODING_ERRORS: the file is missing, damaged, or not an image; see `reason_of`.
    """
    with Image.open(file) as image:
        image.load()
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB; 16-bit and floating-point greys are scaled, not clipped."""
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


def reason_of(error: BaseException) -> str:
    """Say in a few words why a file cannot be read.

    Args:
        error: one of `DECODING_ERRORS`, or another error that reading the file raised.
    """
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def training_size(side: float) -> int:
    """Derive the image size for training from the median length of the shorter sides.

    Args:
        side: the median in pixels.

    Returns:
        The side in pixels: at most 224, and above 32 a multiple of 8, which strides divide.
    """
    size = min(int(side), 224)
    return size if size <= 32 else size // 8 * 8
