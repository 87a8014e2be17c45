"""Triton kernels: similarities of half-precision features, a tile at a time, never kept.

Tensor cores multiply the features as they are and add up in float32; lengths divide the sums. So
unit vectors are never rounded: a similarity is as exact as one of float32 vectors. Whatever is
summed over a row or a column of tiles is written down by each tile in a place of its own and added
up afterwards, so that results are the same from run to run.

Exponentials are powers of two, as the hardware has them: `sharpness` is log2(e) / tau.
"""

import math
import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["LOG2E", "Side", "measured", "projected", "pulls", "sums"]

LOG2E = math.log2(math.e)
# Two such tiles are at work on a multiprocessor: one multiplies while the other exponentiates.
ROWS, COLUMNS, DEPTH, GROUP = 128, 128, 64, 8
LAUNCH = {"num_warps": 8, "num_stages": 3}
# There the bits of bfloat16 numbers are multiplied as if they were integers.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Side:
    """Rows or columns of the matrix of similarities, M of them.

    Attributes:
        features: `(M, d)` bfloat16 or float16, contiguous.
        inverse: `(M,)` float32, 1 / their lengths.
        sharpness: `(M,)` float32, log2(e) / tau, of any stride.
        ids: `(L, M)` int64; who shares any with whom is no negative.
    """

    features: Tensor
    inverse: Tensor
    sharpness: Tensor
    ids: Tensor

    def __getitem__(self, places: slice) -> "Side":
        return Side(
            self.features[places],
            self.inverse[places],
            self.sharpness[places],
            self.ids[:, places],
        )

    def __len__(self) -> int:
        return self.features.shape[0]

    def arguments(self) -> tuple[Tensor | int, ...]:
        """As the kernels take them."""
        sharpness, ids = self.sharpness, self.ids
        return (self.features, self.inverse, sharpness, sharpness.stride(0), ids, ids.stride(0))


def sums(a: Side, b: Side, one: bool, symmetric: bool) -> tuple[Tensor, Tensor]:
    """What the exponentials of similarities over tau sum to, and how many there are.

    Args:
        a: M rows.
        b: N columns.
        one: whether one exponential serves rows and columns, all of one temperature; else sums
            are returned as logarithms.
        symmetric: whether `b` begins with `a`, all of them anchors of one side. Then only what
            is right of the diagonal is formed, and counts for its row and for its column.

    Returns:
        `(2, T, M)` and `(2, T, N)` float32: sum and number, in T parts that are to be added.
    """
    tiles = triton.cdiv(len(a), ROWS), triton.cdiv(len(b), COLUMNS)
    by_rows = a.inverse.new_empty(2, tiles[1], len(a))
    by_columns = a.inverse.new_empty(2, tiles[0], len(b))
    _sums[(tiles[0] * tiles[1],)](
        *a.arguments(),
        *b.arguments(),
        by_rows,
        by_columns,
        len(a),
        len(b),
        a.features.shape[1],
        one=one,
        symmetric=symmetric,
        **_fixed(a),
    )
    return by_rows, by_columns


def pulls(
    a: Side,
    b: Side,
    weights: tuple[Tensor, Tensor],
    log_sums: tuple[Tensor, Tensor] | None,
    means: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The gradient by inner products of features, their lengths held constant.

    Args:
        a: M rows.
        b: N columns.
        weights: `(M,)` and `(N,)` float32: of an anchor's share in its sum; where one exponential
            serves all, of the exponential itself.
        log_sums: `(M,)` and `(N,)` float32, to base 2, where each side has its own exponential.
        means: whether to sum the weighed similarities, see below.

    Returns:
        `(M, N)` in the dtype of the features, rows padded to a multiple of 16 bytes; and of
        shares (or exponentials) times log2(e) s / tau, what they sum to, `(T, M)` and `(T, N)`
        in T parts.
    """
    rows, columns = len(a), len(b)
    tiles = triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)
    pull = a.features.new_empty(rows, triton.cdiv(columns, 8) * 8)[:, :columns]
    by_rows = a.inverse.new_empty((tiles[1], rows) if means else (1, 1))
    by_columns = a.inverse.new_empty((tiles[0], columns) if means else (1, 1))
    _pulls[(tiles[0] * tiles[1],)](
        *a.arguments(),
        *b.arguments(),
        *weights,
        *(weights if log_sums is None else log_sums),
        pull,
        pull.stride(0),
        by_rows,
        by_columns,
        rows,
        columns,
        a.features.shape[1],
        one=log_sums is None,
        means=means,
        **_fixed(a),
    )
    return pull, (by_rows, by_columns) if means else None


def _fixed(a: Side) -> dict[str, int | bool]:
    even = a.features.shape[1] % DEPTH == 0
    shape = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "GROUP": GROUP}
    return {"lists": a.ids.shape[0], "even": even, "widen": INTERPRETED, **shape, **LAUNCH}


@triton.jit
def _place(M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Which tile; those that run together share rows and columns, which the cache then holds."""
    tiles_m, tiles_n = tl.cdiv(M, ROWS), tl.cdiv(N, COLUMNS)
    place = tl.program_id(0)
    first = place // (GROUP * tiles_n) * GROUP
    height = min(tiles_m - first, GROUP)
    inside = place % (GROUP * tiles_n)
    return first + inside % height, inside // height


@triton.jit
def _products(
    x, y, rows, columns, M, N, d,
    even: tl.constexpr, widen: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Inner products `(ROWS, COLUMNS)`; beyond the last row or column, of the first ones again."""
    k = tl.arange(0, DEPTH)
    x += (rows % M).to(tl.int64)[:, None] * d + k[None, :]
    y += (columns % N).to(tl.int64)[None, :] * d + k[:, None]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, d, DEPTH):
        if even:
            left, right = tl.load(x), tl.load(y)
        else:
            left = tl.load(x, mask=k[None, :] < d - start, other=0.0)
            right = tl.load(y, mask=k[:, None] < d - start, other=0.0)
        if widen:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total)
        x += DEPTH
        y += DEPTH
    return total


@triton.jit
def _present(
    row_ids, row_stride, column_ids, column_stride, rows, columns, M, N, lists: tl.constexpr
):
    """Which entries `(ROWS, COLUMNS)` are negatives."""
    present = (rows < M)[:, None] & (columns < N)[None, :]
    for i in tl.static_range(lists):
        own = tl.load(row_ids + i * row_stride + rows, mask=rows < M)
        other = tl.load(column_ids + i * column_stride + columns, mask=columns < N)
        present = present & (own[:, None] != other[None, :])
    return present


@triton.jit
def _log_sum(logits, axis: tl.constexpr):
    """log(sum of 2 ** logits), -inf of nothing, NaN where one is."""
    largest = tl.max(logits, axis)
    shift = tl.where(largest == -float("inf"), 0.0, largest)
    total = tl.sum(tl.exp2(logits - tl.expand_dims(shift, axis)), axis)
    found = shift + tl.log2(tl.where(total == 0, 1.0, total))
    return tl.where(total == 0, largest, found * 0.6931471805599453)


@triton.jit
def _sums(
    x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
    y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
    by_rows, by_columns, M, N, d,
    one: tl.constexpr, symmetric: tl.constexpr, lists: tl.constexpr, even: tl.constexpr,
    widen: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of `sums`."""
    i, j = _place(M, N, ROWS, COLUMNS, GROUP)
    rows, columns = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
    by_rows += j.to(tl.int64) * M + rows
    by_columns += i.to(tl.int64) * N + columns
    more_rows = tl.cdiv(N, COLUMNS).to(tl.int64) * M
    more_columns = tl.cdiv(M, ROWS).to(tl.int64) * N
    inside, beside = rows < M, columns < N
    if symmetric:
        if i * ROWS >= j * COLUMNS + COLUMNS - 1:  # nothing right of the diagonal
            nothing = 0.0 if one else -float("inf")
            tl.store(by_rows, tl.full((ROWS,), nothing, tl.float32), mask=inside)
            tl.store(by_rows + more_rows, tl.zeros((ROWS,), tl.float32), mask=inside)
            tl.store(by_columns, tl.full((COLUMNS,), nothing, tl.float32), mask=beside)
            tl.store(by_columns + more_columns, tl.zeros((COLUMNS,), tl.float32), mask=beside)
            return
    total = _products(x, y, rows, columns, M, N, d, even, widen, ROWS, COLUMNS, DEPTH)
    present = _present(
        row_ids, row_stride, column_ids, column_stride, rows, columns, M, N, lists
    )
    if symmetric:
        present = present & (rows[:, None] < columns[None, :])
    number = present.to(tl.float32)
    r = tl.load(x_inverse + rows, mask=inside, other=0.0)
    c = tl.load(y_inverse + columns, mask=beside, other=0.0)
    t = tl.load(x_sharpness + rows * x_sharpness_stride, mask=inside, other=0.0)
    if one:
        value = tl.where(present, tl.exp2(total * (r * t)[:, None] * c[None, :]), 0.0)
        row_sum, column_sum = tl.sum(value, 1), tl.sum(value, 0)
    else:
        u = tl.load(y_sharpness + columns * y_sharpness_stride, mask=beside, other=0.0)
        cosine = total * r[:, None] * c[None, :]
        row_sum = _log_sum(tl.where(present, cosine * t[:, None], -float("inf")), 1)
        column_sum = _log_sum(tl.where(present, cosine * u[None, :], -float("inf")), 0)
    tl.store(by_rows, row_sum, mask=inside)
    tl.store(by_rows + more_rows, tl.sum(number, 1), mask=inside)
    tl.store(by_columns, column_sum, mask=beside)
    tl.store(by_columns + more_columns, tl.sum(number, 0), mask=beside)


@triton.jit
def _pulls(
    x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
    y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
    row_weight, column_weight, row_log_sum, column_log_sum,
    pull, pull_stride, by_rows, by_columns, M, N, d,
    one: tl.constexpr, means: tl.constexpr, lists: tl.constexpr, even: tl.constexpr,
    widen: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of `pulls`."""
    i, j = _place(M, N, ROWS, COLUMNS, GROUP)
    rows, columns = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
    inside, beside = rows < M, columns < N
    total = _products(x, y, rows, columns, M, N, d, even, widen, ROWS, COLUMNS, DEPTH)
    present = _present(
        row_ids, row_stride, column_ids, column_stride, rows, columns, M, N, lists
    )
    r = tl.load(x_inverse + rows, mask=inside, other=0.0)
    c = tl.load(y_inverse + columns, mask=beside, other=0.0)
    t = tl.load(x_sharpness + rows * x_sharpness_stride, mask=inside, other=0.0)
    w = tl.load(row_weight + rows, mask=inside, other=0.0)
    v = tl.load(column_weight + columns, mask=beside, other=0.0)
    if one:
        logit = total * (r * t)[:, None] * c[None, :]
        value = tl.where(present, tl.exp2(logit), 0.0)
        if means:
            row_mean, column_mean = tl.sum(value * logit, 1), tl.sum(value * logit, 0)
        value = value * (w[:, None] + v[None, :])
    else:
        u = tl.load(y_sharpness + columns * y_sharpness_stride, mask=beside, other=0.0)
        own = tl.load(row_log_sum + rows, mask=inside, other=0.0)
        other = tl.load(column_log_sum + columns, mask=beside, other=0.0)
        cosine = total * r[:, None] * c[None, :]
        # Masked before, since of what is no negative it may overflow.
        of_row = tl.exp2(tl.where(present, cosine * t[:, None] - own[:, None], -float("inf")))
        of_column = tl.exp2(tl.where(present, cosine * u[None, :] - other[None, :], -float("inf")))
        if means:
            row_mean = tl.sum(of_row * cosine, 1) * t
            column_mean = tl.sum(of_column * cosine, 0) * u
        value = of_row * w[:, None] + of_column * v[None, :]
    value = value * r[:, None] * c[None, :]
    places = rows.to(tl.int64)[:, None] * pull_stride + columns[None, :]
    tl.store(pull + places, value.to(pull.dtype.element_ty), mask=inside[:, None] & beside[None, :])
    if means:
        tl.store(by_rows + j.to(tl.int64) * M + rows, row_mean, mask=inside)
        tl.store(by_columns + i.to(tl.int64) * N + columns, column_mean, mask=beside)


def measured(x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows `(M, d)` of both: 1 / length, and the cosine of each with its partner, `(M,)`."""
    found = torch.empty(3, x.shape[0], dtype=torch.float32, device=x.device)
    grid, blocks = _row_by_row(x)
    _measured[grid](x, y, found, *x.shape, epsilon, **blocks)
    inverse_x, inverse_y, cosine = found
    return inverse_x, inverse_y, cosine


def projected(
    gradient: Tensor, pull: Tensor, x: Tensor, inverse_x: Tensor, y: Tensor, inverse_y: Tensor
) -> Tensor:
    """The gradient by rows `(M, d)`, given that at constant length, but for their partners' pull.

    Args:
        gradient: `(M, d)` float32.
        pull: `(M,)` float32, minus the gradient by the cosine of x and y.
        x, inverse_x: rows and 1 / length.
        y, inverse_y: their partners.

    Returns:
        `(M, d)`: bfloat16 for bfloat16, else float32, since what a gradient scaler has not yet
        made large enough would vanish in float16.
    """
    narrow = x.dtype == torch.bfloat16
    found = torch.empty_like(gradient, dtype=x.dtype if narrow else torch.float32)
    grid, blocks = _row_by_row(x)
    _projected[grid](gradient, pull, x, inverse_x, y, inverse_y, found, *x.shape, **blocks)
    return found


def _row_by_row(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and of what shape each of its blocks is: whole rows, 4,096 entries or one row."""
    width = triton.next_power_of_2(x.shape[1])
    rows = max(1, 4096 // width)
    return (triton.cdiv(x.shape[0], rows),), {"ROWS": rows, "WIDTH": width}


@triton.jit
def _block(M, d, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of this program; where their entries are, and which there are, `(ROWS, WIDTH)`."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    places = rows.to(tl.int64)[:, None] * d + k[None, :]
    return rows, places, (rows < M)[:, None] & (k < d)[None, :]


@triton.jit
def _measured(x, y, found, M, d, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Some rows of `measured`."""
    rows, places, there = _block(M, d, ROWS, WIDTH)
    left = tl.load(x + places, mask=there, other=0.0).to(tl.float32)
    right = tl.load(y + places, mask=there, other=0.0).to(tl.float32)
    inverse_x = 1 / tl.maximum(tl.sqrt(tl.sum(left * left, 1)), epsilon)
    inverse_y = 1 / tl.maximum(tl.sqrt(tl.sum(right * right, 1)), epsilon)
    cosine = tl.sum(left * right, 1) * inverse_x * inverse_y
    tl.store(found + rows, inverse_x, mask=rows < M)
    tl.store(found + M + rows, inverse_y, mask=rows < M)
    tl.store(found + 2 * M + rows, cosine, mask=rows < M)


@triton.jit
def _projected(
    gradient, pull, x, inverse_x, y, inverse_y, found, M, d,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Some rows of `projected`."""
    rows, places, there = _block(M, d, ROWS, WIDTH)
    own = tl.load(x + places, mask=there, other=0.0).to(tl.float32)
    partner = tl.load(y + places, mask=there, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_x + rows, mask=rows < M, other=0.0)
    pulled = tl.load(pull + rows, mask=rows < M, other=0.0) * inverse
    pulled = pulled * tl.load(inverse_y + rows, mask=rows < M, other=0.0)
    whole = tl.load(gradient + places, mask=there, other=0.0) - pulled[:, None] * partner
    own = own * inverse[:, None]
    whole = whole - tl.sum(whole * own, 1)[:, None] * own
    tl.store(found + places, whole.to(found.dtype.element_ty), mask=there)
