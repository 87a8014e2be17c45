"""Similarities of a batch that several processes share.

Each process computes the similarities of its own anchors to the gathered features, and the
processes gather the log-sum-exps. The gradient by a process's own features needs nothing else, so
backward exchanges nothing. See `sogclr.distributed.exchange`.
"""

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from .similarities import LogSumExp, Similarities
from .tiled import Tiled

__all__ = ["Shared"]


class Shared(Similarities):
    """The similarities of this process's anchors, with the sums of all processes.

    Args:
        shares: the samples of each process.
        own: parts with the rows of this process's anchors of the batch.
        earlier: parts with the rows of all anchors of earlier batches, which every process has.
    """

    def __init__(self, shares: Shares, own: list[Tiled], earlier: list[Tiled]) -> None:
        self.shares, self.own, self.earlier = shares, own, earlier

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        def numbers(tiled: Tiled) -> Tensor:  # (k, S, M): log_sum, number, mean if requested
            return torch.stack([x for x in tiled.sums(tau, means) if isinstance(x, Tensor)])

        # Numbers are right for the rows of a part only: complete those of this batch.
        parts, found = [each.part for each in self.own], [numbers(each) for each in self.own]
        rows = [
            each[:, part.side, part.first : part.first + len(tiled.x)]
            for each, part, tiled in zip(found, parts, self.own, strict=True)
        ]
        totals = torch.zeros_like(found[0])
        gathered = self.shares.gather(torch.stack(rows), dim=2)  # (parts, k, N)
        for each, part in zip(gathered, parts, strict=True):
            first = part.first - self.shares.own.start
            totals[:, part.side, first : first + self.shares.total] = each
        for tiled in self.earlier:
            side, first = tiled.part.side, tiled.part.first
            totals[:, side, first:] = numbers(tiled)[:, side, first:]
        log_sum, number, *mean = totals
        return LogSumExp(log_sum, number, mean[0] if mean else None)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        # DistributedDataParallel takes the mean over processes, but the gradient is their sum.
        weight = weight * self.shares.processes
        return torch.cat([each.gradients(log_sum, weight) for each in self.own])
