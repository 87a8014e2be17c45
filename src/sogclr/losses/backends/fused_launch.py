"""Similarities of half-precision features by kernels, a tile at a time, never kept.

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
from torch import Tensor

from .fused_kernels import (
    log_means_kernel,
    measured_kernel,
    projected_kernel,
    pulls_kernel,
    sums_kernel,
)

__all__ = ["LOG2E", "Side", "log_means", "measured", "projected", "pulls", "sums"]

LOG2E = math.log2(math.e)
# The fastest of seven on an H100. Fewer warps leave room for a second tile on a multiprocessor:
# one multiplies while the other exponentiates.
ROWS, COLUMNS, DEPTH, GROUP = 128, 128, 64, 8
LAUNCH = {"num_warps": 4, "num_stages": 3}
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
    sums_kernel[(tiles[0] * tiles[1],)](
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
    pulls_kernel[(tiles[0] * tiles[1],)](
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


def measured(x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows `(M, d)` of both: 1 / length, and the cosine of each with its partner, `(M,)`."""
    found = torch.empty(3, x.shape[0], dtype=torch.float32, device=x.device)
    grid, blocks = _row_by_row(x)
    measured_kernel[grid](x, y, found, *x.shape, epsilon, **blocks)
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
    projected_kernel[grid](gradient, pull, x, inverse_x, y, inverse_y, found, *x.shape, **blocks)
    return found


def _row_by_row(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and of what shape each of its blocks is: whole rows, 4,096 entries or one row."""
    width = triton.next_power_of_2(x.shape[1])
    rows = max(1, 4096 // width)
    return (triton.cdiv(x.shape[0], rows),), {"ROWS": rows, "WIDTH": width}


def log_means(rows: Tensor, logs: Tensor) -> Tensor:
    """`log_mean_over_equal_rows`, comparing all with all in one launch."""
    found = torch.empty_like(logs)
    count = rows.shape[0]
    grid = (triton.cdiv(count, 32),)
    log_means_kernel[grid](rows.contiguous(), logs.contiguous(), found, count, ROWS=32, COLUMNS=128)
    return found
