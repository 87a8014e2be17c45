"""The one way from any Pillow image to RGB: upright, on white, greys scaled to eight bits."""

import numpy as np
from PIL import Image

__all__ = ["EDITION", "to_rgb"]

# Increase it whenever an image becomes other pixels, so that stored features are computed again.
EDITION = 2

BACKGROUND = (255, 255, 255, 255)  # what viewers and browsers show behind transparent pixels

_ORIENTATION = 0x0112  # the tag in EXIF and TIFF

# Value of the tag to the turn that makes the stored pixels upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to RGB, as a viewer shows it.

    - The orientation tag is applied, if the image still has it.
    - Transparent pixels show white.
    - Greys of more than eight bits, and numbers, are scaled: see `_scale`.

    Args:
        image: an image, which is loaded but not changed.

    Returns:
        The image in mode RGB, without an orientation tag that would turn it again.

    Raises:
        OSError, ValueError: the file behind the image is damaged, or no pixel is a number.
    """
    image.load()  # some formats have tags after the pixels; Pillow turns TIFF images here
    turn = _TURNS.get(_orientation(image))
    rgb = _convert(image)
    if turn is None:
        return rgb
    rgb = rgb.transpose(turn)
    rgb.info = {}
    return rgb


def _orientation(image: Image.Image) -> int:
    """Return the value of the orientation tag; 1, which means upright, if it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged tags raise errors of many types, and the pixels are still good
        return 1


def _convert(image: Image.Image) -> Image.Image:
    """Convert to RGB without turning."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale(image)
    if image.has_transparency_data:
        return _compose(image)
    if image.mode == "LAB":
        return _from_lab(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _compose(image: Image.Image) -> Image.Image:
    """Put an image with transparent pixels on the background."""
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGB":
        image = _with_eight_bit_key(image)
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image.convert("RGBA"))
    return opaque.convert("RGB")


def _with_eight_bit_key(image: Image.Image) -> Image.Image:
    """Shorten the transparent colour of a 16-bit PNG, as Pillow shortens the pixels."""
    key = image.info["transparency"]
    if isinstance(key, tuple) and max(key) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _scale(image: Image.Image) -> Image.Image:
    """Scale greys of more than eight bits to RGB.

    A file says in how many bits a grey is stored, not how many of them a camera filled: 10 and 12
    bits are stored in 16. White is therefore the largest number of 8, 10, 12, 14 or 16 bits (or
    more) that the image needs. Floating-point images are from 0 to 1; others are scaled like
    integers. Black is 0. Negative values have no usual scale: the smallest is black, the largest
    white.
    """
    values = np.asarray(image)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel is a number")
    used = values[finite]
    low, high = min(0.0, float(used.min())), float(used.max())
    white = high - low if low < 0 else _white(high, floating=image.mode == "F")
    scaled = (values.astype(np.float64) - low) / white
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    grey = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = BACKGROUND[0]
    return Image.fromarray(grey).convert("RGB")


def _white(high: float, *, floating: bool) -> float:
    """Return the value that becomes 255 in an image whose largest value is `high`."""
    if floating and high <= 1:
        return 1.0
    bits = int(np.ceil(high)).bit_length()
    return float(2 ** max(bits + bits % 2, 2 if floating else 8) - 1)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it returns None only if it converts in place
    return converted
