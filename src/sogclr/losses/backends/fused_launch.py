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

from .fused_kernels import log_means_kernel, products_kernel, sums_kernel

__all__ = ["LOG2E", "Operand", "by_products", "log_means", "sums"]

LOG2E = math.log2(math.e)
# The fastest of seven on an H100. Fewer warps leave room for a second tile on a multiprocessor:
# one multiplies while the other exponentiates.
ROWS, COLUMNS, DEPTH, GROUP = 128, 128, 64, 8
LAUNCH = {"num_warps": 4, "num_stages": 3}
# There the bits of bfloat16 numbers are multiplied as if they were integers.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Operand:
    """Rows or columns of the matrix of similarities, M of them.

    Attributes:
        features: `(M, d)` bfloat16 or float16, contiguous.
        inverse: `(M,)` float32, 1 / length of the features.
        sharpness: `(M,)` float32, log2(e) / tau, of any stride.
        identities: `(L, M)` int64; a row and a column with an equal one are no negatives.
    """

    features: Tensor
    inverse: Tensor
    sharpness: Tensor
    identities: Tensor

    def __getitem__(self, places: slice) -> "Operand":
        return Operand(
            self.features[places],
            self.inverse[places],
            self.sharpness[places],
            self.identities[:, places],
        )

    def __len__(self) -> int:
        return self.features.shape[0]

    def arguments(self) -> tuple[Tensor | int, ...]:
        """List the kernels' arguments."""
        sharpness, ids = self.sharpness, self.identities
        return (self.features, self.inverse, sharpness, sharpness.stride(0), ids, ids.stride(0))


def sums(
    a: Operand, b: Operand, shift: bool, symmetric: bool, means: bool
) -> tuple[Tensor, Tensor]:
    """Sum exp(s / tau) over the negatives of every row and every column, and count them.

    Args:
        a: M rows.
        b: N columns.
        shift: whether each row and column has a temperature of its own, or exponentials could
            overflow. Sums are returned as natural logarithms then.
        symmetric: whether `b` begins with `a`, all of them anchors of one side. Then only entries
            right of the diagonal are formed, and count for their row and for their column.
        means: whether to sum log2(e) s / tau as well, weighed by the exponentials; with `shift`,
            by their share in the sum of the part.

    Returns:
        `(2 + means, T, M)` and `(2 + means, T, N)` float32: sums, counts and weighed sums, in T
        parts that are to be added.
    """
    tiles = triton.cdiv(len(a), ROWS), triton.cdiv(len(b), COLUMNS)
    by_rows = a.inverse.new_empty(2 + means, tiles[1], len(a))
    by_columns = a.inverse.new_empty(2 + means, tiles[0], len(b))
    sums_kernel[(tiles[0] * tiles[1],)](
        *a.arguments(),
        *b.arguments(),
        by_rows,
        by_columns,
        len(a),
        len(b),
        a.features.shape[1],
        one=not shift,
        symmetric=symmetric,
        means=means,
        **_fixed(a),
    )
    return by_rows, by_columns


def by_products(
    a: Operand,
    b: Operand,
    weights: tuple[Tensor, Tensor],
    log_sums: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Compute the gradient by the inner products of features, their lengths held constant.

    Args:
        a: M rows.
        b: N columns.
        weights: `(M,)` and `(N,)` float32: of an anchor's shares in its sum, with `log_sums`; else
            of the exponentials themselves.
        log_sums: `(M,)` and `(N,)` float32, to base 2; None where one exponential serves all.

    Returns:
        `(M, N)` in the dtype of the features, rows padded to a multiple of 16 bytes.
    """
    rows, columns = len(a), len(b)
    tiles = triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)
    q = a.features.new_empty(rows, triton.cdiv(columns, 8) * 8)[:, :columns]
    products_kernel[(tiles[0] * tiles[1],)](
        *a.arguments(),
        *b.arguments(),
        *weights,
        *(weights if log_sums is None else log_sums),
        q,
        q.stride(0),
        rows,
        columns,
        a.features.shape[1],
        one=log_sums is None,
        **_fixed(a),
    )
    return q


def _fixed(a: Operand) -> dict[str, int | bool]:
    even = a.features.shape[1] % DEPTH == 0
    shape = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "GROUP": GROUP}
    return {"lists": a.identities.shape[0], "even": even, "widen": INTERPRETED, **shape, **LAUNCH}


def log_means(rows: Tensor, logs: Tensor) -> Tensor:
    """Compute `log_mean_over_equal_rows` by comparing all entries with all in one launch."""
    means = torch.empty_like(logs)
    count = rows.shape[0]
    grid = (triton.cdiv(count, 32),)
    log_means_kernel[grid](rows.contiguous(), logs.contiguous(), means, count, ROWS=32, COLUMNS=128)
    return means
