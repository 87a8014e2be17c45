"""Take images and texts as users pass them to a trained encoder, one or several."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from ..common.errors import UserError
from ..data.decode import DECODING_ERRORS, decode_image, reason_of
from ..data.rgb import to_rgb

__all__ = ["Images", "OneImage", "as_pixels", "as_rgb", "as_texts"]

OneImage: TypeAlias = "Image.Image | str | Path"
Images: TypeAlias = "Tensor | OneImage | Sequence[OneImage]"


def as_rgb(image: OneImage) -> Image.Image:
    """Return a Pillow image, or the image in a file, in mode RGB.

    Raises:
        UserError: the image cannot be read, or is neither.
    """
    try:
        if isinstance(image, Image.Image):
            return to_rgb(image)
        if isinstance(image, str | os.PathLike):
            return decode_image(Path(image))
    except DECODING_ERRORS as error:
        name = "image" if isinstance(image, Image.Image) else str(image)
        raise UserError(f"images: {name} cannot be read ({reason_of(error)})") from error
    raise UserError(
        f"images: expected Pillow images or paths of image files, got {type(image).__name__}"
    )


def as_pixels(images: Images, preprocess: Callable[[OneImage], Tensor], size: int) -> Tensor:
    """Return preprocessed images `(n, 3, S, S)`; one image is a sequence of one.

    Args:
        images: an image or a sequence of images, as Pillow images or paths; or a tensor of
            preprocessed images.
        preprocess: turns one image into `(3, S, S)`.
        size: S, for an empty sequence.

    Raises:
        UserError: an image cannot be read, or the tensor has another shape or no floats.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"images: expected preprocessed images, floats of shape (n, 3, {size}, {size}), "
                f"got {str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
            )
        return images
    if isinstance(images, Image.Image | str | os.PathLike):
        images = [images]
    if not isinstance(images, Iterable):
        raise UserError(f"images: expected a sequence of images, got {type(images).__name__}")
    pixels = [preprocess(image) for image in images]
    return torch.stack(pixels) if pixels else torch.empty(0, 3, size, size)


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """Return a list of texts; one string is one text.

    Raises:
        UserError: an entry is not a string.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable):
        raise UserError(f"texts: expected a sequence of strings, got {type(texts).__name__}")
    kept = list(texts)
    for place, text in enumerate(kept):
        if not isinstance(text, str):
            raise UserError(f"texts: entry {place} is {type(text).__name__}, expected a string")
    return kept
