"""Similarities, computed tile by tile in O(B d) memory.

Each tile is computed twice, for the sums and for the gradient, and no B x B matrix is stored. This
takes 8 B²d floating-point operations instead of 6 for pairs, and 16 instead of 12 for two views,
where each similarity serves both of its anchors. The tiles of a small matrix are kept instead.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...distributed.exchange import Shares
from .similarities import (
    Diagonals,
    Excluded,
    LogSumExp,
    Similarities,
    add_shifted,
    scaled_products,
)

__all__ = ["Part", "Shared", "Tiled"]

# Most entries of a matrix that is kept, 16 MB in float32; and entries of a tile of a larger matrix,
# 2 MB, which fit into a cache.
KEPT, TILE = 2**22, 2**19
# On an accelerator each tile takes several launches, so tiles are large, 128 MB.
KEPT_ON_DEVICE, TILE_ON_DEVICE = 2**24, 2**25
# Fewest rows of a strip of a symmetric matrix: cutting further costs more than it saves.
HALVED = 256


@dataclass(frozen=True)
class Part:
    """The rows of the matrix that `Tiled` computes, if other processes compute the other rows.

    A part has all columns, so the sum over each row is complete. The gradient by a row is complete
    too: of the anchors in the columns it needs only `log_sum` and `weight`.

    Attributes:
        side, column_side: the sides of the anchors in the rows and in the columns; None for columns
            that are no anchors.
        first: index of the first row among the anchors of its side.
        anchors: M, the number of anchors of each side.
    """

    side: int
    first: int
    anchors: int
    column_side: int | None


@dataclass(frozen=True)
class _Tile:
    """Some rows and columns of the matrix.

    Attributes:
        rows, columns: their slices, among `x` and among `y`.
        both: whether sums of columns are summed too, and vectors of columns get gradient. It is
            False on the diagonal of a symmetric matrix, where the columns are the rows.
        excluded: the entries that are no negatives, `(n, m)` bool or diagonals of the whole matrix.
        values: `(n, m)` exp(s / tau), 0 for entries that are no negatives; or s, with `shift`.
    """

    rows: slice
    columns: slice
    both: bool
    excluded: Tensor | Diagonals
    values: Tensor

    def fill_excluded(self, entries: Tensor, value: float) -> Tensor:
        """Set `entries` `(n, m)` that are no negatives to `value`, in place."""
        if isinstance(self.excluded, Tensor):
            return entries.masked_fill_(self.excluded, value)
        for offset in self.excluded.offsets:
            entries.diagonal(offset + self.rows.start - self.columns.start).fill_(value)
        return entries


class _Anchors(NamedTuple):
    """The anchors along the rows or the columns of a tile.

    Attributes:
        dim: dimension of the tile along which the anchors' negatives lie.
        at: their side, and their indices among the anchors of that side.
    """

    dim: int
    at: tuple[int, slice]

    def spread(self, numbers: Tensor) -> Tensor:
        """Select these anchors' numbers from `(S, M)`, in a shape that broadcasts over the tile."""
        return numbers[self.at].unsqueeze(self.dim)


class Tiled(Similarities):
    """One tile of the matrix at a time, in little memory.

    Args:
        x: `(M, d)` unit vectors in the rows.
        y: `(N, d)` unit vectors in the columns. None for `x`, with a symmetric `excluded`.
        excluded: entries that are no negatives.
        sides: S, 1 or 2.
        shift: see `needs_shift`.
        part: the rows of the matrix that `x` has; None for all. A part needs `y`, and its sums,
            means and gradients are right for its own rows only.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        excluded: Excluded,
        sides: int,
        shift: bool,
        part: Part | None = None,
    ) -> None:
        self.x, self.y, self.shift = x, x if y is None else y, shift
        self.symmetric, self.sides, self.excluded = y is None, sides, excluded
        self.whole = part is None
        self.part = part or Part(0, 0, len(x), 1 if sides > 1 else 0 if y is None else None)
        self.kept: list[_Tile] = []

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        self.tau, shift = tau, self.shift
        total = self.x.new_full((self.sides, self.part.anchors), -math.inf if shift else 0.0)
        mean = torch.zeros_like(total) if means else None
        count = torch.zeros_like(total) if callable(self.excluded) else self.excluded.per_row
        for tile in self._tiles():
            for anchors in self._anchors(tile)[: 1 + tile.both]:
                dim, at = anchors
                if isinstance(count, Tensor) and isinstance(tile.excluded, Tensor):
                    count[at] += tile.excluded.sum(dim)
                own = None if mean is None else mean[at]
                if shift:
                    logits = self._logits(tile, anchors)
                    finite = logits if own is None else logits.masked_fill(logits == -math.inf, 0)
                    add_shifted(total[at], own, logits, finite, dim)
                    continue
                total[at] += tile.values.sum(dim)
                if own is not None:
                    own += tile.values.xlogy(tile.values).sum(dim)
        if mean is not None and not shift:
            mean = mean / total.clamp(min=torch.finfo(total.dtype).tiny)
        return LogSumExp(total if shift else total.log(), len(self.y) - count, mean)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        if not isinstance(self.excluded, Diagonals):
            # Replace the -inf of anchors without negatives, whose weight 0 would become NaN.
            log_sum = log_sum.masked_fill(log_sum == -math.inf, 0)
        scaled = weight if self.shift else weight / log_sum.exp()
        gradients = self.x.new_zeros(self.sides if self.whole else 1, *self.x.shape)
        for tile in self._tiles():
            by_similarity = self._by_similarity(tile, log_sum, scaled)  # (n, m)
            gradients[0][tile.rows].addmm_(by_similarity, self.y[tile.columns])
            if tile.both:
                gradients[-1][tile.columns].addmm_(by_similarity.T, self.x[tile.rows])
        return gradients

    def _by_similarity(self, tile: _Tile, log_sum: Tensor, scaled: Tensor) -> Tensor:
        """Compute the gradient by each similarity, `(n, m)`, with `scaled` of `gradients`."""
        both = self._anchors(tile)
        weights = [anchors.spread(scaled) for anchors in both]
        if not self.shift:
            return tile.values * (weights[0] + weights[1] if len(weights) > 1 else weights[0])
        terms = [
            (self._logits(tile, anchors) - anchors.spread(log_sum)).exp_() * weight
            for anchors, weight in zip(both, weights, strict=True)
        ]
        return terms[0].add_(terms[1]) if len(terms) > 1 else terms[0]

    def _logits(self, tile: _Tile, anchors: _Anchors) -> Tensor:
        """Compute s / tau, -inf where excluded, `(n, m)`."""
        tau = self.tau
        tau = anchors.spread(tau) if isinstance(tau, Tensor) and tau.ndim else tau
        return tile.fill_excluded(tile.values / tau, -math.inf)

    def _anchors(self, tile: _Tile) -> list[_Anchors]:
        """List the anchors along the tile's rows, then those along its columns."""
        anchors = [_Anchors(1, (self.part.side, self._own(tile.rows)))]
        if self.part.column_side is not None:
            anchors.append(_Anchors(0, (self.part.column_side, tile.columns)))
        return anchors

    def _tiles(self) -> Iterator[_Tile]:
        """Yield all tiles of the matrix; of a symmetric one, those from the diagonal on."""
        if self.kept:
            yield from self.kept
            return
        keep, height, width = self._cut()
        both = self.whole and self.part.column_side is not None
        for rows in _slices(0, len(self.x), height):
            diagonal = [(rows, False)] if self.symmetric else []
            others = _slices(rows.stop if self.symmetric else 0, len(self.y), width)
            for columns, counts in (*diagonal, *((each, both) for each in others)):
                tile = self._tile(rows, columns, counts)
                if keep:
                    self.kept.append(tile)
                yield tile

    def _cut(self) -> tuple[bool, int, int]:
        """Choose whether tiles are kept, and their height and width."""
        on_host = self.x.device.type == "cpu"
        kept, entries = (KEPT, TILE) if on_host else (KEPT_ON_DEVICE, TILE_ON_DEVICE)
        rows, columns = len(self.x), len(self.y)
        if rows * columns <= kept:
            # Strips skip nearly half of a symmetric matrix.
            return True, max(HALVED, rows // 8) if self.symmetric else rows, columns
        # A nearly square tile reads the fewest vectors for its number of entries.
        width = min(columns, math.isqrt(2 * entries))
        return False, max(1, entries // width), width

    def _tile(self, rows: slice, columns: slice, both: bool) -> _Tile:
        x, y, excluded = self.x[rows], self.y[columns], self.excluded
        mask = excluded if isinstance(excluded, Diagonals) else excluded(self._own(rows), columns)
        if self.shift:
            return _Tile(rows, columns, both, mask, x @ y.T)
        tile = _Tile(rows, columns, both, mask, scaled_products(x, y, self.tau).exp_())
        tile.fill_excluded(tile.values, 0)
        return tile

    def _own(self, rows: slice) -> slice:
        """Convert indices among the rows of `x` to indices among the anchors of their side."""
        return slice(self.part.first + rows.start, self.part.first + rows.stop)


def _slices(start: int, stop: int, length: int) -> list[slice]:
    """Cut a range into slices of equal length; the last may be shorter."""
    length = max(1, length)
    return [slice(first, min(first + length, stop)) for first in range(start, stop, length)]


class Shared(Similarities):
    """The similarities of a batch that several processes share, see `sogclr.distributed.exchange`.

    The processes exchange log-sum-exps. The gradient by a process's own features needs nothing
    else, so backward exchanges nothing.

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
