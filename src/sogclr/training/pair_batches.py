"""Batches of pairs: which partner is drawn, and the inputs of both sides."""

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
        micro_batch: the pairs that could be read; its rows are those of side a.
        partners: `(b,)` the rows of side b that were drawn for them.
        a, b: their inputs.
        unreadable: `(name, reason)` of the samples that had to be skipped.
    """

    micro_batch: MicroBatch
    partners: np.ndarray
    a: Prepared
    b: Prepared
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "PairBatch":
        return replace(self, a=self.a.pin_memory(), b=self.b.pin_memory())


class _Pairs(Dataset):
    """Inputs of micro-batches; the loader passes each micro-batch to `__getitems__`."""

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
    """A loader of `PairBatch`, from `schedule.start_step` to the end of the run."""
    return schedule_loader(_Pairs(source, a, b, schedule.seed), schedule, workers, pin_memory)


def loss_indices(batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of both sides, `(b,)` each."""
    return torch.from_numpy(batch.micro_batch.rows), torch.from_numpy(batch.partners)
