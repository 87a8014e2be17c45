"""Encode image files one by one, as a user of a run does."""

from PIL import Image

from sogclr.data.decode import FORMATS

# Why a file that is no image cannot be read.
NO_IMAGE = f"not an image, or of a format other than {', '.join(FORMATS)}"


def encode_pictures(model, folder, names):
    """Return the unit vectors `(n, d)` of image files in a folder."""
    pictures = []
    for name in names:
        with Image.open(folder / name) as image:
            pictures.append(image.convert("RGB"))
    return model.encode_image(pictures)
