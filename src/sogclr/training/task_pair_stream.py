"""The task of pairs that come as a stream: an image is known by its key, a caption by its text."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.batches.loaders import plan_loader
from ..data.batches.stream import StreamMicroBatch, StreamPlan, drawn, placed
from ..data.hashed_rows import stable_keys
from ..data.pair_source import PARTNER_STREAM
from ..data.tar.stream_pairs import PairStream
from ..data.views.pipeline import DRAWS
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
    """As `PairBatch`; `plan` is a `StreamMicroBatch`.

    Attributes:
        keys_b: `(b,)` int64, who the captions are.
    """

    keys_b: np.ndarray


class _StreamPairs(Dataset):
    """Micro-batches to inputs."""

    def __init__(
        self, a: DrawnViews | CenterViews, b: Tokenizer, table_rows: int | None, seed: int
    ) -> None:
        self.a, self.b, self.table_rows, self.seed = a, b, table_rows, seed

    def __getitems__(self, plan: StreamMicroBatch) -> StreamPairBatch:
        samples = plan.samples
        a = self.a.read(lambda i: samples[i].image(), drawn(plan, self.seed, 0, DRAWS))
        choice = drawn(plan, self.seed, PARTNER_STREAM, 1)[:, 0]
        captions = [
            samples[i].captions[int(choice[i] * len(samples[i].captions))]
            for i in np.flatnonzero(a.readable)
        ]
        keys = stable_keys(captions)
        all_readable = np.ones(len(captions), dtype=bool)
        b = Prepared(self.b.tokens(captions), None, all_readable, [])
        rows = placed(keys, self.table_rows).numpy()
        return StreamPairBatch(plan.kept(a.readable), rows, a, b, a.unreadable, keys.numpy())


def stream_pair_batches(
    plan: StreamPlan,
    a: DrawnViews | CenterViews,
    b: Tokenizer,
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader:
    """A loader of `StreamPairBatch`, from `plan.start_step` to the end of the run."""
    return plan_loader(_StreamPairs(a, b, plan.table_rows, plan.seed), plan, workers, pin_memory)


class StreamPairTask(Streamed, SidesTask):
    """See the module.

    Args:
        model, plan, held: as of `SidesTask`.
        source: the stream.
        a, b: what its images and captions are made to.
        encoded: of a frozen tower, by kind: the same as its body makes features of it.
    """

    def __init__(
        self,
        model: PairModel,
        source: PairStream,
        a: DrawnViews | CenterViews,
        b: Tokenizer,
        encoded: dict[str, Encoded],
        plan: PairPlan,
        held: ScoredPairs | None,
    ) -> None:
        rows = plan.request.table_rows or len(source)
        halves = encoded.get("image", a), encoded.get("text", b)
        super().__init__(model, *halves, plan, (rows, rows), held)
        self.source, self.read = source, (a, b)

    def loader(self, plan: StreamPlan, *, pin_memory: bool) -> Iterable[Any]:
        return self.noted(
            stream_pair_batches(plan, *self.read, workers=self.plan.workers, pin_memory=pin_memory)
        )

    def keys(self, batch: StreamPairBatch) -> dict[str, Tensor]:
        # Losses that keep nothing know the rows, which are the keys where there is no table.
        if not isinstance(self.loss, GlobalClipLoss):
            return {}
        assert isinstance(batch.plan, StreamMicroBatch)
        keys = batch.plan.keys, batch.keys_b
        return dict(zip(("sample_key", "sample_key_b"), map(torch.from_numpy, keys), strict=True))
