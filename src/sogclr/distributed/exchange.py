"""The exchange between processes that share a batch.

All processes gather the features of the batch once, and each process computes the similarities of
its own anchors to all features. Then all processes gather the log-sum-exps, one number per anchor,
and each process computes the weight of every anchor. With these weights, its similarities suffice
for the gradient by its own features: both as anchors and as negatives of other anchors. So features
are sent once and gradients never, while a differentiable gather (OpenCLIP's) sends both. The
reduction is FastCLIP's (Wei et al., arXiv 2407.01445, section 4), here exact and for every loss.

All processes update state per sample with the same numbers, so that it stays equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Shares", "add_gloo_group", "agree", "with_backward"]

_gloo_groups: dict[Any, Any] = {}


@dataclass(frozen=True)
class Shares:
    """The division of N samples among K processes.

    Attributes:
        group: the process group; None for the default one.
        rank: rank of this process in the group.
        counts: number of samples of each process.
    """

    group: Any
    rank: int
    counts: tuple[int, ...]

    @property
    def processes(self) -> int:
        """K, the number of processes."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """N, the number of samples of all processes."""
        return sum(self.counts)

    @property
    def own(self) -> slice:
        """The slice of this process's samples among all N."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def gather(self, own: Tensor, dim: int = 0) -> Tensor:
        """Concatenate the tensors of all processes along `dim`, without graph.

        Along `dim`, a process has as many entries as samples (`counts`).
        """
        own = own.detach().movedim(dim, 0)  # (n, ...)
        largest = max(self.counts)
        padded = own.new_zeros(largest, *own.shape[1:])
        padded[: own.shape[0]] = own
        parts = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(parts, padded, group=self.group)
        kept = [part[:count] for part, count in zip(parts, self.counts, strict=True)]
        return torch.cat(kept).movedim(0, dim)

    def sum(self, own: Tensor) -> Tensor:
        """Add up the tensors of all processes, without graph."""
        total = own.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def with_backward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a tensor equal to `x`, whose gradient `change` transforms in backward."""
    return _Backward.apply(x, change)


def agree(group: Any, count: int) -> Shares | None:
    """Exchange the number of samples of each process of a group.

    Args:
        group: a process group; "auto" for the default one if torch.distributed is initialized;
            None for this process alone.
        count: number of samples of this process.

    Returns:
        The shares of all processes; None if there is only one process.
    """
    if group is None or not (dist.is_available() and dist.is_initialized()):
        return None
    group = None if isinstance(group, str) else group
    if dist.get_world_size(group) == 1:
        return None
    # Exchange counts over gloo, on the CPU: reading them from a device would stall it.
    counts = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, torch.tensor([count]), group=_gloo_group(group))
    return Shares(group, dist.get_rank(group), tuple(int(each) for each in counts))


def add_gloo_group(timeout: timedelta) -> None:
    """Make the default group's group for CPU tensors, with a timeout; all processes call it."""
    if "gloo" not in dist.get_backend_config():
        _gloo_groups[dist.group.WORLD] = dist.new_group(backend="gloo", timeout=timeout)


def _gloo_group(group: Any) -> Any:
    """Return a group of the same processes that can exchange CPU tensors."""
    if "gloo" in dist.get_backend_config(group):
        return group
    group = dist.group.WORLD if group is None else group
    if group not in _gloo_groups:
        _gloo_groups[group] = dist.new_group(dist.get_process_group_ranks(group), backend="gloo")
    return _gloo_groups[group]
