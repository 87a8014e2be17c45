"""Triton kernels, each launched and documented by a function of `fused_launch`.

x and y are features `(M, d)` and `(N, d)`, rows and columns of the matrix of similarities.
"""

import triton
import triton.language as tl

__all__ = ["log_means_kernel", "products_kernel", "sums_kernel"]


@triton.jit
def _place(M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Choose the tile of this program; programs that run together share cached rows and columns."""
    tiles_m, tiles_n = tl.cdiv(M, ROWS), tl.cdiv(N, COLUMNS)
    place = tl.program_id(0)
    first = place // (GROUP * tiles_n) * GROUP
    height = min(tiles_m - first, GROUP)
    offset = place % (GROUP * tiles_n)
    return first + offset % height, offset // height


@triton.jit
def _products(
    x, y, rows, columns, M, N, d,
    even: tl.constexpr, widen: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Compute inner products `(ROWS, COLUMNS)`; indices past the end wrap around."""
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
def _logits(
    x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
    y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
    rows, columns, M, N, d,
    lists: tl.constexpr, even: tl.constexpr, widen: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Compute log2(e) s / tau with tau of the rows and with tau of the columns, and the negatives.

    Also return 1 / length of the features of rows and of columns.
    """
    row_mask, column_mask = rows < M, columns < N
    total = _products(x, y, rows, columns, M, N, d, even, widen, ROWS, COLUMNS, DEPTH)
    negative = row_mask[:, None] & column_mask[None, :]
    for i in tl.static_range(lists):
        own = tl.load(row_ids + i * row_stride + rows, mask=row_mask)
        other = tl.load(column_ids + i * column_stride + columns, mask=column_mask)
        negative = negative & (own[:, None] != other[None, :])
    row_inverse = tl.load(x_inverse + rows, mask=row_mask, other=0.0)
    column_inverse = tl.load(y_inverse + columns, mask=column_mask, other=0.0)
    row_sharpness = tl.load(x_sharpness + rows * x_sharpness_stride, mask=row_mask, other=0.0)
    column_sharpness = tl.load(
        y_sharpness + columns * y_sharpness_stride, mask=column_mask, other=0.0
    )
    of_row = total * (row_inverse * row_sharpness)[:, None] * column_inverse[None, :]
    of_column = total * row_inverse[:, None] * (column_inverse * column_sharpness)[None, :]
    return of_row, of_column, negative, row_inverse, column_inverse


@triton.jit
def _log_sum(logits, axis: tl.constexpr):
    """Compute log(sum of 2 ** logits): -inf without entries, NaN if a logit is NaN."""
    largest = tl.max(logits, axis)
    shift = tl.where(largest == -float("inf"), 0.0, largest)
    total = tl.sum(tl.exp2(logits - tl.expand_dims(shift, axis)), axis)
    result = shift + tl.log2(tl.where(total == 0, 1.0, total))
    return tl.where(total == 0, largest, result * 0.6931471805599453)


@triton.jit
def _mean(logits, log_sum, axis: tl.constexpr):
    """Compute the mean of logits to base 2 under their softmax, 0 without entries."""
    shift = tl.where(log_sum == -float("inf"), 0.0, log_sum * 1.4426950408889634)
    share = tl.exp2(logits - tl.expand_dims(shift, axis))
    return tl.sum(share * tl.where(logits == -float("inf"), 0.0, logits), axis)


@triton.jit
def sums_kernel(
    x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
    y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
    by_rows, by_columns, M, N, d,
    unshifted: tl.constexpr, symmetric: tl.constexpr, means: tl.constexpr, lists: tl.constexpr,
    even: tl.constexpr, widen: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Compute one tile of `sums`."""
    i, j = _place(M, N, ROWS, COLUMNS, GROUP)
    # Two nested ifs: the compiler evaluates the outer condition.
    if symmetric:  # noqa: SIM102
        if i * ROWS >= j * COLUMNS + COLUMNS - 1:  # no entry above the diagonal
            return
    rows, columns = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
    of_row, of_column, negative, _, _ = _logits(
        x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
        y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
        rows, columns, M, N, d, lists, even, widen, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    if symmetric:
        negative = negative & (rows[:, None] < columns[None, :])
    counted = negative.to(tl.float32)
    if unshifted:
        value = tl.where(negative, tl.exp2(of_row), 0.0)
        row_sum, column_sum = tl.sum(value, 1), tl.sum(value, 0)
        if means:
            row_mean, column_mean = tl.sum(value * of_row, 1), tl.sum(value * of_row, 0)
    else:
        of_row = tl.where(negative, of_row, -float("inf"))
        of_column = tl.where(negative, of_column, -float("inf"))
        row_sum, column_sum = _log_sum(of_row, 1), _log_sum(of_column, 0)
        if means:
            row_mean, column_mean = _mean(of_row, row_sum, 1), _mean(of_column, column_sum, 0)
    row_mask, column_mask = rows < M, columns < N
    by_rows += j.to(tl.int64) * M + rows
    by_columns += i.to(tl.int64) * N + columns
    more_rows = tl.cdiv(N, COLUMNS).to(tl.int64) * M
    more_columns = tl.cdiv(M, ROWS).to(tl.int64) * N
    tl.store(by_rows, row_sum, mask=row_mask)
    tl.store(by_rows + more_rows, tl.sum(counted, 1), mask=row_mask)
    tl.store(by_columns, column_sum, mask=column_mask)
    tl.store(by_columns + more_columns, tl.sum(counted, 0), mask=column_mask)
    if means:
        tl.store(by_rows + 2 * more_rows, row_mean, mask=row_mask)
        tl.store(by_columns + 2 * more_columns, column_mean, mask=column_mask)


@triton.jit
def products_kernel(
    x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
    y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
    row_weight, column_weight, row_log_sum, column_log_sum,
    q, q_stride, M, N, d,
    unshifted: tl.constexpr, lists: tl.constexpr, even: tl.constexpr, widen: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Compute one tile of `by_products`."""
    i, j = _place(M, N, ROWS, COLUMNS, GROUP)
    rows, columns = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
    row_mask, column_mask = rows < M, columns < N
    of_row, of_column, negative, row_inverse, column_inverse = _logits(
        x, x_inverse, x_sharpness, x_sharpness_stride, row_ids, row_stride,
        y, y_inverse, y_sharpness, y_sharpness_stride, column_ids, column_stride,
        rows, columns, M, N, d, lists, even, widen, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    row_weights = tl.load(row_weight + rows, mask=row_mask, other=0.0)
    column_weights = tl.load(column_weight + columns, mask=column_mask, other=0.0)
    if unshifted:
        value = tl.where(negative, tl.exp2(of_row), 0.0)
        value = value * (row_weights[:, None] + column_weights[None, :])
    else:
        own = tl.load(row_log_sum + rows, mask=row_mask, other=0.0)
        other = tl.load(column_log_sum + columns, mask=column_mask, other=0.0)
        # Mask before exp2: it may overflow for entries that are no negatives.
        of_row = tl.exp2(tl.where(negative, of_row - own[:, None], -float("inf")))
        of_column = tl.exp2(tl.where(negative, of_column - other[None, :], -float("inf")))
        value = of_row * row_weights[:, None] + of_column * column_weights[None, :]
    value = value * row_inverse[:, None] * column_inverse[None, :]
    places = rows.to(tl.int64)[:, None] * q_stride + columns[None, :]
    tl.store(
        q + places, value.to(q.dtype.element_ty), mask=row_mask[:, None] & column_mask[None, :]
    )


@triton.jit
def _same(rows, logs, own, start, M, COLUMNS: tl.constexpr):
    """Mask the entries from `start` on with an equal row and a log above -inf; load the logs."""
    j = start + tl.arange(0, COLUMNS)
    other = tl.load(rows + j, mask=j < M)
    log = tl.load(logs + j, mask=j < M, other=-float("inf"))
    return (own[:, None] == other[None, :]) & (log != -float("inf"))[None, :], log


@triton.jit
def log_means_kernel(rows, logs, means_out, M, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Compute `log_means` of ROWS entries, comparing each with all entries."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = tl.load(rows + i, mask=i < M)
    largest = tl.full((ROWS,), -float("inf"), logs.dtype.element_ty)
    count = tl.zeros((ROWS,), dtype=tl.int32)
    nan_count = tl.zeros((ROWS,), dtype=tl.int32)
    for start in range(0, M, COLUMNS):
        same, log = _same(rows, logs, own, start, M, COLUMNS)
        largest = tl.maximum(largest, tl.max(tl.where(same, log[None, :], -float("inf")), 1))
        count += tl.sum(same.to(tl.int32), 1)
        nan_count += tl.sum((same & (log != log)[None, :]).to(tl.int32), 1)
    if tl.max(count, 0) > 1:
        shift = tl.where(count > 0, largest, 0.0)
        total = tl.zeros((ROWS,), dtype=tl.int64)
        for start in range(0, M, COLUMNS):
            same, log = _same(rows, logs, own, start, M, COLUMNS)
            share = tl.exp(tl.where(same, log[None, :] - shift[:, None], -float("inf")))
            # Sums of integers do not depend on the order.
            total += tl.sum((share * 1099511627776.0 + 0.5).to(tl.int64), 1)
        mean = total.to(largest.dtype) / 1099511627776.0 / tl.maximum(count, 1).to(largest.dtype)
        largest = tl.where(count > 1, shift + tl.log(tl.where(count > 1, mean, 1.0)), largest)
    tl.store(means_out + i, tl.where(nan_count > 0, float("nan"), largest), mask=i < M)
