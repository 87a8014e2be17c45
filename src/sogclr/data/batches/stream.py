"""Batches of a stream: the reader is one, decoding is left to loader workers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..hashed_rows import hashed_rows, stable_keys
from ..randomness import uniforms
from ..tar.stream import StreamSample, StreamSource, read_ahead
from ..views.pipeline import DRAWS
from .loaders import Batch, Epochs, MicroBatch, plan_loader, two_crops

__all__ = ["StreamMicroBatch", "StreamPlan", "drawn", "placed", "stream_batches"]

AHEAD = 256  # samples read before they are asked for
_TURN = 2**32  # epochs


@dataclass(frozen=True)
class StreamMicroBatch(MicroBatch):
    """As it travels to a worker, and back without the encoded images.

    Attributes:
        rows: `(b,)` int64, of the table; where there is none, the keys.
        keys: `(b,)` int64.
        samples: b of them.
    """

    keys: np.ndarray
    samples: list[StreamSample]

    def kept(self, readable: np.ndarray) -> "StreamMicroBatch":
        places = np.flatnonzero(readable)
        samples = [replace(self.samples[place], content=b"") for place in places]
        return replace(self, rows=self.rows[places], keys=self.keys[places], samples=samples)


class StreamPlan(Epochs):
    """The whole run's micro-batches, in order; a function of the seed and of what the shards hold.

    Begun in the midst of an epoch, it reads the epoch from its start and passes over what was.
    Every process reads all of it, and keeps its share: which shard a sample lies in, and how many
    a shard has, nobody knows before.

    Args:
        source: the stream.
        table_rows: of the table, or None if there is none.
        batch_size, accumulate, epochs, seed, rank, processes: as of `Epochs`.
    """

    def __init__(
        self,
        source: StreamSource,
        table_rows: int | None,
        batch_size: int,
        accumulate: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(len(source), batch_size, accumulate, epochs, seed, rank, processes)
        self.source, self.table_rows = source, table_rows

    def _parts(self, epoch: int, first: int) -> Iterator[list[StreamSample]]:
        samples = read_ahead(self._from_epoch(epoch), AHEAD)
        for _ in range(sum(self.sizes[:first])):
            next(samples)
        for size in chain(self.sizes[first:], cycle(self.sizes)):
            yield [next(samples) for _ in range(size)]

    def _from_epoch(self, first: int) -> Iterator[StreamSample]:
        for epoch in range(first, self.epochs):
            yield from self.source.epoch(self.seed, epoch)

    def _micro_batch(
        self, step: int, epoch: int, share: list[StreamSample], weight: float, last: bool
    ) -> StreamMicroBatch:
        keys = stable_keys(sample.name for sample in share)
        rows = placed(keys, self.table_rows).numpy()
        return StreamMicroBatch(step, epoch, rows, weight, last, keys.numpy(), share)


def placed(keys: Tensor, table_rows: int | None) -> Tensor:
    """Rows of keys `(b,)` in the table; where there is none, the keys."""
    return keys if table_rows is None else hashed_rows(keys, table_rows)


def drawn(plan: StreamMicroBatch, seed: int, stream: int, count: int) -> np.ndarray:
    """As `uniforms` of the samples and the epoch of a batch, `(b, count)`.

    A sample that comes again in an epoch has other numbers, those of no epoch there is.
    """
    draws = np.empty((len(plan.samples), count))
    turns = np.array([sample.turn for sample in plan.samples], dtype=np.int64)
    for turn in np.unique(turns).tolist():
        ids = plan.keys[turns == turn].view(np.uint64)
        draws[turns == turn] = uniforms(seed, plan.epoch + turn * _TURN, ids, stream, count)
    return draws


class _StreamViews(Dataset):
    """Micro-batches to crops."""

    def __init__(self, size: int, crop_min: float, seed: int) -> None:
        self.size, self.crop_min, self.seed = size, crop_min, seed

    def __getitems__(self, plan: StreamMicroBatch) -> Batch:
        draws = [drawn(plan, self.seed, view, DRAWS) for view in (0, 1)]

        def image(i: int) -> Image.Image:
            return plan.samples[i].image()

        return two_crops(plan, image, draws, self.size, self.crop_min)


def stream_batches(
    plan: StreamPlan, *, image_size: int, crop_min: float, workers: int, pin_memory: bool = False
) -> DataLoader:
    """A loader of `Batch` as `view_batches` in `loaders`; plans are `StreamMicroBatch`."""
    return plan_loader(_StreamViews(image_size, crop_min, plan.seed), plan, workers, pin_memory)
