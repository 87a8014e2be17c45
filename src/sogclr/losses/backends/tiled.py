"""Log-sum-exps over negatives, and their gradients, in O(B d) memory.

A softmax contrastive loss sees the negatives of an anchor through one number,

    log_sum_i = log sum over negatives j of exp(s_ij / tau_i),  P_ij = exp(s_ij / tau_i - log_sum_i)

Once it has decided by these how much each anchor weighs, the gradient by the similarities is
weight_i P_ij: no Jacobian of a softmax. So similarities are formed tile by tile, once for the
sums and once more for the gradient, and nothing of size B x B is kept. That takes 8 B²d floating
point operations for pairs instead of 6; for two views, where each similarity serves both its
anchors, 16 instead of 12. What fits is kept.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Absent", "Diagonals", "Negatives", "Part", "one_exponential"]


@dataclass(frozen=True)
class Diagonals:
    """Which entries are no negatives, where all ids are known to differ: no mask is formed.

    It leaves a negative at least to every row and column.

    Attributes:
        offsets: entry (i, j) is none where j - i is one of these.
        each: how many that makes in every row and every column.
    """

    offsets: tuple[int, ...]
    each: int


Absent: TypeAlias = Callable[[slice, slice], Tensor] | Diagonals

# Entries of a matrix that is kept, 16 MB in float32; of a tile of a larger one, 2 MB: a cache's.
KEPT, TILE = 2**22, 2**19
# Elsewhere each tile is a round of launches, so there are few, of 128 MB.
KEPT_ON_DEVICE, TILE_ON_DEVICE = 2**24, 2**25
# Rows below which cutting a symmetric matrix costs more than the half of it that is saved.
HALVED = 256


@dataclass(frozen=True)
class _Tile:
    """Rows `top` to `bottom` of the matrix, columns `left` to `right`.

    Attributes:
        values: `(n, m)` exp(s / tau), 0 where absent, if one serves all anchors; else s.
        absent: `(n, m)` bool, or diagonals of the whole: what is no negative.
    """

    top: int
    bottom: int
    left: int
    right: int
    values: Tensor
    absent: Tensor | Diagonals

    def without(self, entries: Tensor, value: float) -> Tensor:
        """The entries `(n, m)`, with `value` in place of what is no negative."""
        if isinstance(self.absent, Tensor):
            return entries.masked_fill_(self.absent, value)
        for offset in self.absent.offsets:
            entries.diagonal(offset + self.top - self.left).fill_(value)
        return entries

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    @property
    def met(self) -> int:
        """Of a symmetric matrix, how many of the columns, the first ones, are its rows as well."""
        return min(max(0, self.bottom - self.left), self.right - self.left)


@dataclass(frozen=True)
class _Anchors:
    """The anchors of a tile along its rows or its columns.

    Attributes:
        side: of the batch, which they are of.
        dim: of the tile, which their negatives are along.
        places: where they are among the anchors of their side.
        met: how many of them, the first ones, were met as rows: their entries here count there.
    """

    side: int
    dim: int
    places: slice
    met: int = 0

    def beside(self, numbers: Tensor) -> Tensor:
        """Of numbers `(S, M)`, theirs, so that they go with the tile's entries."""
        own = _rows(numbers[self.side], self.places)
        return own[:, None] if self.dim == 1 else own

    def fresh(self, entries: Tensor) -> Tensor:
        """Of the tile's entries `(n, m)`, those that count here."""
        return entries[:, self.met :] if self.met else entries

    def of(self, totals: Tensor) -> Tensor:
        """Of totals `(S, M)`, those of anchors with entries that count here."""
        return totals[self.side, self.places][self.met :]

    def add(self, totals: Tensor, entries: Tensor) -> None:
        """Add what the tile's entries `(n, m)` sum to, to totals `(S, M)`."""
        self.of(totals).add_(self.fresh(entries).sum(self.dim))


@dataclass(frozen=True)
class Part:
    """Which rows of a matrix there are, where other processes have the others.

    All columns are there, so that sums along a row are complete, and so is the gradient by a row:
    it takes of the columns' anchors only numbers, `log_sum` and `weight`.

    Attributes:
        side: of the batch, which the rows are of.
        first: where they are among its anchors.
        anchors: how many each side has.
        met: the side that the columns are anchors of; None if they are none.
    """

    side: int
    first: int
    anchors: int
    met: int | None


def one_exponential(tau: float | Tensor, minimum: float, dtype: torch.dtype) -> bool:
    """Whether exp(s / tau) serves all anchors as it is.

    It does not where each has a temperature of its own, or where it could overflow or all of an
    anchor's vanish: then each needs a shift of its own.
    """
    safe = 1 / minimum < 0.8 * math.log(torch.finfo(dtype).max)
    return safe and not (isinstance(tau, Tensor) and tau.ndim > 0)


class Negatives:
    """The similarities of a batch, of which one tile at a time exists.

    Args:
        a: `(M, d)` unit vectors, the rows, which are anchors.
        b: `(N, d)` unit vectors, the columns. None for those of `a` once more: then columns are
            the same anchors, and `absent` is symmetric.
        absent: given rows and columns, which entries are no negatives, `(n, m)` bool; or diagonals.
        sides: 2 if columns are anchors of another side; there are as many as rows then. S.
        tau: a number, a scalar, or `(S, M)`.
        minimum: a number that no temperature is below, known without asking the device.
        part: which rows these are of a matrix with more; default: all. Then M is
            `part.anchors`, `b` is given, and sums, means and gradients are of these rows alone.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor | None,
        absent: Absent,
        sides: int,
        tau: float | Tensor,
        minimum: float,
        part: Part | None = None,
    ) -> None:
        self.a, self.b, self.absent, self.tau = a, a if b is None else b, absent, tau
        self.symmetric, self.sides, self.part = b is None, sides, part
        self.anchors, self.first = (part.anchors, part.first) if part else (a.shape[0], 0)
        self.one_each = isinstance(tau, Tensor) and tau.ndim > 0
        self.one_exponential = one_exponential(tau, minimum, a.dtype)
        self.kept: list[_Tile] = []

    def log_sums(self) -> tuple[Tensor, Tensor | int]:
        """log_sum `(S, M)`, -inf without negatives; and how many they are, as dtype of `a`.

        That is a number where all have as many, and some.
        """
        if self.one_exponential and isinstance(self.absent, Diagonals) and self._is_one_tile():
            (tile,) = self._tiles()
            sides = [each.dim for each in self._anchors(tile) if not each.met]
            sums = torch.stack([tile.values.sum(dim) for dim in sides])
            return sums.log(), self.b.shape[0] - self.absent.each
        start = 0.0 if self.one_exponential else -math.inf
        sums = self.a.new_full((self.sides, self.anchors), start)
        absent = self.absent.each if isinstance(self.absent, Diagonals) else torch.zeros_like(sums)
        for tile in self._tiles():
            for anchors in self._complete(tile):
                if isinstance(absent, Tensor) and isinstance(tile.absent, Tensor):
                    anchors.add(absent, tile.absent)
                if self.one_exponential:
                    anchors.add(sums, tile.values)
                else:
                    new = anchors.fresh(self._logits(tile, anchors)).logsumexp(anchors.dim)
                    anchors.of(sums).copy_(torch.logaddexp(anchors.of(sums), new))
        log_sum = sums.log() if self.one_exponential else sums
        return log_sum, self.b.shape[0] - absent

    def gradients(
        self, log_sum: Tensor, weight: Tensor, means: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Of the sum over all anchors of weight_i tau_i log_sum_i.

        Args:
            log_sum: `(S, M)` of `log_sums`.
            weight: `(S, M)`, 0 for an anchor without negatives.
            means: whether to take the mean of s / tau as well.

        Returns:
            `(1, M, d)` by `a`, or `(2, M, d)` by `a` and by `b` if columns are another side; and
            if asked for, the mean of s / tau over each anchor's negatives under P, `(S, M)`, 0
            without negatives.
        """
        if not isinstance(self.absent, Diagonals):
            # An anchor without negatives weighs nothing; a number in place of -inf keeps it so.
            log_sum = log_sum.masked_fill(log_sum == -math.inf, 0)
        scaled = weight / log_sum.exp() if self.one_exponential else weight
        both = self.sides > 1 and self.part is None
        # A compiler may multiply what is to be overwritten by 0, which leaves what is not a number.
        empty = self.a.new_zeros if torch.compiler.is_compiling() else self.a.new_empty
        gradient = empty(1 + both, *self.a.shape)
        sides = gradient.unbind()
        grad_a, grad_b = sides[0], sides[-1]
        mean = torch.zeros_like(log_sum) if means else None
        for tile in self._tiles():
            pull = self._pull(tile, log_sum, scaled)  # (n, m)
            # The first to write somewhere takes nothing of what is there.
            fresh_rows, fresh_columns = tile.left == 0, tile.top == 0
            a, b = _rows(self.a, tile.rows), _rows(self.b, tile.columns)
            _rows(grad_a, tile.rows).addmm_(pull, b, beta=0 if fresh_rows else 1)
            if both or self.symmetric:
                met = tile.met if self.symmetric else 0
                rest = _rows(grad_b, slice(tile.left + met, tile.right))
                fresh = pull[:, met:] if met else pull
                rest.addmm_(fresh.T, a, beta=0 if fresh_columns else 1)
            if mean is not None:
                self._add_means(tile, log_sum, mean)
        return gradient, mean

    def _pull(self, tile: _Tile, log_sum: Tensor, weight: Tensor) -> Tensor:
        """What each similarity is pulled with, `(n, m)`; takes weights that `gradients` scaled."""
        if self.one_exponential:
            first, *second = (anchors.beside(weight) for anchors in self._anchors(tile))
            return tile.values * (first + second[0] if second else first)
        shares = [
            self._share(tile, anchors, log_sum).mul_(anchors.beside(weight))
            for anchors in self._anchors(tile)
        ]
        return shares[0].add_(shares[1]) if len(shares) > 1 else shares[0]

    def _add_means(self, tile: _Tile, log_sum: Tensor, mean: Tensor) -> None:
        for anchors in self._complete(tile):
            if self.one_exponential:
                terms = tile.values.xlogy(tile.values) * (-anchors.beside(log_sum)).exp()
            else:
                share = self._share(tile, anchors, log_sum)
                terms = share * (tile.values / self._tau(anchors))
            anchors.add(mean, terms)

    def _share(self, tile: _Tile, anchors: _Anchors, log_sum: Tensor) -> Tensor:
        """P `(n, m)`, where each side has an exponential of its own."""
        return (self._logits(tile, anchors) - anchors.beside(log_sum)).exp_()

    def _logits(self, tile: _Tile, anchors: _Anchors) -> Tensor:
        """s / tau, -inf where absent, `(n, m)`."""
        return tile.without(tile.values / self._tau(anchors), -math.inf)

    def _tau(self, anchors: _Anchors) -> float | Tensor:
        """So that it goes with a tile's entries."""
        tau = self.tau
        return anchors.beside(tau) if isinstance(tau, Tensor) and self.one_each else tau

    def _anchors(self, tile: _Tile) -> Iterator[_Anchors]:
        """Whose negatives the tile's entries are."""
        if self.part is not None:
            rows = slice(self.first + tile.top, self.first + tile.bottom)
            yield _Anchors(self.part.side, 1, rows)
            if self.part.met is not None:
                yield _Anchors(self.part.met, 0, tile.columns)
            return
        yield _Anchors(0, 1, tile.rows)
        if self.sides > 1:
            yield _Anchors(1, 0, tile.columns)
        elif self.symmetric:
            yield _Anchors(0, 0, tile.columns, tile.met)

    def _complete(self, tile: _Tile) -> Iterator[_Anchors]:
        """Those with all of their negatives here, in this tile or another."""
        anchors = self._anchors(tile)
        return anchors if self.part is None else islice(anchors, 1)

    def _tiles(self) -> Iterator[_Tile]:
        if self.kept:
            yield from self.kept
            return
        (rows, columns), (keep, height, width) = self._shape(), self._cut()
        for top in range(0, rows, max(1, height)):
            for left in range(top if self.symmetric else 0, columns, max(1, width)):
                bottom, right = min(top + height, rows), min(left + width, columns)
                found = self._tile(top, bottom, left, right)
                if keep:
                    self.kept.append(found)
                yield found

    def _shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.b.shape[0]

    def _cut(self) -> tuple[bool, int, int]:
        """Whether tiles are kept, and their height and width."""
        on_host = self.a.device.type == "cpu"
        kept, entries = (KEPT, TILE) if on_host else (KEPT_ON_DEVICE, TILE_ON_DEVICE)
        rows, columns = self._shape()
        if rows * columns <= kept:
            # It needs no tiles; but of a symmetric matrix they leave out nearly half.
            return True, max(HALVED, rows // 8) if self.symmetric else rows, columns
        # As high as wide, so that a product takes in few numbers for what it puts out.
        width = min(columns, math.isqrt(2 * entries))
        return False, max(1, entries // width), width

    def _is_one_tile(self) -> bool:
        keep, height, _ = self._cut()
        return keep and height >= self.a.shape[0]

    def _tile(self, top: int, bottom: int, left: int, right: int) -> _Tile:
        absent = (
            self.absent
            if isinstance(self.absent, Diagonals)
            else self.absent(slice(self.first + top, self.first + bottom), slice(left, right))
        )
        a, b = _rows(self.a, slice(top, bottom)), _rows(self.b, slice(left, right))
        place = top, bottom, left, right
        if not self.one_exponential:
            return _Tile(*place, a @ b.T, absent)
        tile = _Tile(*place, self._scaled(a, b).exp_(), absent)
        tile.without(tile.values, 0)
        return tile

    def _scaled(self, a: Tensor, b: Tensor) -> Tensor:
        """s / tau, of one tau, `(n, m)`."""
        if isinstance(self.tau, Tensor):
            return (a / self.tau) @ b.T
        return torch.addmm(a.new_zeros(()), a, b.T, beta=0, alpha=1 / self.tau)


def _rows(whole: Tensor, places: slice) -> Tensor:
    """Some rows. Even a view takes its microseconds, so there is none of all of them."""
    return whole if places == slice(0, whole.shape[0]) else whole[places]
