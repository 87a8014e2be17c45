"""Log-sum-exps of a batch that several processes share; see `sogclr.distributed.exchange`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from .tiled import Absent, Negatives, Part

__all__ = ["Block", "SharedNegatives"]


@dataclass(frozen=True)
class Block:
    """N anchors of a side, of which every process has its share.

    Attributes:
        side: theirs.
        first: place of the first among the anchors of their side.
        rows: `(n, d)` unit vectors, this process's share.
        columns: `(M, d)` what they are compared with, all of it.
        met: the side that the columns are anchors of; None if they are none.
    """

    side: int
    first: int
    rows: Tensor
    columns: Tensor
    met: int | None


class SharedNegatives:
    """`Negatives` of a batch that is shared; the same interface, totals of all anchors.

    Args:
        shares: who has what.
        blocks: of the batch.
        alike: anchors that every process has, of earlier batches.
        absent: as of `Negatives`.
        shape: `(S, M)`, sides and anchors of each.
        tau, minimum: as of `Negatives`.
    """

    def __init__(
        self,
        shares: Shares,
        blocks: list[Block],
        alike: list[Block],
        absent: Absent,
        shape: tuple[int, int],
        tau: float | Tensor,
        minimum: float,
    ) -> None:
        self.shares, self.shape = shares, shape

        def part(block: Block, first: int) -> tuple[Block, Negatives]:
            place = Part(block.side, first, shape[1], block.met)
            sides = shape[0]
            own = Negatives(block.rows, block.columns, absent, sides, tau, minimum, place)
            return block, own

        self.own = [part(block, block.first + shares.own.start) for block in blocks]
        self.alike = [part(block, block.first) for block in alike if block.rows.shape[0]]

    def log_sums(self) -> tuple[Tensor, Tensor]:
        """As `Negatives.log_sums`."""
        found = [_sums(part) for _, part in self.own]
        log_sum, count = self._together(found)
        for block, part in self.alike:
            places = block.side, slice(block.first, block.first + block.rows.shape[0])
            for whole, own in zip((log_sum, count), _sums(part), strict=True):
                whole[places] = own[places]
        return log_sum, count

    def gradients(
        self, log_sum: Tensor, weight: Tensor, means: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As `Negatives.gradients`, by this process's rows, `(blocks, n, d)`."""
        found = [part.gradients(log_sum, weight, means) for _, part in self.own]
        rows = torch.cat([by_rows for by_rows, _ in found])
        if not means:
            return rows, None
        (mean,) = self._together([own[None] for _, own in found if own is not None])
        return rows, mean

    def _together(self, found: list[Tensor]) -> Tensor:
        """Of each block `(k, S, M)`, of which this process's share is right, `(k, S, M)` of all."""
        here, count = self.shares.own, self.shares.total
        own = [
            totals[:, block.side, block.first + here.start : block.first + here.stop]
            for totals, (block, _) in zip(found, self.own, strict=True)
        ]
        gathered = self.shares.gather(torch.stack(own), dim=2)  # (blocks, k, N)
        whole = torch.zeros_like(found[0])
        for numbers, (block, _) in zip(gathered, self.own, strict=True):
            whole[:, block.side, block.first : block.first + count] = numbers
        return whole


def _sums(part: Negatives) -> Tensor:
    """`(2, S, M)`: log_sum, and how many negatives."""
    log_sum, count = part.log_sums()
    assert isinstance(count, Tensor)
    return torch.stack([log_sum, count])
