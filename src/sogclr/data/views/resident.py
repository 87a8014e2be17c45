"""Small images that stay on the device and are cropped there.

A loader would decode, crop and send each image in every epoch. Here the device holds all images,
a few kilobytes each. Only row numbers and boxes are sent, and a crop is two matrix products.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...common.console import say
from ..decode import UnreadableImageError
from ..image_source import ImageSource

__all__ = ["ResidentImages", "crop_on_device", "first_size", "keep_on_device"]

LARGEST_SIDE = 64  # of an image that is kept, in pixels
LARGEST_SHARE = 1 / 8  # of the device's memory that all images may take


class ResidentImages:
    """All images of a source, which have equal size.

    Args:
        pixels: `(n, 3, H, W)` uint8 on the device; an unreadable image is black.
        unreadable: `(name, reason)` of each unreadable image, by row.
    """

    def __init__(self, pixels: Tensor, unreadable: dict[int, tuple[str, str]]) -> None:
        self.pixels, self.unreadable = pixels, unreadable

    @classmethod
    def of(cls, source: ImageSource, device: torch.device) -> "ResidentImages | None":
        """Read all images of a source with threads; return None if they differ in size."""
        size = first_size(source)
        if size is None:
            return None
        pixels = np.zeros((len(source), 3, size[1], size[0]), dtype=np.uint8)
        unreadable: dict[int, tuple[str, str]] = {}

        def read(row: int) -> bool:
            try:
                image = source.image(row)
            except UnreadableImageError as error:
                unreadable[row] = (error.args[0], error.args[1])
                return True
            if image.size == size:
                pixels[row] = np.asarray(image).transpose(2, 0, 1)
            return image.size == size

        with ThreadPoolExecutor() as pool:
            if not all(pool.map(read, range(len(source)))):
                return None
        return cls(torch.from_numpy(pixels).to(device), unreadable)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images in pixels."""
        return self.pixels.shape[3], self.pixels.shape[2]

    def crops(self, rows: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Crop the images of m rows, `(m, 3, size, size)`; see `crop_on_device`."""
        return crop_on_device(self.pixels.index_select(0, rows), boxes, size)


def keep_on_device(source: ImageSource, device: torch.device) -> ResidentImages | None:
    """Copy all images to a CUDA device; None if they are large, too many, or of several sizes."""
    size = first_size(source)
    if device.type != "cuda" or size is None or max(size) > LARGEST_SIDE:
        return None
    taken = 3 * size[0] * size[1] * len(source)
    if taken > LARGEST_SHARE * torch.cuda.get_device_properties(device).total_memory:
        return None
    images = ResidentImages.of(source, device)
    if images is None:
        say("  images differ in size, so a loader crops them")
    else:
        say(f"  images stay on the device, {taken / 1e6:,.0f} MB")
    return images


def first_size(source: ImageSource) -> tuple[int, int] | None:
    """Return width and height of the first readable image."""
    for row in range(len(source)):
        try:
            return source.image(row).size
        except UnreadableImageError:
            continue
    return None


def crop_on_device(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop as `crops.crop` does up to 64 px. Where it shrinks, some pixels differ by a grey level.

    This is Pillow's antialiased bilinear resampling. An output pixel is a mean of input pixels with
    weights that fall linearly with the distance: first along the width, then along the height.
    Each of the two results is rounded to whole grey levels.

    Args:
        images: `(m, 3, H, W)` uint8.
        boxes: `(m, 4)` float32, left, top, right, bottom in pixels.
        size: side of the result in pixels.

    Returns:
        `(m, 3, size, size)` float32, whole numbers from 0 to 255.
    """
    height, width = images.shape[2:]
    left, top, right, bottom = boxes.unbind(1)
    along_width = _weights(left, right, size, width)  # (m, S, W)
    along_height = _weights(top, bottom, size, height)  # (m, S, H)
    rows = images.to(torch.float32) @ along_width.transpose(1, 2)[:, None]  # (m, 3, H, S)
    rows = rows.add_(0.5).floor_()
    return (along_height[:, None] @ rows).add_(0.5).floor_()  # (m, 3, S, S)


def _weights(low: Tensor, high: Tensor, size: int, count: int) -> Tensor:
    """Return the weights of `count` input pixels for `size` output pixels, `(m, size, count)`."""
    scale = ((high - low) / size)[:, None]  # (m, 1)
    centers = low[:, None] + (torch.arange(size, device=low.device) + 0.5) * scale  # (m, S)
    places = torch.arange(count, device=low.device) + 0.5
    reach = scale.clamp(min=1)[:, :, None]  # (m, 1, 1)
    weights = (1 - (places - centers[:, :, None]).abs() / reach).clamp_(min=0)
    return weights / weights.sum(dim=2, keepdim=True)
