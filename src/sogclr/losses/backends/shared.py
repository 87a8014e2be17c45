"""The similarities of a batch that several processes share.

Each process forms the similarities of its own anchors to the features of all, which are gathered
once; then the log-sum-exps are gathered, one number an anchor. The gradient by a process's own
features needs nothing more, so nothing is exchanged in backward. See `sogclr.distributed.exchange`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from .similarities import Absent, LogSumExp, Similarities
from .tiled import Part, Tiled

__all__ = ["Block", "Shared"]


@dataclass(frozen=True)
class Block:
    """Anchors of one side and what they are compared with.

    Attributes:
        side: the anchors' side.
        first: index of the first anchor of all processes among the anchors of its side.
        rows: `(n, d)` unit rows: this process's share, or for rows of earlier batches all.
        columns: `(N, d)` unit columns, all of them, no graph.
        column_side: the side whose anchors the columns are; None if they are no anchors.
    """

    side: int
    first: int
    rows: Tensor
    columns: Tensor
    column_side: int | None


class Shared(Similarities):
    """The share of this process, completed by the numbers of the others.

    Args:
        shares: the samples of each process.
        own: blocks of this batch, of which every process has its share.
        earlier: blocks of earlier batches, which every process has whole.
        absent: entries of the whole matrix that are no negatives.
        shape: `(S, M)`.
        shift: see `Similarities`.
    """

    def __init__(
        self,
        shares: Shares,
        own: list[Block],
        earlier: list[Block],
        absent: Absent,
        shape: tuple[int, int],
        shift: bool,
    ) -> None:
        self.shares, self.shift = shares, shift
        self.inputs = tuple(block.rows for block in own)

        def part(block: Block, first: int) -> tuple[Block, Tiled]:
            place = Part(block.side, first, shape[1], block.column_side)
            return block, Tiled(block.rows, block.columns, absent, shape[0], shift, place)

        self.own = [part(block, block.first + shares.own.start) for block in own]
        self.earlier = [part(block, block.first) for block in earlier if len(block.rows)]

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        def numbers(part: Tiled) -> Tensor:  # (k, S, M): log_sum, number and, if requested, mean
            return torch.stack([x for x in part.sums(tau, means) if isinstance(x, Tensor)])

        totals = self._gather([numbers(part) for _, part in self.own])
        for block, part in self.earlier:
            places = block.side, slice(block.first, block.first + len(block.rows))
            for total, own in zip(totals, numbers(part), strict=True):
                total[places] = own[places]
        log_sum, number, *mean = totals
        return LogSumExp(log_sum, number, mean[0] if mean else None)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        # DistributedDataParallel takes the mean over processes of what is a sum.
        weight = weight * self.shares.processes
        return tuple(part.gradients(log_sum, weight)[0] for _, part in self.own)

    def _gather(self, numbers: list[Tensor]) -> Tensor:
        """Gather numbers `(k, S, M)` of each block, right for this process's anchors alone."""
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
