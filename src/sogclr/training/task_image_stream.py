"""Tasks on samples that come as a stream, told apart by keys, remembered in hashed rows: what they
have in common, and that of images."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches.loaders import Batch
from ..data.batches.stream import StreamMicroBatch, StreamPlan, stream_batches
from ..data.tar.stream import StreamSource
from ..losses import GlobalContrastiveLoss
from ..models.encoders import ContrastiveModel, EncoderSpec
from ..models.momentum import MomentumModel
from ..planning.images import Plan
from ..runs.changed_data import Fingerprint, fingerprint
from ..runs.folder import Run
from .task import Task
from .task_images import ViewsTask

__all__ = ["StreamTask", "Streamed"]

REMEMBERED = 100_000  # names, for messages: many more than between two log points


class Streamed(Task):
    """What tasks on a stream have in common.

    Attributes:
        source: the stream.
        names: of the samples in the rows of the last batches.
    """

    source: StreamSource
    names: "_Names"

    def noted(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same; their samples' names are remembered."""
        self.names = _Names()
        for batch in batches:
            self.names.note(batch.plan)
            yield batch

    def identity(self) -> dict[str, Fingerprint]:
        """Of the shards: of the samples there is no list."""
        return {"": fingerprint(self.source.ids, np.zeros(len(self.source.ids), dtype=np.int64))}

    def restore(self, state: dict[str, Any], run: Run) -> str | None:
        """As `Task.restore`; rows follow from keys, so whatever the shards are, they stay."""
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        before, now = (set(each[""]["ids"].tolist()) for each in (state["data"], self.identity()))
        if before == now:
            return None
        return (
            f"the shards have changed: {len(now & before):,} are known, {len(now - before):,} are "
            f"new, {len(before - now):,} are gone; samples keep their rows"
        )


class StreamTask(Streamed, ViewsTask):
    """Of images.

    Args:
        model, spec, plan: as of `ViewsTask`.
        source: the stream.
    """

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        source: StreamSource,
        plan: Plan,
    ) -> None:
        super().__init__(model, spec, plan, plan.request.table_rows or len(source))
        self.source = source

    def loader(self, plan: StreamPlan, *, pin_memory: bool) -> Iterable[Batch]:
        batches = stream_batches(
            plan,
            image_size=self.plan.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=pin_memory,
        )
        return self.noted(batches)

    def first_batches(self) -> StreamPlan:
        return StreamPlan(self.source, None, self.plan.batch_size, 1, 1, self.plan.request.seed)

    def told(self, batch: Batch) -> Tensor:
        """Rows and keys, `(2, b)`."""
        assert isinstance(batch.plan, StreamMicroBatch)
        return torch.from_numpy(np.stack([batch.plan.rows, batch.plan.keys]))

    def value(self, sides: list[Tensor], told: Tensor) -> Tensor:
        rows, keys = told
        if isinstance(self.loss, GlobalContrastiveLoss):
            return self.loss(*sides, rows, sample_key=keys)
        return self.loss(*sides, keys)

    def score(self, device: torch.device) -> dict[str, float]:
        return {}


class _Names(dict[int, str]):
    """What the samples in the rows of the last batches were called."""

    def note(self, plan: StreamMicroBatch) -> None:
        self.update(zip(plan.rows.tolist(), (sample.name for sample in plan.samples), strict=True))
        while len(self) > REMEMBERED:
            del self[next(iter(self))]

    def __missing__(self, row: int) -> str:
        return "of an earlier batch"
