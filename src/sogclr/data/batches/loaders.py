"""Load batches: workers read images and crop random views of each, or one central view."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..decode import UnreadableImageError
from ..image_source import ImageSource
from ..randomness import uniforms
from ..views.crops import center_view, crop
from ..views.draws import DRAWS, crop_box, crop_boxes
from ..views.resident import ResidentImages
from .schedule import MicroBatch, Schedule, ShuffledSchedule

T = TypeVar("T")

__all__ = ["Batch", "center_batches", "crop_views", "schedule_loader", "view_batches"]


@dataclass(frozen=True)
class Batch:
    """A micro-batch with its crops.

    Attributes:
        micro_batch: the samples that could be read.
        crops: `(2b, 3, S, S)` uint8, all first views, then all second views; `(b, 3, S, S)` if
            one view was asked for. If images stay on the device: `(2b, 4)` float32, the boxes to
            crop there.
        draws: `(2b, DRAWS)`, or `(b, DRAWS)`, float64 random numbers, from which each view is
            computed.
        unreadable: `(name, reason)` of each sample that was skipped.
    """

    micro_batch: MicroBatch
    crops: Tensor
    draws: np.ndarray
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "Batch":
        return replace(self, crops=self.crops.pin_memory())


class _RandomViews(Dataset):
    """Crops of micro-batches; the loader passes each micro-batch to `__getitems__`."""

    def __init__(
        self, source: ImageSource, size: int, crop_min: float, seed: int, views: int
    ) -> None:
        self.source, self.size, self.crop_min = source, size, crop_min
        self.seed, self.views = seed, views

    def __getitems__(self, micro_batch: MicroBatch) -> Batch:
        ids = self.source.ids[micro_batch.rows]
        draws = [
            uniforms(self.seed, micro_batch.epoch, ids, view, DRAWS) for view in range(self.views)
        ]

        def read_image(i: int) -> Image.Image:
            return self.source.image(int(micro_batch.rows[i]))

        return crop_views(micro_batch, read_image, draws, self.size, self.crop_min)


class _TwoBoxes(Dataset):
    """Crop boxes of micro-batches, for images that stay on the device."""

    def __init__(self, images: ResidentImages, ids: np.ndarray, crop_min: float, seed: int) -> None:
        self.images, self.ids, self.crop_min, self.seed = images, ids, crop_min, seed

    def __getitems__(self, micro_batch: MicroBatch) -> Batch:
        unreadable = self.images.unreadable
        readable = np.array([int(row) not in unreadable for row in micro_batch.rows], dtype=bool)
        skipped = [unreadable[int(row)] for row in micro_batch.rows[~readable]]
        micro_batch = micro_batch.select(readable)
        ids = self.ids[micro_batch.rows]
        views = [uniforms(self.seed, micro_batch.epoch, ids, view, DRAWS) for view in (0, 1)]
        draws = np.concatenate(views)  # (2b, DRAWS)
        boxes = crop_boxes(draws, *self.images.size, self.crop_min).astype(np.float32)
        return Batch(micro_batch, torch.from_numpy(boxes), draws, skipped)


class _CenterViews(Dataset):
    """The central view of each row, for evaluation."""

    def __init__(self, source: ImageSource, size: int) -> None:
        self.source, self.size = source, size

    def __getitems__(self, rows: list[int]) -> tuple[list[int], Tensor, list[tuple[str, str]]]:
        kept, views, unreadable = [], [], []
        for row in rows:
            try:
                views.append(center_view(self.source.image(row), self.size))
                kept.append(row)
            except UnreadableImageError as error:
                unreadable.append((error.args[0], error.args[1]))
        if not views:
            return kept, torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), unreadable
        return kept, torch.from_numpy(np.stack(views)), unreadable


def crop_views(
    micro_batch: MicroBatch,
    read_image: Callable[[int], Image.Image],
    draws: list[np.ndarray],
    size: int,
    crop_min: float,
) -> Batch:
    """Crop the views of each sample; skip samples that cannot be read.

    Args:
        micro_batch: the samples, b of them.
        read_image: returns the image of sample i of the micro-batch, or raises
            `UnreadableImageError`.
        draws: for each view of a sample, `(b, DRAWS)` random numbers.
        size: side of the crops in pixels.
        crop_min: smallest share of the image's area, see `Augmentation`.
    """
    crops = np.empty((len(draws), len(micro_batch.rows), 3, size, size), dtype=np.uint8)
    readable = np.ones(len(micro_batch.rows), dtype=bool)
    unreadable = []
    for i in range(len(micro_batch.rows)):
        try:
            image = read_image(i)
        except UnreadableImageError as error:
            readable[i] = False
            unreadable.append((error.args[0], error.args[1]))
            continue
        for view in range(len(draws)):
            box = crop_box(draws[view][i], *image.size, crop_min)
            crops[view, i] = crop(image, box, size)
    return Batch(
        micro_batch.select(readable),
        # Skip the mask if possible: indexing would copy all crops.
        torch.from_numpy(crops if readable.all() else crops[:, readable]).flatten(0, 1),
        np.concatenate([d[readable] for d in draws]),
        unreadable,
    )


def view_batches(
    source: ImageSource,
    schedule: ShuffledSchedule,
    *,
    image_size: int,
    crop_min: float,
    workers: int,
    pin_memory: bool = False,
    images: ResidentImages | None = None,
    views: int = 2,
) -> DataLoader:
    """Load a `Batch` for each micro-batch, from `schedule.start_step` to the end of the run.

    Args:
        source: the images.
        schedule: the micro-batches.
        image_size: side of the crops in pixels.
        crop_min: smallest share of the image's area, see `Augmentation`.
        workers: loader processes; 0 loads in this process.
        pin_memory: whether to pin crops in memory, for faster copies to a GPU.
        images: the images on the device; batches then have two boxes instead of crops.
        views: number of views of each image.
    """
    if images is not None:
        boxes = _TwoBoxes(images, source.ids, crop_min, schedule.seed)
        return schedule_loader(boxes, schedule, 0, pin_memory)
    crops = _RandomViews(source, image_size, crop_min, schedule.seed, views)
    return schedule_loader(crops, schedule, workers, pin_memory)


def schedule_loader(
    dataset: Dataset, schedule: Schedule, workers: int, pin_memory: bool
) -> DataLoader:
    """Load the result of `dataset.__getitems__` for each micro-batch of a schedule.

    Args:
        dataset: has `__getitems__`, which takes a micro-batch.
        schedule: the micro-batches.
        workers: loader processes; 0 loads in this process.
        pin_memory: whether to pin results in memory, for faster copies to a GPU.
    """
    return DataLoader(
        dataset,
        # The schedule yields micro-batches where torch's types expect lists of numbers.
        batch_sampler=schedule,  # type: ignore[arg-type]
        collate_fn=_unchanged,
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        # With the default generator, the loader's seed would change the random numbers of dropout.
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )


def center_batches(
    source: ImageSource, rows: np.ndarray, *, image_size: int, batch_size: int, workers: int
) -> DataLoader:
    """Load central views in the order of `rows`, for evaluation.

    Args:
        source: the images.
        rows: `(m,)` rows of the source.
        image_size: side of the views in pixels.
        batch_size: images per batch.
        workers: loader processes; 0 loads in this process.

    Returns:
        A loader of tuples: the rows that could be read, b of them; their views `(b, 3, S, S)`
        uint8; `(name, reason)` of each image that could not be read.
    """
    return DataLoader(
        _CenterViews(source, image_size),
        sampler=rows.tolist(),
        batch_size=batch_size,
        collate_fn=_unchanged,
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        # With the default generator, the loader's seed would change the random numbers of dropout.
        generator=torch.Generator(),
    )


def _ignore_signals(worker: int) -> None:
    # Ctrl-C and torchrun's SIGTERM reach the workers too, but the trainer needs them until its step
    # is done, and then ends them itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_after, args=(os.getppid(),), daemon=True).start()


def _exit_after(parent_id: int) -> None:
    # Without this, the worker of a killed trainer would wait for ever to send its batch. A forked
    # worker then gets another parent. Other workers have a server as parent, which may live on, but
    # they alone hold a pipe to the trainer.
    trainer = multiprocessing.parent_process()
    while os.getppid() == parent_id and (trainer is None or trainer.is_alive()):
        time.sleep(1)
    os._exit(1)


def _unchanged(batch: T) -> T:
    return batch
