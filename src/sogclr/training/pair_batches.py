"""Batches of pairs: which partner is drawn, and the inputs of both sides."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.batches.loaders import BatchPlan, MicroBatch, plan_loader
from ..data.pair_source import PairSource
from ..models.tower_inputs import Inputs, Prepared

__all__ = ["PairBatch", "pair_batches"]


@dataclass(frozen=True)
class PairBatch:
    """A micro-batch of pairs.

    Attributes:
        plan: whence it came; `plan.rows` are the rows of side a of pairs that could be read.
        partners: `(b,)` the rows of side b that were drawn for them.
        a, b: their inputs.
        unreadable: `(name, reason)` of the samples that had to be skipped.
    """

    plan: MicroBatch
    partners: np.ndarray
    a: Prepared
    b: Prepared
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "PairBatch":
        return replace(self, a=self.a.pin_memory(), b=self.b.pin_memory())


class _Pairs(Dataset):
    """Micro-batches to inputs. The loader hands `__getitems__` what the plan yields."""

    def __init__(self, source: PairSource, a: Inputs, b: Inputs, seed: int) -> None:
        self.source, self.a, self.b, self.seed = source, a, b, seed

    def __getitems__(self, plan: MicroBatch) -> PairBatch:
        a = self.a.prepare(plan.rows, plan.epoch)
        rows = plan.rows[a.readable]
        partners = self.source.draw(self.seed, plan.epoch, rows)
        b = self.b.prepare(partners, plan.epoch)
        unreadable = a.unreadable + b.unreadable
        if not b.readable.all():
            a, rows, partners = a.only(b.readable), rows[b.readable], partners[b.readable]
        return PairBatch(replace(plan, rows=rows), partners, a, b, unreadable)


def pair_batches(
    source: PairSource, plan: BatchPlan, a: Inputs, b: Inputs, *, workers: int, pin_memory: bool
) -> DataLoader:
    """A loader of `PairBatch`, from `plan.start_step` to the end of the run."""
    return plan_loader(_Pairs(source, a, b, plan.seed), plan, workers, pin_memory)


def loss_indices(batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of both sides, `(b,)` each."""
    return torch.from_numpy(batch.plan.rows), torch.from_numpy(batch.partners)
