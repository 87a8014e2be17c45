"""Encode image files one by one, as a user of a run does."""

from PIL import Image


def encode_pictures(model, folder, names):
    """Return the unit vectors `(n, d)` of image files in a folder."""
    pictures = []
    for name in names:
        with Image.open(folder / name) as image:
            pictures.append(image.convert("RGB"))
    return model.encode_image(pictures)
