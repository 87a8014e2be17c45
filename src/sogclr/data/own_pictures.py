"""Mark the pictures that this package writes, so that they are not mistaken for data later."""

from pathlib import Path

from PIL import Image, PngImagePlugin

__all__ = ["MARK", "is_own", "write_picture"]

MARK = {"Software": "sogclr"}  # a text in the header of a PNG file


def write_picture(image: Image.Image, target: Path) -> None:
    """Write a PNG file with the mark.

    Raises:
        OSError: the file cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    for key, text in MARK.items():
        info.add_text(key, text)
    image.save(target, format="PNG", pnginfo=info)


def is_own(image: Image.Image) -> bool:
    """Tell whether an opened image has the mark."""
    return all(image.info.get(key) == text for key, text in MARK.items())
