"""Means over the entries of a batch that stand in the same row of a table.

Both views of a sample do, and a sample that was drawn twice. Entries are sorted, by row and then by
value, and added up by doubling distances: O(M log M), the same bits for a batch in another order,
and on an accelerator no size that the host would have to wait for. Floating scatter-adds are
neither deterministic nor possible in logarithms. On a GPU a kernel does it for all but the largest
batches, in one launch.
"""

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor

__all__ = ["all_different", "log_mean_over_equal_rows", "mean_over_equal_rows"]

# Triton builds what launches a kernel with the system's C compiler, which a small machine lacks.
_COMPILERS = (os.environ.get("CC", "cc"), "gcc", "clang")
TRITON = find_spec("triton") is not None and any(map(which, _COMPILERS))
# Up to how many entries a GPU compares all of them faster than it sorts them: 0.7 ms for 2**14.
COMPARED = 2**13


def log_mean_over_equal_rows(rows: Tensor, logs: Tensor) -> Tensor:
    """log of the mean of exp(logs) over all entries with the same row.

    Args:
        rows: `(M,)` int64.
        logs: `(M,)`; -inf is no entry.

    Returns:
        `(M,)`, -inf where there is no entry.
    """
    if all_different(rows):
        return logs
    if _compares(rows):
        from .backends.fused_launch import log_means

        return log_means(rows, logs)
    if _in_two_halves(rows):
        first, second = logs.chunk(2)
        both = ((first != -math.inf) & (second != -math.inf)).to(logs.dtype)
        return (torch.logaddexp(first, second) - both * math.log(2)).repeat(2)
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
    if all_different(rows):
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


def all_different(*rows: Tensor) -> bool:
    """Whether those of each `(M,)` are known to be, as on the host.

    Python tells sooner than torch.
    """
    each = {id(own): own for own in rows}.values()  # both sides of pairs often have the same
    return all(_on_host(own) and len(set(own.tolist())) == len(own) for own in each)


def _in_two_halves(rows: Tensor) -> bool:
    """Whether the second is known to be the first once more, and each all different."""
    if not _on_host(rows):
        return False
    listed, half = rows.tolist(), len(rows) // 2
    return listed[:half] == listed[half:] and len(set(listed)) == half


def _on_host(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and not torch.compiler.is_compiling()
