"""Batches of a stream: one reader per process, decoding in loader workers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..hashed_rows import hashed_rows, stable_keys
from ..randomness import uniforms
from ..tar.stream import StreamSource, read_ahead
from ..tar.stream_sample import StreamSample
from ..views.draws import DRAWS
from .loaders import Batch, crop_views, schedule_loader
from .schedule import MicroBatch, Schedule

__all__ = ["StreamMicroBatch", "StreamSchedule", "stream_batches", "stream_draws", "table_rows_of"]

AHEAD = 256  # samples that the reader fetches ahead
_MOST_EPOCHS = 2**32  # more than any run has


@dataclass(frozen=True)
class StreamMicroBatch(MicroBatch):
    """A micro-batch of a stream. It brings encoded images to a worker and returns without them.

    Attributes:
        rows: `(b,)` int64 rows of the table; without a table, the keys.
        keys: `(b,)` int64 sample keys, see `sogclr.stable_keys`.
        samples: the b samples.
    """

    keys: np.ndarray
    samples: list[StreamSample]

    def select(self, readable: np.ndarray) -> "StreamMicroBatch":
        places = np.flatnonzero(readable)
        samples = [replace(self.samples[place], content=b"") for place in places]
        return replace(self, rows=self.rows[places], keys=self.keys[places], samples=samples)


class StreamSchedule(Schedule):
    """The schedule of a stream: a function of the seed and of the contents of the shards.

    Resumed within an epoch, it reads the epoch from its start and skips the earlier samples.
    Every process reads the whole stream and keeps its share, because the number of samples in a
    shard is unknown until the shard is read.

    Args:
        source: the stream.
        table_rows: rows of the normalizer table, or None if the loss has no table.
        batch_size, accumulate, epochs, seed, rank, processes: see `Schedule`.
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
        rows = table_rows_of(keys, self.table_rows).numpy()
        return StreamMicroBatch(step, epoch, rows, weight, last, keys.numpy(), share)


def table_rows_of(keys: Tensor, table_rows: int | None) -> Tensor:
    """Return the table's rows of keys `(b,)`; without a table, the keys."""
    return keys if table_rows is None else hashed_rows(keys, table_rows)


def stream_draws(micro_batch: StreamMicroBatch, seed: int, purpose: int, count: int) -> np.ndarray:
    """Draw `uniforms` for the samples of a micro-batch, `(b, count)`.

    If a sample occurs again in an epoch, it gets the numbers of an epoch after the end of the run.

    Args:
        micro_batch: the samples, b of them.
        seed, purpose, count: see `uniforms`.
    """
    draws = np.empty((len(micro_batch.samples), count))
    passes = np.array([sample.pass_number for sample in micro_batch.samples], dtype=np.int64)
    for pass_number in np.unique(passes).tolist():
        epoch = micro_batch.epoch + pass_number * _MOST_EPOCHS
        ids = micro_batch.keys[passes == pass_number].view(np.uint64)
        draws[passes == pass_number] = uniforms(seed, epoch, ids, purpose, count)
    return draws


class _StreamViews(Dataset):
    """Crops of micro-batches."""

    def __init__(self, size: int, crop_min: float, seed: int) -> None:
        self.size, self.crop_min, self.seed = size, crop_min, seed

    def __getitems__(self, micro_batch: StreamMicroBatch) -> Batch:
        draws = [stream_draws(micro_batch, self.seed, view, DRAWS) for view in (0, 1)]

        def read_image(i: int) -> Image.Image:
            return micro_batch.samples[i].image()

        return crop_views(micro_batch, read_image, draws, self.size, self.crop_min)


def stream_batches(
    schedule: StreamSchedule,
    *,
    image_size: int,
    crop_min: float,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Load a `Batch` for each micro-batch of a stream; `micro_batch` is a `StreamMicroBatch`.

    Args:
        schedule: the micro-batches.
        image_size, crop_min, workers, pin_memory: see `view_batches` in `loaders.py`.
    """
    views = _StreamViews(image_size, crop_min, schedule.seed)
    return schedule_loader(views, schedule, workers, pin_memory)
