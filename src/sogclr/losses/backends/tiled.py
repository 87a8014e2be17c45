"""Similarities, computed tile by tile in O(B d) memory.

Each tile is computed twice, for the sums and for the gradient, and no B x B matrix is stored. This
takes 8 B²d floating-point operations instead of 6 for pairs, and 16 instead of 12 for two views,
where each similarity serves both of its anchors. The tiles of a small matrix are kept instead.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from .similarities import Diagonals, Excluded, LogSumExp, Similarities, scaled_products

__all__ = ["Part", "Tiled"]

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
        side: the side of the anchors in the rows.
        first: index of the first row among the anchors of that side.
        anchors: M, the number of anchors of each side.
        column_side: the side of the anchors in the columns; None if columns are no anchors.
    """

    side: int
    first: int
    anchors: int
    column_side: int | None


@dataclass(frozen=True)
class _Tile:
    """Rows `top` to `bottom` of the matrix, columns `left` to `right`.

    Attributes:
        values: `(n, m)` exp(s / tau), 0 for entries that are no negatives; or s, with `shift`.
        excluded: the entries that are no negatives, `(n, m)` bool or diagonals of the whole matrix.
    """

    top: int
    bottom: int
    left: int
    right: int
    values: Tensor
    excluded: Tensor | Diagonals

    def fill_excluded(self, entries: Tensor, value: float) -> Tensor:
        """Set `entries` `(n, m)` that are no negatives to `value`, in place."""
        if isinstance(self.excluded, Tensor):
            return entries.masked_fill_(self.excluded, value)
        for offset in self.excluded.offsets:
            entries.diagonal(offset + self.top - self.left).fill_(value)
        return entries

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    @property
    def mirrored(self) -> int:
        """Number of leading columns that are also rows of the tile, in a symmetric matrix."""
        return min(max(0, self.bottom - self.left), self.right - self.left)


@dataclass(frozen=True)
class _Anchors:
    """The anchors of a tile along its rows or its columns.

    Attributes:
        side: the side of the anchors.
        dim: dimension of the tile along which the anchors' negatives lie.
        places: indices of the anchors among those of their side.
        mirrored: number of leading anchors whose entries are already counted along the rows.
    """

    side: int
    dim: int
    places: slice
    mirrored: int = 0

    def spread(self, numbers: Tensor) -> Tensor:
        """Select these anchors' numbers from `(S, M)`, in a shape that broadcasts over the tile."""
        selected = numbers[self.side, self.places]
        return selected[:, None] if self.dim == 1 else selected

    def uncounted(self, entries: Tensor) -> Tensor:
        """Select the entries of the tile that are not already counted along the rows."""
        return entries[:, self.mirrored :] if self.mirrored else entries

    def select(self, totals: Tensor) -> Tensor:
        """Select the totals, from `(S, M)`, of the anchors with uncounted entries; a view."""
        return totals[self.side, self.places][self.mirrored :]

    def add(self, totals: Tensor, entries: Tensor) -> None:
        """Add the sums over uncounted entries `(n, m)` to totals `(S, M)`."""
        self.select(totals).add_(self.uncounted(entries).sum(self.dim))


class Tiled(Similarities):
    """One tile of the matrix at a time, in little memory.

    Args:
        x: `(M, d)` unit vectors, the anchors in the rows.
        y: `(N, d)` unit vectors in the columns. None for `x`, with a symmetric `excluded`.
        excluded: entries that are no negatives.
        sides: S, the number of sides; 2 if the columns are anchors of another side, then N = M.
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
        self.symmetric, self.sides, self.part, self.excluded = y is None, sides, part, excluded
        self.anchors, self.first = (part.anchors, part.first) if part else (len(x), 0)
        self.kept: list[_Tile] = []

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        self.tau, shift = tau, self.shift
        total = self.x.new_full((self.sides, self.anchors), -math.inf if shift else 0.0)
        mean = torch.zeros_like(total) if means else None
        count = torch.zeros_like(total) if callable(self.excluded) else self.excluded.per_row
        for tile in self._tiles():
            for anchors in self._complete(tile):
                if isinstance(count, Tensor) and isinstance(tile.excluded, Tensor):
                    anchors.add(count, tile.excluded)
                if shift:
                    self._add_shifted(tile, anchors, total, mean)
                    continue
                anchors.add(total, tile.values)
                if mean is not None:
                    anchors.add(mean, tile.values.xlogy(tile.values))
        if mean is not None and not shift:
            mean = mean / total.clamp(min=torch.finfo(total.dtype).tiny)
        return LogSumExp(total if shift else total.log(), len(self.y) - count, mean)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        if not isinstance(self.excluded, Diagonals):
            # Replace the -inf of anchors without negatives, whose weight 0 would become NaN.
            log_sum = log_sum.masked_fill(log_sum == -math.inf, 0)
        scaled = weight if self.shift else weight / log_sum.exp()
        # See `Dense.gradients`.
        empty = self.x.new_zeros if torch.compiler.is_compiling() else self.x.new_empty
        gradients = empty(1 if self.part else self.sides, *self.x.shape)
        for tile in self._tiles():
            by_similarity = self._by_similarity(tile, log_sum, scaled)  # (n, m)
            x, y = self.x[tile.rows], self.y[tile.columns]
            # beta=0 for the first write: the buffer is uninitialized.
            gradients[0][tile.rows].addmm_(by_similarity, y, beta=0 if tile.left == 0 else 1)
            if self.symmetric or len(gradients) > 1:
                mirrored = tile.mirrored if self.symmetric else 0
                rest = gradients[-1][tile.left + mirrored : tile.right]
                rest.addmm_(by_similarity[:, mirrored:].T, x, beta=0 if tile.top == 0 else 1)
        return gradients

    def _by_similarity(self, tile: _Tile, log_sum: Tensor, scaled: Tensor) -> Tensor:
        """Compute the gradient by each similarity, `(n, m)`, with `scaled` of `gradients`."""
        first, *second = self._anchors(tile)
        if not self.shift:
            row_weight = first.spread(scaled)
            return tile.values * (row_weight + second[0].spread(scaled) if second else row_weight)
        terms = [
            (self._logits(tile, anchors) - anchors.spread(log_sum)).exp_() * anchors.spread(scaled)
            for anchors in (first, *second)
        ]
        return terms[0].add_(terms[1]) if second else terms[0]

    def _add_shifted(
        self, tile: _Tile, anchors: _Anchors, log_sum: Tensor, mean: Tensor | None
    ) -> None:
        """Add a tile's entries to running log-sum-exps and means, `(S, M)` each."""
        logits = anchors.uncounted(self._logits(tile, anchors))
        before = anchors.select(log_sum)
        after = torch.logaddexp(before, logits.logsumexp(anchors.dim))
        if mean is not None:
            finite = after.masked_fill(after == -math.inf, 0)
            share = (logits - finite.unsqueeze(anchors.dim)).exp()
            logits = logits.masked_fill(logits == -math.inf, 0)
            own = anchors.select(mean)
            own.mul_((before - finite).exp()).add_((share * logits).sum(anchors.dim))
        before.copy_(after)

    def _logits(self, tile: _Tile, anchors: _Anchors) -> Tensor:
        """Compute s / tau, -inf where excluded, `(n, m)`."""
        per_anchor = isinstance(self.tau, Tensor) and self.tau.ndim > 0
        tau = anchors.spread(self.tau) if per_anchor and isinstance(self.tau, Tensor) else self.tau
        return tile.fill_excluded(tile.values / tau, -math.inf)

    def _anchors(self, tile: _Tile) -> Iterator[_Anchors]:
        """List the anchors along the tile's rows, then those along its columns."""
        if self.part is not None:
            rows = slice(self.first + tile.top, self.first + tile.bottom)
            yield _Anchors(self.part.side, 1, rows)
            if self.part.column_side is not None:
                yield _Anchors(self.part.column_side, 0, tile.columns)
            return
        yield _Anchors(0, 1, tile.rows)
        if self.sides > 1:
            yield _Anchors(1, 0, tile.columns)
        elif self.symmetric:
            yield _Anchors(0, 0, tile.columns, tile.mirrored)

    def _complete(self, tile: _Tile) -> Iterator[_Anchors]:
        """List the anchors whose negatives are all in tiles of this process."""
        anchors = self._anchors(tile)
        return anchors if self.part is None else islice(anchors, 1)

    def _tiles(self) -> Iterator[_Tile]:
        """Yield all tiles of the matrix; of a symmetric one, those from the diagonal on."""
        if self.kept:
            yield from self.kept
            return
        rows, columns, (keep, height, width) = len(self.x), len(self.y), self._cut()
        for top in range(0, rows, max(1, height)):
            for left in range(top if self.symmetric else 0, columns, max(1, width)):
                tile = self._tile(top, min(top + height, rows), left, min(left + width, columns))
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

    def _tile(self, top: int, bottom: int, left: int, right: int) -> _Tile:
        excluded = (
            self.excluded
            if isinstance(self.excluded, Diagonals)
            else self.excluded(slice(self.first + top, self.first + bottom), slice(left, right))
        )
        x, y, place = self.x[top:bottom], self.y[left:right], (top, bottom, left, right)
        if self.shift:
            return _Tile(*place, x @ y.T, excluded)
        tile = _Tile(*place, scaled_products(x, y, self.tau).exp_(), excluded)
        tile.fill_excluded(tile.values, 0)
        return tile
