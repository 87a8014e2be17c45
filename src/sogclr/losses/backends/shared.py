"""Similarities of a batch that several processes share.

Each process computes the similarities of its own anchors to the gathered features, and the
processes gather the log-sum-exps. The gradient by a process's own features needs nothing else, so
backward exchanges nothing. See `sogclr.distributed.exchange`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from .similarities import Excluded, LogSumExp, Similarities
from .tiled import Part, Tiled

__all__ = ["Block", "Shared"]


@dataclass(frozen=True)
class Block:
    """Anchors of one side, and the columns with which they are compared.

    Attributes:
        side: the side of the anchors.
        first: index among the M anchors of the side at which the block of all processes begins.
        rows: `(n, d)` unit vectors: this process's anchors of the batch, or all of earlier batches.
        columns: `(N, d)` unit vectors of all columns.
        column_side: the side of the anchors in the columns; None if columns are no anchors.
    """

    side: int
    first: int
    rows: Tensor
    columns: Tensor
    column_side: int | None


class Shared(Similarities):
    """The similarities of this process's anchors, with the sums of all processes.

    Args:
        shares: the samples of each process.
        own: blocks of this batch; each process has the rows of its own anchors.
        earlier: blocks of earlier batches; every process has all rows.
        excluded: entries of the whole matrix that are no negatives.
        shape: `(S, M)`, number of sides, number of anchors of each side.
        shift: see `needs_shift`.
    """

    def __init__(
        self,
        shares: Shares,
        own: list[Block],
        earlier: list[Block],
        excluded: Excluded,
        shape: tuple[int, int],
        shift: bool,
    ) -> None:
        self.shares = shares

        def part(block: Block, first: int) -> tuple[Block, Tiled]:
            place = Part(block.side, first, shape[1], block.column_side)
            return block, Tiled(block.rows, block.columns, excluded, shape[0], shift, place)

        self.own = [part(block, block.first + shares.own.start) for block in own]
        self.earlier = [part(block, block.first) for block in earlier if len(block.rows)]

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        def numbers(part: Tiled) -> Tensor:  # (k, S, M): log_sum, number, mean if requested
            return torch.stack([x for x in part.sums(tau, means) if isinstance(x, Tensor)])

        totals = self._gather([numbers(part) for _, part in self.own])
        for block, part in self.earlier:
            places = block.side, slice(block.first, block.first + len(block.rows))
            for total, own in zip(totals, numbers(part), strict=True):
                total[places] = own[places]
        log_sum, number, *mean = totals
        return LogSumExp(log_sum, number, mean[0] if mean else None)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        # DistributedDataParallel takes the mean over processes, but the gradient is their sum.
        weight = weight * self.shares.processes
        return torch.cat([part.gradients(log_sum, weight) for _, part in self.own])

    def _gather(self, numbers: list[Tensor]) -> Tensor:
        """Complete the numbers `(k, S, M)` of each block, right for this process's anchors only."""
        here, count = self.shares.own, self.shares.total
        own = [
            each[:, block.side, block.first + here.start : block.first + here.stop]
            for each, (block, _) in zip(numbers, self.own, strict=True)
        ]
        gathered = self.shares.gather(torch.stack(own), dim=2)  # (blocks, k, N)
        totals = torch.zeros_like(numbers[0])
        for each, (block, _) in zip(gathered, self.own, strict=True):
            totals[:, block.side, block.first : block.first + count] = each
        return totals
