"""Views in static shapes are the views, and images that stay on a device are cropped as ever."""

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from sogclr.common.options import Augmentation
from sogclr.data.batches.loaders import view_batches
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.images.arrays import ArraySource
from sogclr.data.open_images import open_images
from sogclr.data.views.crops import crop
from sogclr.data.views.draws import DRAWS, crop_box, crop_boxes
from sogclr.data.views.pipeline import encoder_inputs
from sogclr.data.views.resident import ResidentImages, crop_on_device
from sogclr.data.views.static import static_inputs, view_parameters

CPU = torch.device("cpu")
STANDARD = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


def draws_for(count, seed=0):
    return np.random.default_rng(seed).random((count, DRAWS))


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize(
    "views",
    [
        Augmentation(),
        Augmentation(blur=0.5, color=1.0),
        Augmentation(flip=1, color=0, gray=1),
        Augmentation(flip=0, blur=1),
    ],
)
def test_static_views_are_the_views(size, views):
    views, draws = views.resolved(size), draws_for(200)
    crops = torch.from_numpy(
        np.random.default_rng(1).integers(0, 256, (200, 3, size, size), dtype=np.uint8)
    )
    expected = encoder_inputs(crops, draws, views, **STANDARD)
    parameters = torch.from_numpy(view_parameters(draws, views, size))
    found = static_inputs(crops, parameters, views, **STANDARD)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_looked_up_or_read_back(monkeypatch):
    """On the meta device, which autocast does not know, there is nothing to read."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    views = Augmentation(blur=0.5).resolved(16)
    parameters = torch.from_numpy(view_parameters(draws_for(6), views, 16)).to("meta")
    images = torch.zeros(6, 3, 20, 20, dtype=torch.uint8, device="meta")
    crops = crop_on_device(images, torch.zeros(6, 4, device="meta"), 16)
    assert static_inputs(crops, parameters, views, **STANDARD).shape == (6, 3, 16, 16)


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (8, 8), (3, 60), (60, 3), (1, 1)])
@pytest.mark.parametrize("crop_min", [0.0, 0.2, 1.0])
def test_boxes_of_a_batch_are_those_of_each(size, crop_min):
    draws = draws_for(500)
    each = [crop_box(row, *size, crop_min) for row in draws]
    assert np.array_equal(crop_boxes(draws, *size, crop_min), each)


# Where images shrink, weights are rounded in Pillow: one grey level, hardly ever two.
@pytest.mark.parametrize(
    ("image", "result", "most"), [((32, 32), 32, 0), ((8, 8), 16, 0), ((64, 48), 32, 2)]
)
def test_crops_on_the_device_are_the_crops(image, result, most):
    draws = draws_for(200)
    pixels = np.random.default_rng(1).integers(0, 256, (200, *image[::-1], 3), dtype=np.uint8)
    boxes = crop_boxes(draws, *image, 0.08)
    expected = [
        crop(Image.fromarray(one), tuple(int(edge) for edge in box), result)
        for one, box in zip(pixels, boxes, strict=True)
    ]
    images, boxes = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(boxes).float()
    difference = (
        crop_on_device(images, boxes, result) - torch.from_numpy(np.stack(expected))
    ).abs()
    assert difference.max() <= most
    assert (difference > 0).float().mean() < 0.02


def test_batches_of_resident_images_are_those_of_the_loader(make_folder):
    folder = make_folder(per_class=9)
    damaged = folder / "red" / "003.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    source = open_images(folder)
    images = ResidentImages.of(source, CPU)
    assert images.size == (12, 10)
    settings = {"image_size": 16, "crop_min": 0.2, "workers": 0}
    plans = [ShuffledSchedule(source.ids, 5, 1, 2, seed=3) for _ in range(2)]
    unreadable = 0
    for plain, boxed in zip(
        view_batches(source, plans[0], **settings),
        view_batches(source, plans[1], images=images, **settings),
        strict=True,
    ):
        assert np.array_equal(plain.micro_batch.rows, boxed.micro_batch.rows)
        assert np.array_equal(plain.draws, boxed.draws)
        assert plain.unreadable == boxed.unreadable
        unreadable += len(plain.unreadable)
        rows = torch.from_numpy(boxed.micro_batch.rows).repeat(2)
        crops = images.crops(rows, boxed.crops, 16)
        assert torch.equal(crops, plain.crops.float())
    assert unreadable == 2


def test_images_of_several_sizes_do_not_stay():
    class Mixed(ArraySource):
        def image(self, row):
            return super().image(row).resize((8 + (row == 5), 8))

    source = Mixed(np.zeros((9, 8, 8), dtype=np.uint8))
    assert ResidentImages.of(source, CPU) is None
    assert ResidentImages.of(ArraySource(np.zeros((9, 8, 8), dtype=np.uint8)), CPU) is not None
