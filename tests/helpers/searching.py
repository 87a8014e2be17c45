"""Samples that are searched, without a run."""

import numpy as np
import torch
from PIL import Image

from sogclr.data.open_images import open_images
from sogclr.evaluation.searching.exact_index import ExactIndex
from sogclr.evaluation.searching.searchable import Searchable
from sogclr.models.encoders import EncoderSpec
from sogclr.models.image_encoder import ImageEncoder

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "two\nlines 📷 \u202e",
    "{{ 7 * 7 }}{% raw %} & &lt;",
)


class Pixels(torch.nn.Module):
    """An encoder whose features are the pixels of a tiny image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.weight * x.flatten(1)


def searchable_images(data) -> Searchable:
    """Any images, as `open_images` takes them, with their pixels as vectors."""
    source = open_images(data)
    spec = EncoderSpec("custom", 4, (0.5,) * 3, (0.25,) * 3)
    encoder = ImageEncoder(Pixels(), spec)
    vectors = encoder.encode_image([source.image(row) for row in range(len(source))])
    return Searchable(encoder, source, source.describe(), ExactIndex(vectors.numpy()))


def write_hostile_folder(folder, per_label=6):
    """Images in folders and files whose names try to become part of a page."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(HOSTILE):
        name = name.replace("/", "_")  # no name of a file has a slash
        (folder / name).mkdir(parents=True)
        for i in range(per_label):
            pixels = rng.integers(0, 60, (70, 60, 3), dtype=np.uint8)
            pixels[..., number % 3] += np.uint8(60 + 40 * number)
            Image.fromarray(pixels).save(folder / name / f"{i} {name}.png")
    return folder
