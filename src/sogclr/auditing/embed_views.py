"""Embed random views of samples as in training: random views, batch statistics, dropout.

The table of a run was filled from such embeddings.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..common.console import say, track
from ..common.errors import UserError
from ..data.batches.schedule import MicroBatch, ShuffledSchedule
from ..training.task import to_device

__all__ = ["embed_views"]

FIRST_EPOCH = 1 << 20  # larger than any epoch of a run, so that the views are new


def embed_views(
    task: Any, indices: np.ndarray, sides: int, views: int, device: torch.device
) -> Tensor:
    """Embed random views of samples by the model of a task.

    Args:
        task: a task of images or of pairs.
        indices: `(n,)` positions of the samples in the data.
        sides: S, 1 for images, 2 for pairs.
        views: V, views of each sample on each side; even for images.
        device: the device that computes.

    Returns:
        `(S, n, V, d)` unit vectors on the CPU; NaN for samples that cannot be read.

    Raises:
        UserError: no sample can be read.
    """
    model = task.model.to(device, memory_format=torch.channels_last).train()
    task.loss.to(device)
    # An image gives two views at each visit, a pair one view of each side.
    plan = task.plan
    visits = _Visits(indices, plan.batch_size, views * sides // 2, plan.request.seed)
    place = np.empty(len(task.names), dtype=np.int64)
    place[indices] = np.arange(len(indices))
    features, reported = torch.empty(0), set[str]()
    with torch.no_grad():
        for batch in track(task.loader(visits, pin_memory=False), "embedding", total=len(visits)):
            for name, reason in batch.unreadable:
                if name not in reported:
                    say(f"left out {name}: {reason}")
                reported.add(name)
            if not len(batch.micro_batch.rows):
                continue
            outcome = task.forward(model, to_device(task.prepare(batch), device), device)
            pair = [normalize(z.float(), dim=-1).cpu() for z in outcome.projections]
            if not len(features):
                shape = (sides, len(indices), views, pair[0].shape[1])
                features = torch.full(shape, torch.nan)
            samples = torch.from_numpy(place[batch.micro_batch.rows])
            visit = batch.micro_batch.epoch - FIRST_EPOCH
            for i, z in enumerate(pair):
                side, view = (i, visit) if sides == 2 else (0, 2 * visit + i)
                features[side, samples, view] = z
    if not len(features):
        raise UserError("data: none of the images can be read")
    return features


class _Visits(ShuffledSchedule):
    """A schedule that visits each chosen sample once an epoch, in random order."""

    def __init__(self, indices: np.ndarray, batch_size: int, epochs: int, seed: int) -> None:
        super().__init__(indices.astype(np.uint64), batch_size, 1, epochs, seed)
        self.indices = indices

    def __iter__(self) -> Iterator[MicroBatch]:
        for batch in super().__iter__():
            rows, epoch = self.indices[batch.rows], FIRST_EPOCH + batch.epoch
            yield replace(batch, rows=rows, epoch=epoch)
