"""A batch that several processes share: what travels between them, and what does not.

Every process forms its own anchors' rows of similarities against the features of all, which are
gathered once. Then log-sum-exps are gathered, a number an anchor, and from these the weight of
every anchor is known everywhere. The gradient by a process's own features needs nothing else: as
anchors they have their row, and as negatives of others' anchors the same similarities with the
others' numbers. So features travel once and their gradients never, where a gather that is
differentiated (OpenCLIP's) sends both; the reduction is FastCLIP's (Wei et al., arXiv 2407.01445,
section 4), for every loss here and exact.

Whatever is kept per sample is updated on all processes with the same numbers, and stays the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Shares", "agree", "with_backward"]

_on_hosts: dict[Any, Any] = {}


@dataclass(frozen=True)
class Shares:
    """How a batch of N samples is shared.

    Attributes:
        group: the processes, K of them; None for the default group.
        rank: of this one among them.
        counts: how many samples each has.
    """

    group: Any
    rank: int
    counts: tuple[int, ...]

    @property
    def processes(self) -> int:
        return len(self.counts)

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def own(self) -> slice:
        """This process's samples among all."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def gather(self, own: Tensor, dim: int = 0) -> Tensor:
        """Of all processes, in their order along `dim`, whose size differs; without graph."""
        own = own.detach().movedim(dim, 0)  # (n, ...)
        largest = max(self.counts)
        padded = own.new_zeros(largest, *own.shape[1:])
        padded[: own.shape[0]] = own
        parts = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(parts, padded, group=self.group)
        kept = [part[:count] for part, count in zip(parts, self.counts, strict=True)]
        return torch.cat(kept).movedim(0, dim)

    def sum(self, own: Tensor) -> Tensor:
        """Over processes, without graph."""
        total = own.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


def with_backward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The same tensor, whose gradient is changed on its way."""
    return _Backward.apply(x, change)


def agree(group: Any, count: int) -> Shares | None:
    """The shares of this process, which has `count` samples, and the others of the group.

    Args:
        group: a process group, "auto" for the default one if torch.distributed is initialized,
            None for this process alone.
        count: of samples here.

    Returns:
        None if there is one process only.
    """
    if group is None or not (dist.is_available() and dist.is_initialized()):
        return None
    group = None if isinstance(group, str) else group
    if dist.get_world_size(group) == 1:
        return None
    # On the hosts: asking a device for a number would stall it.
    hosts = _hosts_of(group)
    found = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, torch.tensor([count]), group=hosts)
    return Shares(group, dist.get_rank(group), tuple(int(each) for each in found))


def _hosts_of(group: Any) -> Any:
    """The same processes, connected by something that carries what is not on a device."""
    if "gloo" in dist.get_backend_config(group):
        return group
    joined = dist.group.WORLD if group is None else group
    if joined not in _on_hosts:
        _on_hosts[joined] = dist.new_group(dist.get_process_group_ranks(joined), backend="gloo")
    return _on_hosts[joined]
