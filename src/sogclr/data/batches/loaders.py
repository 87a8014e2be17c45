"""Batches of views: which samples make up a step, and their crops, made in loader workers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..decode import UnreadableImageError
from ..image_source import ImageSource
from ..randomness import shuffled, uniforms
from ..views.pipeline import DRAWS, center_view, crop, crop_box, crop_boxes
from ..views.resident import ResidentImages

T = TypeVar("T")

__all__ = [
    "Batch",
    "BatchPlan",
    "Epochs",
    "MicroBatch",
    "center_batches",
    "plan_loader",
    "two_crops",
    "view_batches",
]


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass is made of.

    Attributes:
        step: the optimizer step it belongs to, counted from 0 over the whole run.
        epoch: counted from 0.
        rows: `(b,)` int64, this process's.
        weight: the share of all processes' rows in the step's gradient.
        last: whether the optimizer steps after it.
    """

    step: int
    epoch: int
    rows: np.ndarray
    weight: float
    last: bool

    def kept(self, readable: np.ndarray) -> "MicroBatch":
        """Of the rows, those that could be read, `(b,)` bool."""
        return replace(self, rows=self.rows[readable])


@dataclass(frozen=True)
class Batch:
    """A micro-batch with its crops.

    Attributes:
        plan: whence it came; `plan.rows` are those that could be read.
        crops: `(2b, 3, S, S)` uint8, first all first views, then all second views; or where images
            stay on the device, `(2b, 4)` float32, the boxes to cut out there.
        draws: `(2b, DRAWS)`, what the rest of the augmentation of each view derives from.
        unreadable: `(name, reason)` of the samples that had to be skipped.
    """

    plan: MicroBatch
    crops: Tensor
    draws: np.ndarray
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "Batch":
        return replace(self, crops=self.crops.pin_memory())


class Epochs(Sampler[MicroBatch]):
    """How a run is divided into steps, these into micro-batches, and these among processes.

    An epoch is divided evenly, into batches that differ by one sample at most, rather than into
    full ones and a small remainder: a remainder of a few samples would count as much as a full
    batch.

    Args:
        samples: of an epoch.
        batch_size: largest micro-batch.
        accumulate: micro-batches in an optimizer step.
        epochs: how many.
        seed: of the order.
        rank: of this process. Of every micro-batch it has an even share.
        processes: among how many.

    Attributes:
        start_step: where to begin.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        accumulate: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.accumulate, self.epochs, self.seed = accumulate, epochs, seed
        self.rank, self.processes = rank, processes
        self.micro_batches = -(-samples // batch_size)
        self.steps_per_epoch = -(-self.micro_batches // accumulate)
        self.total_steps = self.steps_per_epoch * epochs
        self.start_step = 0
        self.sizes = _even(samples, self.micro_batches)

    def __len__(self) -> int:
        return self.micro_batches * self.epochs

    def __iter__(self) -> Iterator[MicroBatch]:
        first_epoch, skip = divmod(self.start_step, self.steps_per_epoch)
        parts = self._parts(first_epoch, skip * self.accumulate)
        for epoch in range(first_epoch, self.epochs):
            for k in range(skip, self.steps_per_epoch):
                sizes = self.sizes[k * self.accumulate : (k + 1) * self.accumulate]
                step = epoch * self.steps_per_epoch + k
                for i, size in enumerate(sizes):
                    share = next(parts)[self._own(size)]
                    weight, last = size / sum(sizes), i == len(sizes) - 1
                    yield self._micro_batch(step, epoch, share, weight, last)
            skip = 0

    def _own(self, size: int) -> slice:
        """Of a micro-batch, what this process has."""
        shares = _even(size, self.processes)
        first = sum(shares[: self.rank])
        return slice(first, first + shares[self.rank])

    def _parts(self, epoch: int, first: int) -> Iterator[Any]:
        """The samples of one micro-batch after the other, in sequences that can be cut, from one
        of an epoch to the end of the run."""
        raise NotImplementedError

    def _micro_batch(
        self, step: int, epoch: int, share: Any, weight: float, last: bool
    ) -> MicroBatch:
        """Of the share of this process, see `MicroBatch`."""
        raise NotImplementedError


def _even(count: int, parts: int) -> list[int]:
    """How many each part has of as many, as `np.array_split` divides them."""
    each, more = divmod(count, parts)
    return [each + (i < more) for i in range(parts)]


class BatchPlan(Epochs):
    """The whole run's micro-batches, in order; a function of (seed, ids), so it can be resumed.

    Every sample occurs exactly once in an epoch.

    Args:
        ids: `(n,)` stable ids.
        batch_size, accumulate, epochs, seed, rank, processes: as of `Epochs`.
    """

    def __init__(
        self,
        ids: np.ndarray,
        batch_size: int,
        accumulate: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(len(ids), batch_size, accumulate, epochs, seed, rank, processes)
        self.ids = ids

    def _parts(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        for later in range(epoch, self.epochs):
            order = shuffled(self.seed, later, self.ids)
            yield from np.array_split(order, self.micro_batches)[first:]
            first = 0

    def _micro_batch(
        self, step: int, epoch: int, share: np.ndarray, weight: float, last: bool
    ) -> MicroBatch:
        return MicroBatch(step, epoch, share, weight, last)


class _TwoViews(Dataset):
    """Micro-batches to crops. The loader hands `__getitems__` what the plan yields."""

    def __init__(self, source: ImageSource, size: int, crop_min: float, seed: int) -> None:
        self.source, self.size, self.crop_min, self.seed = source, size, crop_min, seed

    def __getitems__(self, plan: MicroBatch) -> Batch:
        ids = self.source.ids[plan.rows]
        draws = [uniforms(self.seed, plan.epoch, ids, view, DRAWS) for view in (0, 1)]

        def image(i: int) -> Image.Image:
            return self.source.image(int(plan.rows[i]))

        return two_crops(plan, image, draws, self.size, self.crop_min)


class _TwoBoxes(Dataset):
    """Micro-batches to boxes of images that are on the device already."""

    def __init__(self, images: ResidentImages, ids: np.ndarray, crop_min: float, seed: int) -> None:
        self.images, self.ids, self.crop_min, self.seed = images, ids, crop_min, seed

    def __getitems__(self, plan: MicroBatch) -> Batch:
        unreadable = self.images.unreadable
        readable = np.array([int(row) not in unreadable for row in plan.rows], dtype=bool)
        skipped = [unreadable[int(row)] for row in plan.rows[~readable]]
        plan = plan.kept(readable)
        ids = self.ids[plan.rows]
        views = [uniforms(self.seed, plan.epoch, ids, view, DRAWS) for view in (0, 1)]
        draws = np.concatenate(views)  # (2b, DRAWS)
        boxes = crop_boxes(draws, *self.images.size, self.crop_min).astype(np.float32)
        return Batch(plan, torch.from_numpy(boxes), draws, skipped)


class _CenterViews(Dataset):
    """One undistorted view of each row."""

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


def two_crops(
    plan: MicroBatch,
    image: Callable[[int], Image.Image],
    draws: list[np.ndarray],
    size: int,
    crop_min: float,
) -> Batch:
    """Both crops of each sample.

    Args:
        plan: the micro-batch.
        image: of the sample at a place in it, or raises `UnreadableImageError`.
        draws: `(b, DRAWS)` of either view.
        size: of the crops, in pixels.
        crop_min: see `Views`.
    """
    crops = np.empty((2, len(plan.rows), 3, size, size), dtype=np.uint8)
    readable = np.ones(len(plan.rows), dtype=bool)
    unreadable = []
    for i in range(len(plan.rows)):
        try:
            whole = image(i)
        except UnreadableImageError as error:
            readable[i] = False
            unreadable.append((error.args[0], error.args[1]))
            continue
        for view in (0, 1):
            box = crop_box(draws[view][i], *whole.size, crop_min)
            crops[view, i] = crop(whole, box, size)
    return Batch(
        plan.kept(readable),
        # A mask would copy them all.
        torch.from_numpy(crops if readable.all() else crops[:, readable]).flatten(0, 1),
        np.concatenate([d[readable] for d in draws]),
        unreadable,
    )


def view_batches(
    source: ImageSource,
    plan: BatchPlan,
    *,
    image_size: int,
    crop_min: float,
    workers: int,
    pin_memory: bool = False,
    images: ResidentImages | None = None,
) -> DataLoader:
    """A loader of `Batch`, from `plan.start_step` to the end of the run, across epochs.

    Where `images` are on the device already, boxes take the place of crops.
    """
    if images is not None:
        return plan_loader(_TwoBoxes(images, source.ids, crop_min, plan.seed), plan, 0, pin_memory)
    return plan_loader(
        _TwoViews(source, image_size, crop_min, plan.seed), plan, workers, pin_memory
    )


def plan_loader(dataset: Dataset, plan: Epochs, workers: int, pin_memory: bool) -> DataLoader:
    """A loader over the plan, of what `dataset.__getitems__` makes of its micro-batches."""
    return DataLoader(
        dataset,
        # The plan yields whole micro-batches where torch's types expect lists of numbers.
        batch_sampler=plan,  # type: ignore[arg-type]
        collate_fn=_unchanged,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        # Its own, or every loader would draw a seed from the state that dropout draws from.
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )


def center_batches(
    source: ImageSource, rows: np.ndarray, *, image_size: int, batch_size: int, workers: int
) -> DataLoader:
    """A loader of `(rows, images uint8 (b, 3, S, S), unreadable)` in the order of `rows`."""
    return DataLoader(
        _CenterViews(source, image_size),
        sampler=rows.tolist(),
        batch_size=batch_size,
        collate_fn=_unchanged,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        # Its own, or every loader would draw a seed from the state that dropout draws from.
        generator=torch.Generator(),
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    # Ctrl-C reaches the whole group, and so does the SIGTERM of torchrun; the trainer finishes its
    # step and ends the workers itself, by an event.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(trainer: int) -> None:
    # If it is killed, workers would wait for ever to hand it what they have.
    while os.getppid() == trainer:
        time.sleep(1)
    os._exit(1)


def _unchanged(batch: T) -> T:
    return batch
