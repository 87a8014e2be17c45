"""Divide a run into steps, steps into micro-batches, and micro-batches among processes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from ..randomness import shuffled

__all__ = [
    "ChosenSchedule",
    "FirstSamples",
    "MicroBatch",
    "Schedule",
    "ShuffledSchedule",
    "SubsetSchedule",
]

FIRST_UNUSED_EPOCH = 1 << 20  # above the epochs of any run


@dataclass(frozen=True)
class MicroBatch:
    """The samples of one forward pass.

    Attributes:
        step: its optimizer step, counted from 0 over the whole run.
        epoch: its epoch, counted from 0.
        rows: `(b,)` int64, rows of this process's samples.
        weight: weight of its gradient in the step's gradient: its share of the step's samples.
        last: whether the optimizer steps after this micro-batch.
    """

    step: int
    epoch: int
    rows: np.ndarray
    weight: float
    last: bool

    def select(self, readable: np.ndarray) -> "MicroBatch":
        """Keep the samples that could be read.

        Args:
            readable: `(b,)` bool.
        """
        return replace(self, rows=self.rows[readable])


class Schedule(Sampler[MicroBatch]):
    """The micro-batches of a whole run, in order.

    The micro-batches of an epoch differ in size by at most one sample. With full ones and a small
    remainder, the few samples of the remainder would count as much as a full micro-batch.

    Args:
        samples: number of samples in an epoch.
        batch_size: size of the largest micro-batch, over all processes.
        accumulate: number of micro-batches per optimizer step.
        epochs: number of epochs.
        seed: seed of the order.
        rank: number of this process, from 0.
        processes: number of processes, each with an even share of every micro-batch.

    Attributes:
        micro_batches: number of micro-batches in an epoch.
        sizes: number of samples in each micro-batch of an epoch.
        steps_per_epoch: number of optimizer steps in an epoch.
        total_steps: number of optimizer steps in the run.
        start_step: first step of the iteration; set it to resume.
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
        self.sizes = _even_sizes(samples, self.micro_batches)

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
                    share = next(parts)[self._own_slice(size)]
                    weight, last = size / sum(sizes), i == len(sizes) - 1
                    yield self._micro_batch(step, epoch, share, weight, last)
            skip = 0

    def _own_slice(self, size: int) -> slice:
        """Return the positions of this process's share of a micro-batch of `size` samples."""
        shares = _even_sizes(size, self.processes)
        first = sum(shares[: self.rank])
        return slice(first, first + shares[self.rank])

    def _parts(self, epoch: int, first: int) -> Iterator[Any]:
        """Yield the samples of each micro-batch, as sequences that can be sliced, to the run's end.

        Args:
            epoch: the first epoch.
            first: number of the first micro-batch within that epoch.
        """
        raise NotImplementedError

    def _micro_batch(
        self, step: int, epoch: int, share: Any, weight: float, last: bool
    ) -> MicroBatch:
        """Make a micro-batch of this process's share of the samples."""
        raise NotImplementedError


def _even_sizes(count: int, parts: int) -> list[int]:
    """Return the sizes of the parts into which `np.array_split` divides `count` items."""
    each, more = divmod(count, parts)
    return [each + (i < more) for i in range(parts)]


class ShuffledSchedule(Schedule):
    """A schedule in which every sample occurs exactly once per epoch, in random order.

    The order depends on (seed, epoch, ids) only, so a resumed run continues the same schedule.

    Args:
        ids: `(n,)` uint64 sample ids.
        batch_size, accumulate, epochs, seed, rank, processes: see `Schedule`.
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
        for current in range(epoch, self.epochs):
            order = shuffled(self.seed, current, self.ids)
            yield from np.array_split(order, self.micro_batches)[first:]
            first = 0

    def _micro_batch(
        self, step: int, epoch: int, share: np.ndarray, weight: float, last: bool
    ) -> MicroBatch:
        return MicroBatch(step, epoch, share, weight, last)


class ChosenSchedule(ShuffledSchedule):
    """A schedule of some rows of the data, each exactly once per epoch, in random order.

    Args:
        ids: `(n,)` uint64 sample ids of the data.
        rows: `(m,)` the rows that are visited.
        batch_size, epochs, seed: see `Schedule`.
    """

    def __init__(
        self, ids: np.ndarray, rows: np.ndarray, batch_size: int, epochs: int, seed: int
    ) -> None:
        super().__init__(ids[rows], batch_size, accumulate=1, epochs=epochs, seed=seed)
        self.rows = rows

    def _micro_batch(
        self, step: int, epoch: int, share: np.ndarray, weight: float, last: bool
    ) -> MicroBatch:
        return MicroBatch(step, epoch, self.rows[share], weight, last)


class FirstSamples(ShuffledSchedule):
    """A schedule of one micro-batch: the samples that a run visits first.

    Args:
        ids: `(n,)` uint64 sample ids.
        count: largest number of samples.
        seed: seed of the order.
    """

    def __init__(self, ids: np.ndarray, count: int, seed: int) -> None:
        super().__init__(ids, len(ids), accumulate=1, epochs=1, seed=seed)
        self.count = count

    def _micro_batch(
        self, step: int, epoch: int, share: np.ndarray, weight: float, last: bool
    ) -> MicroBatch:
        return MicroBatch(step, epoch, share[: self.count], weight, last)


class SubsetSchedule(ShuffledSchedule):
    """A schedule that visits each chosen sample once an epoch, in random order.

    The numbers of its epochs lie above those of any run, so that no run has seen their views.

    Args:
        indices: `(n,)` positions of the samples in the data.
        batch_size, epochs, seed: see `Schedule`.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, epochs: int, seed: int) -> None:
        super().__init__(indices.astype(np.uint64), batch_size, 1, epochs, seed)
        self.indices = indices

    def _micro_batch(
        self, step: int, epoch: int, share: np.ndarray, weight: float, last: bool
    ) -> MicroBatch:
        return MicroBatch(step, FIRST_UNUSED_EPOCH + epoch, self.indices[share], weight, last)
