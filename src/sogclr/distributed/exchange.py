"""What processes that share a batch send each other, and what they do not.

Every process forms its own anchors' similarities to the features of all, which are gathered once.
Then log-sum-exps are gathered, one number an anchor, which give the weight of every anchor on every
process. The gradient by a process's own features needs nothing else: as anchors they have their own
similarities, and as negatives of other anchors the same similarities with those anchors' numbers.
So features are sent once and their gradients never, where a differentiated gather (OpenCLIP's)
sends both. The reduction is FastCLIP's (Wei et al., arXiv 2407.01445, section 4), here exact and
for every loss.

State that is kept per sample is updated on all processes with the same numbers, and stays equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Shares", "agree", "with_backward"]

_gloo_groups: dict[Any, Any] = {}


@dataclass(frozen=True)
class Shares:
    """How N samples are divided among K processes.

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
        """K."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """N."""
        return sum(self.counts)

    @property
    def own(self) -> slice:
        """Indices of this process's samples among all."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def gather(self, own: Tensor, dim: int = 0) -> Tensor:
        """Concatenate the tensors of all processes along `dim`, in which sizes differ; no graph."""
        own = own.detach().movedim(dim, 0)  # (n, ...)
        largest = max(self.counts)
        padded = own.new_zeros(largest, *own.shape[1:])
        padded[: own.shape[0]] = own
        parts = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(parts, padded, group=self.group)
        kept = [part[:count] for part, count in zip(parts, self.counts, strict=True)]
        return torch.cat(kept).movedim(0, dim)

    def attach(self, gathered: Tensor, own: Tensor) -> Tensor:
        """Give gathered numbers `(N,)`, equal on all processes, the graph of this process's share.

        The gradient is K times as large, since DistributedDataParallel divides the sum by K.
        """
        return _OwnShare.apply(gathered, own, self)

    def sum(self, own: Tensor) -> Tensor:
        """Add up the tensors of all processes, without graph."""
        total = own.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total


class _OwnShare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gathered: Tensor, own: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return gathered.view_as(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        return None, gradient[ctx.shares.own] * ctx.shares.processes, None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def with_backward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the same tensor; `change` is applied to its gradient."""
    return _Backward.apply(x, change)


def agree(group: Any, count: int) -> Shares | None:
    """Tell all processes of a group how many samples each of them has.

    Args:
        group: a process group; "auto" for the default one if torch.distributed is initialized;
            None for this process alone.
        count: number of samples of this process.

    Returns:
        The shares; None if there is one process.
    """
    if group is None or not (dist.is_available() and dist.is_initialized()):
        return None
    group = None if isinstance(group, str) else group
    if dist.get_world_size(group) == 1:
        return None
    # Over gloo: reading a number from a device would stall it.
    counts = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, torch.tensor([count]), group=_gloo_group(group))
    return Shares(group, dist.get_rank(group), tuple(int(each) for each in counts))


def _gloo_group(group: Any) -> Any:
    """Return a group of the same processes that can exchange CPU tensors."""
    if "gloo" in dist.get_backend_config(group):
        return group
    group = dist.group.WORLD if group is None else group
    if group not in _gloo_groups:
        _gloo_groups[group] = dist.new_group(dist.get_process_group_ranks(group), backend="gloo")
    return _gloo_groups[group]
