"""Random numbers, images and reference results for the tests of views."""

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from sogclr.common.options import Augmentation
from sogclr.data.randomness import uniforms
from sogclr.data.views.draws import (
    DRAWS,
    blur_sigma,
    blurred,
    flipped,
    grayed,
    jitter_amounts,
    jitter_order,
    jittered,
)
from sogclr.data.views.photometric import BRIGHTNESS, CONTRAST, HUE, SATURATION

OFF = Augmentation(crop_min=0.08, flip=0, color=0, gray=0, blur=0)


SMALLEST, LARGEST = 0.0, np.nextafter(1, 0)


def draws_for(count: int, seed: int = 0) -> np.ndarray:
    return uniforms(seed, 0, np.arange(count, dtype=np.uint64), 0, DRAWS)


def images_of(count: int, size: int) -> Tensor:
    """Noise, with uniform and saturated colours, greys and two-level pixels among it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    images[1::8] = 0
    images[2::8] = 255
    images[3::8] = images[3::8, :1]  # grey
    images[4::8] = (images[4::8] > 127) * 255  # black, white and the six saturated colours
    images[5::8] = images[5::8, :, :1, :1]  # one colour each
    images[6::8] = images[6::8] // 64 * 85  # many ties between channels
    return images


def one_by_one(images: Tensor, draws: np.ndarray, views: Augmentation) -> Tensor:
    """The definition: torchvision's functions, one sample and one operation at a time."""
    flip, jitter = flipped(draws, views), jittered(draws, views)
    amounts, order = jitter_amounts(draws, views), jitter_order(draws)
    gray, blur, sigma = grayed(draws, views), blurred(draws, views), blur_sigma(draws)
    taps = 2 * (images.shape[-1] // 20) + 1
    changes = {
        BRIGHTNESS: TF.adjust_brightness,
        CONTRAST: TF.adjust_contrast,
        SATURATION: TF.adjust_saturation,
        HUE: TF.adjust_hue,
    }
    results = []
    for i, image in enumerate(images):
        x = image.float() / 255
        if flip[i]:
            x = TF.horizontal_flip(x)
        if jitter[i]:
            for column in order[i]:
                x = changes[column](x, float(amounts[i, column]))
        if gray[i]:
            x = TF.rgb_to_grayscale(x, 3)
        if blur[i]:
            x = TF.gaussian_blur(x, [taps, taps], [float(sigma[i])] * 2)
        results.append(x)
    return torch.stack(results)
