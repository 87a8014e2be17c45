"""The task of a stream of pairs: a key identifies an image, and its text identifies a caption."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.batches.loaders import schedule_loader
from ..data.batches.stream import StreamMicroBatch, StreamSchedule, stream_draws, table_rows_of
from ..data.hashed_rows import stable_keys
from ..data.pair_source import PARTNER_PURPOSE
from ..data.tar.stream_pairs import PairStream
from ..data.views.draws import DRAWS
from ..losses import GlobalClipLoss
from ..models.tower_inputs import CenterViews, DrawnViews, Encoded, Prepared, Tokenizer
from ..models.towers import PairModel
from ..planning.pairs import PairPlan
from .pair_batches import PairBatch
from .task_image_stream import Streamed
from .task_pairs import ScoredPairs, SidesTask

__all__ = ["StreamPairBatch", "StreamPairTask", "stream_pair_batches"]


@dataclass(frozen=True)
class StreamPairBatch(PairBatch):
    """A `PairBatch` of a stream; `micro_batch` is a `StreamMicroBatch`.

    Attributes:
        keys_b: `(b,)` int64, the sample keys of the captions.
    """

    keys_b: np.ndarray


class _StreamPairs(Dataset):
    """Reads the inputs of both sides of a micro-batch."""

    def __init__(
        self, a: DrawnViews | CenterViews, b: Tokenizer, table_rows: int | None, seed: int
    ) -> None:
        self.a, self.b, self.table_rows, self.seed = a, b, table_rows, seed

    def __getitems__(self, micro_batch: StreamMicroBatch) -> StreamPairBatch:
        samples = micro_batch.samples
        a = self.a.read(
            lambda i: samples[i].image(), stream_draws(micro_batch, self.seed, 0, DRAWS)
        )
        choice = stream_draws(micro_batch, self.seed, PARTNER_PURPOSE, 1)[:, 0]
        captions = [
            samples[i].captions[int(choice[i] * len(samples[i].captions))]
            for i in np.flatnonzero(a.readable)
        ]
        keys = stable_keys(captions)
        all_readable = np.ones(len(captions), dtype=bool)
        b = Prepared(self.b.tokens(captions), None, all_readable, [])
        rows = table_rows_of(keys, self.table_rows).numpy()
        return StreamPairBatch(
            micro_batch.select(a.readable), rows, a, b, a.unreadable, keys.numpy()
        )


def stream_pair_batches(
    schedule: StreamSchedule,
    a: DrawnViews | CenterViews,
    b: Tokenizer,
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader:
    """Load `StreamPairBatch` from `schedule.start_step` to the end of the run.

    Args:
        schedule: the micro-batches of the run.
        a: makes inputs of images.
        b: makes inputs of captions.
        workers: loader processes.
        pin_memory: whether tensors are placed in page-locked memory.
    """
    pairs = _StreamPairs(a, b, schedule.table_rows, schedule.seed)
    return schedule_loader(pairs, schedule, workers, pin_memory)


class StreamPairTask(Streamed, SidesTask):
    """The task of a stream of pairs.

    Args:
        model, plan, scored: see `SidesTask`.
        source: the stream.
        a: makes inputs of images.
        b: makes inputs of captions.
        encoded: by kind of a frozen tower, makes features of the inputs.
    """

    def __init__(
        self,
        model: PairModel,
        source: PairStream,
        a: DrawnViews | CenterViews,
        b: Tokenizer,
        encoded: dict[str, Encoded],
        plan: PairPlan,
        scored: ScoredPairs | None,
    ) -> None:
        rows = plan.request.table_rows or len(source)
        halves = encoded.get("image", a), encoded.get("text", b)
        super().__init__(model, *halves, plan, (rows, rows), scored)
        self.source, self.read = source, (a, b)

    def loader(self, schedule: StreamSchedule, *, pin_memory: bool) -> Iterable[Any]:
        workers = self.plan.workers
        batches = stream_pair_batches(schedule, *self.read, workers=workers, pin_memory=pin_memory)
        return self.keep_names(batches)

    def prepare(self, batch: PairBatch) -> tuple[Any, ...]:
        """Prepare a batch as `SidesTask.prepare`; add sample keys `(b,)` for tables."""
        inputs = super().prepare(batch)
        if not isinstance(self.loss, GlobalClipLoss):
            return inputs  # Without a table, the indices are the sample keys.
        assert isinstance(batch, StreamPairBatch)
        assert isinstance(batch.micro_batch, StreamMicroBatch)
        return *inputs, torch.from_numpy(batch.micro_batch.keys), torch.from_numpy(batch.keys_b)
