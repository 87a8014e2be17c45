"""Tasks of a stream: sample keys identify samples, and hashes of the keys are table rows."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from ..data.batches.loaders import Batch
from ..data.batches.stream import StreamMicroBatch, StreamSchedule, stream_batches
from ..data.tar.stream import StreamSource
from ..losses import GlobalContrastiveLoss
from ..models.encoders import ContrastiveModel, EncoderSpec
from ..models.momentum import MomentumModel
from ..models.wrapped import load_plain
from ..planning.images import Plan
from ..runs.changed_data import Fingerprint, fingerprint
from ..runs.folder import Run
from .task import Task
from .task_images import ViewsTask

__all__ = ["StreamTask", "Streamed"]

MOST_NAMES = 100_000  # names kept for messages; far fewer samples lie between two log points


class Streamed(Task):
    """The base of the tasks of a stream.

    Attributes:
        source: the stream.
        names: names of the samples of the last batches, by index.
    """

    source: StreamSource
    names: "_LatestNames"

    def keep_names(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, and keep the names of their samples."""
        self.names = _LatestNames()
        for batch in batches:
            self.names.add(batch.micro_batch)
            yield batch

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Return the fingerprint of the shards: a stream has no list of its samples."""
        return {"": fingerprint(self.source.ids, np.zeros(len(self.source.ids), dtype=np.int64))}

    def restore(self, state: dict[str, Any], run: Run) -> str | None:
        """Load the state as `Task.restore`; samples keep their rows, which are hashes of keys."""
        load_plain(self.model, state["model"])
        self.loss.load_state_dict(state["loss"])
        before, now = (
            set(each[""]["ids"].tolist()) for each in (state["data"], self.fingerprints())
        )
        if before == now:
            return None
        return (
            f"the shards have changed: {len(now & before):,} are known, {len(now - before):,} are "
            f"new, {len(before - now):,} are gone; samples keep their rows"
        )


class StreamTask(Streamed, ViewsTask):
    """The task of a stream of images.

    Args:
        model, spec, plan, device: see `ViewsTask`.
        source: the stream.
    """

    def __init__(
        self,
        model: ContrastiveModel | MomentumModel,
        spec: EncoderSpec,
        source: StreamSource,
        plan: Plan,
        device: torch.device,
    ) -> None:
        super().__init__(model, spec, plan, plan.request.table_rows or len(source), device)
        self.source = source

    def loader(self, schedule: StreamSchedule, *, pin_memory: bool) -> Iterable[Batch]:
        batches = stream_batches(
            schedule,
            image_size=self.plan.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=pin_memory,
        )
        return self.keep_names(batches)

    def first_epoch(self) -> StreamSchedule:
        size, seed = self.plan.batch_size, self.plan.request.seed
        return StreamSchedule(self.source, None, size, accumulate=1, epochs=1, seed=seed)

    def prepare(self, batch: Batch) -> tuple[Any, ...]:
        """Prepare a batch as `ViewsTask.prepare`; with a table, add sample keys `(b,)`."""
        inputs = super().prepare(batch)
        if not isinstance(self.loss, GlobalContrastiveLoss):
            return inputs  # Without a table, the index is the sample key.
        assert isinstance(batch.micro_batch, StreamMicroBatch)
        return *inputs, torch.from_numpy(batch.micro_batch.keys)

    def score(self, device: torch.device) -> dict[str, float]:
        return {}


class _LatestNames(dict[int, str]):
    """Names of the samples of the last batches, by index."""

    def add(self, micro_batch: StreamMicroBatch) -> None:
        names = (sample.name for sample in micro_batch.samples)
        self.update(zip(micro_batch.rows.tolist(), names, strict=True))
        while len(self) > MOST_NAMES:
            del self[next(iter(self))]

    def __missing__(self, index: int) -> str:
        return "of an earlier batch"
