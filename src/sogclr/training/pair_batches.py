"""Load batches of pairs: draw a partner for each sample, and read the inputs of both sides."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.batches.loaders import schedule_loader
from ..data.batches.schedule import MicroBatch, ShuffledSchedule
from ..data.pair_source import PairSource
from ..models.tower_inputs import Inputs, Prepared

__all__ = ["PairBatch", "pair_batches"]


@dataclass(frozen=True)
class PairBatch:
    """A micro-batch of pairs.

    Attributes:
        micro_batch: the pairs that could be read; `micro_batch.rows` `(b,)` are those of side a.
        partners: `(b,)` the samples of side b, drawn from the partners of `micro_batch.rows`.
        a, b: the inputs of both sides.
        unreadable: `(name, reason)` of the samples that could not be read.
    """

    micro_batch: MicroBatch
    partners: np.ndarray
    a: Prepared
    b: Prepared
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "PairBatch":
        return replace(self, a=self.a.pin_memory(), b=self.b.pin_memory())


class _Pairs(Dataset):
    """Reads the inputs of both sides of a micro-batch, for torch's loader."""

    def __init__(self, source: PairSource, a: Inputs, b: Inputs, seed: int) -> None:
        self.source, self.a, self.b, self.seed = source, a, b, seed

    def __getitems__(self, micro_batch: MicroBatch) -> PairBatch:
        a = self.a.prepare(micro_batch.rows, micro_batch.epoch)
        rows = micro_batch.rows[a.readable]
        partners = self.source.draw(self.seed, micro_batch.epoch, rows)
        b = self.b.prepare(partners, micro_batch.epoch)
        unreadable = a.unreadable + b.unreadable
        if not b.readable.all():
            a, rows, partners = a.only(b.readable), rows[b.readable], partners[b.readable]
        return PairBatch(replace(micro_batch, rows=rows), partners, a, b, unreadable)


def pair_batches(
    source: PairSource,
    schedule: ShuffledSchedule,
    a: Inputs,
    b: Inputs,
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader:
    """Load `PairBatch` from `schedule.start_step` to the end of the run.

    Args:
        source: the pairs.
        schedule: the micro-batches of the run.
        a, b: make the inputs of both sides.
        workers: loader processes.
        pin_memory: whether tensors are placed in page-locked memory.
    """
    return schedule_loader(_Pairs(source, a, b, schedule.seed), schedule, workers, pin_memory)


def loss_indices(batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of both sides for the loss, `(b,)` int64 each."""
    return torch.from_numpy(batch.micro_batch.rows), torch.from_numpy(batch.partners)
