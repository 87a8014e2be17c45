"""Means over the entries of a batch that stand in the same row of a table.

Both views of a sample do, and a sample that was drawn twice. Entries are sorted, by row and then by
value, and added up by doubling distances: O(M log M), the same bits for a batch in another order,
and on an accelerator no size that the host would have to wait for. Floating scatter-adds are
neither deterministic nor possible in logarithms. On a GPU a kernel does it for all but the largest
batches, in one launch.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["log_mean_over_equal_rows", "mean_over_equal_rows"]

TRITON = find_spec("triton") is not None
# Up to how many entries a GPU compares all of them faster than it sorts them.
COMPARED = 2**15


def log_mean_over_equal_rows(rows: Tensor, logs: Tensor) -> Tensor:
    """log of the mean of exp(logs) over all entries with the same row.

    Args:
        rows: `(M,)` int64.
        logs: `(M,)`; -inf is no entry.

    Returns:
        `(M,)`, -inf where there is no entry.
    """
    if _all_different(rows):
        return logs
    if _compares(rows):
        from .launches import log_means

        return log_means(rows, logs)
    total, count = _totals(rows, logs, logs != -math.inf, torch.logaddexp)
    return total - count.clamp(min=1).to(logs.dtype).log()


def mean_over_equal_rows(rows: Tensor, values: Tensor) -> Tensor:
    """The mean over all entries with the same row.

    Args:
        rows: `(M,)` int64.
        values: `(M,)`; what is not finite is no entry.

    Returns:
        `(M,)`, NaN where there is no entry.
    """
    finite = values.isfinite()
    if _all_different(rows):
        return torch.where(finite, values, math.nan)
    total, count = _totals(rows, torch.where(finite, values, 0), finite, torch.add)
    return total / count


def _totals(
    rows: Tensor, values: Tensor, counted: Tensor, add: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The sum of the values with the same row, and how many of them count, `(M,)` each."""
    order = values.argsort()
    order = order[rows[order].argsort(stable=True)]
    rows, values, counted = rows[order], values[order], counted[order]
    first, last = torch.searchsorted(rows, rows), torch.searchsorted(rows, rows, right=True) - 1
    longest = int((last - first).max()) + 1 if _on_host(rows) else len(rows)
    distance = 1
    while distance < longest:
        # Each holds the sum of up to `distance` entries of its row that end with it.
        same = rows[distance:] == rows[:-distance]
        sums = torch.where(same, add(values[distance:], values[:-distance]), values[distance:])
        values = torch.cat([values[:distance], sums])
        distance *= 2
    up_to = counted.cumsum(dim=0)
    count = up_to[last] - up_to[first] + counted[first]
    total, back = values[last], order.argsort()
    return total[back], count[back]


def _compares(rows: Tensor) -> bool:
    """Whether a kernel serves: a sort, and what comes after it, are dozens of launches."""
    return TRITON and rows.is_cuda and rows.shape[0] <= COMPARED


def _all_different(rows: Tensor) -> bool:
    """Whether they are known to be. Of a few numbers Python tells sooner than torch."""
    return _on_host(rows) and len(set(rows.tolist())) == len(rows)


def _on_host(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and not torch.compiler.is_compiling()
