"""Launch the Triton kernels, which compute similarities of half-precision features by tiles.

Tensor cores multiply the features before normalization and add up in float32; the sums are then
divided by the lengths. So unit vectors are never rounded: a similarity is as exact as one of
float32 vectors. Each tile writes its partial sums to a place of its own, and they are added up
afterwards, so that results are equal from run to run.

Exponentials are powers of two, which the hardware computes: `sharpness` is log2(e) / tau.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from .fused_kernels import log_means_kernel, products_kernel, sums_kernel

__all__ = ["LOG2E", "Operand", "by_products", "log_means", "sums"]

LOG2E = math.log2(math.e)
# The fastest of seven settings on an H100. Four warps leave room for a second tile on a
# multiprocessor: one tile multiplies while the other exponentiates.
ROWS, COLUMNS, DEPTH, GROUP = 128, 128, 64, 8
LAUNCH = {"num_warps": 4, "num_stages": 3}
# Triton's interpreter multiplies the bits of bfloat16 numbers like integers: widen them before.
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
        parts = self.features[places], self.inverse[places], self.sharpness[places]
        return Operand(*parts, self.identities[:, places])

    def __len__(self) -> int:
        return self.features.shape[0]

    def arguments(self) -> tuple[Tensor | int, ...]:
        """List the arguments of the kernels for this operand."""
        sharpness, ids = self.sharpness, self.identities
        return (self.features, self.inverse, sharpness, sharpness.stride(0), ids, ids.stride(0))


def sums(
    a: Operand, b: Operand, shift: bool, symmetric: bool, means: bool
) -> tuple[Tensor, Tensor]:
    """Sum exp(s / tau) over the negatives of each of M rows `a` and N columns `b`, and count them.

    Args:
        shift: see `needs_shift`. If so, sums are returned as natural logarithms.
        symmetric: whether all are anchors of one side and `b` begins with `a`. If so, only entries
            above the diagonal are computed; each counts for its row and for its column.
        means: whether to sum log2(e) s / tau too, weighted by exp(s / tau). With `shift`, each
            part's weights are divided by its sum.

    Returns:
        `(2 + means, T, M)` for rows and `(2 + means, T', N)` for columns, float32: sums, counts and
        weighted sums, in T or T' parts that the caller adds.
    """
    tiles = triton.cdiv(len(a), ROWS), triton.cdiv(len(b), COLUMNS)
    by_rows = a.inverse.new_zeros(2 + means, tiles[1], len(a))
    by_columns = a.inverse.new_zeros(2 + means, tiles[0], len(b))
    if shift and symmetric:  # tiles below the diagonal write nothing
        by_rows[0], by_columns[0] = -math.inf, -math.inf
    flags = {"unshifted": not shift, "symmetric": symmetric, "means": means}
    _launch(sums_kernel, a, b, by_rows, by_columns, **flags)
    return by_rows, by_columns


def by_products(
    a: Operand,
    b: Operand,
    weights: tuple[Tensor, Tensor],
    log_sums: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Compute the gradient by the inner products `(M, N)` of features, with constant lengths.

    Its rows are padded to a multiple of 16 bytes.

    Args:
        a, b: M rows and N columns.
        weights: `(M,)` and `(N,)` float32, one per anchor. Factors of exp(s / tau - log_sum); of
            exp(s / tau) without `log_sums`.
        log_sums: `(M,)` and `(N,)` float32, to base 2; None without shifts.
    """
    rows, columns = len(a), len(b)
    q = a.features.new_empty(rows, triton.cdiv(columns, 8) * 8)[:, :columns]
    logs = weights if log_sums is None else log_sums
    _launch(products_kernel, a, b, *weights, *logs, q, q.stride(0), unshifted=log_sums is None)
    return q


def _launch(kernel: Any, a: Operand, b: Operand, *own: Tensor | int, **flags: bool) -> None:
    """Launch a kernel for all tiles of a matrix, with its own arguments."""
    (rows, width), columns = a.features.shape, len(b)
    grid = (triton.cdiv(rows, ROWS) * triton.cdiv(columns, COLUMNS),)
    arguments = *a.arguments(), *b.arguments(), *own, rows, columns, width
    fixed = {"lists": len(a.identities), "even": width % DEPTH == 0, "widen": INTERPRETED}
    shape = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "GROUP": GROUP}
    kernel[grid](*arguments, **flags, **fixed, **shape, **LAUNCH)


def log_means(rows: Tensor, logs: Tensor) -> Tensor:
    """Compute `log_mean_over_equal_rows` by comparing all entries with all in one launch."""
    means = torch.empty_like(logs)
    count = rows.shape[0]
    grid = (triton.cdiv(count, 32),)
    log_means_kernel[grid](rows.contiguous(), logs.contiguous(), means, count, ROWS=32, COLUMNS=128)
    return means
