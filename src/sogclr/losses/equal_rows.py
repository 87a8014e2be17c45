"""Means over the entries of a batch that have the same row of a table.

Both views of a sample have the same row, and so have two draws of a sample. Entries are sorted by
row, then by value, and added up over doubling distances, in O(M log M). The result has the same
bits for a batch in another order, and the host never waits for an accelerator. A floating-point
scatter-add is not deterministic, and cannot add logarithms. On a GPU, a kernel compares all entries
with all instead, except for the largest batches.
"""

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor

from . import torch_versions

__all__ = ["all_different", "log_mean_over_equal_rows", "mean_over_equal_rows"]

# Triton compiles its launcher with the system's C compiler, which a small machine may lack.
_COMPILERS = (os.environ.get("CC", "cc"), "gcc", "clang")
TRITON = find_spec("triton") is not None and any(map(which, _COMPILERS))
# Up to this many entries a GPU compares all pairs faster than it sorts (2**14 take 0.7 ms).
MAX_COMPARED = 2**13


def log_mean_over_equal_rows(rows: Tensor, logs: Tensor) -> Tensor:
    """Compute the log of the mean of exp(logs) over all entries with the same row, `(M,)` each.

    Entries of -inf are not counted; a row without others has the result -inf.
    """
    if all_different(rows):
        return logs
    if _uses_kernel(rows):
        from .backends.fused_launch import log_means

        return log_means(rows, logs)
    if _in_two_halves(rows):
        first, second = logs.chunk(2)
        both = ((first != -math.inf) & (second != -math.inf)).to(logs.dtype)
        return (torch.logaddexp(first, second) - both * math.log(2)).repeat(2)
    total, count = _totals(rows, logs, logs != -math.inf, torch.logaddexp)
    return total - count.clamp(min=1).to(logs.dtype).log()


def mean_over_equal_rows(rows: Tensor, values: Tensor) -> Tensor:
    """Compute the mean over all entries with the same row, `(M,)` each.

    Entries that are not finite are not counted; a row without others has the mean NaN.
    """
    finite = values.isfinite()
    if all_different(rows):
        return torch.where(finite, values, math.nan)
    total, count = _totals(rows, torch.where(finite, values, 0), finite, torch.add)
    return total / count


def _totals(
    rows: Tensor, values: Tensor, counted: Tensor, add: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Compute the sum of each entry's row and its number of counted entries, `(M,)` each.

    `add` adds two tensors. The value of entries that are not counted must be its neutral element.
    """
    order = values.argsort()
    order = order[rows[order].argsort(stable=True)]
    rows, values, counted = rows[order], values[order], counted[order]
    first, last = torch.searchsorted(rows, rows), torch.searchsorted(rows, rows, right=True) - 1
    # An accelerator sums over all distances: reading the largest count would make the host wait.
    longest = int((last - first).max()) + 1 if _on_host(rows) else len(rows)
    distance = 1
    while distance < longest:
        # values[i] sums entry i and the entries of its row less than `distance` places before it.
        same = rows[distance:] == rows[:-distance]
        sums = torch.where(same, add(values[distance:], values[:-distance]), values[distance:])
        values = torch.cat([values[:distance], sums])
        distance *= 2
    cumulative = counted.cumsum(dim=0)
    count = cumulative[last] - cumulative[first] + counted[first]
    total, original_order = values[last], order.argsort()
    return total[original_order], count[original_order]


def _uses_kernel(rows: Tensor) -> bool:
    """Return whether to use the kernel: sorting and adding would take dozens of launches."""
    return TRITON and rows.is_cuda and rows.shape[0] <= MAX_COMPARED


def all_different(*rows: Tensor) -> bool:
    """Return whether no `(M,)` tensor repeats a row; False if that is unknown on the host."""
    # Both sides of pairs are often one tensor: read it once. A set is faster than torch.
    others = [each for each in rows[1:] if each is not rows[0]]
    return all(
        _on_host(each) and len(set(each.tolist())) == each.shape[0] for each in (rows[0], *others)
    )


def _in_two_halves(rows: Tensor) -> bool:
    """Return whether both halves are equal, without repetition; False if unknown on the host."""
    if not _on_host(rows):
        return False
    listed, half = rows.tolist(), len(rows) // 2
    return listed[:half] == listed[half:] and len(set(listed)) == half


def _on_host(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and not torch_versions.is_compiling()
