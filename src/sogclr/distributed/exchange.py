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

from ..losses.backends.tiled import Absent, Negatives, Part

__all__ = ["Block", "SharedNegatives", "Shares", "agree", "with_backward"]

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


@dataclass(frozen=True)
class Block:
    """N anchors of a side, of which every process has its share.

    Attributes:
        side: theirs.
        first: place of the first among the anchors of their side.
        rows: `(n, d)` unit vectors, this process's share.
        columns: `(M, d)` what they are compared with, all of it.
        met: the side that the columns are anchors of; None if they are none.
    """

    side: int
    first: int
    rows: Tensor
    columns: Tensor
    met: int | None


class SharedNegatives:
    """`Negatives` of a batch that is shared; the same interface, totals of all anchors.

    Args:
        shares: who has what.
        blocks: of the batch.
        alike: anchors that every process has, of earlier batches.
        absent: as of `Negatives`.
        shape: `(S, M)`, sides and anchors of each.
        tau, minimum: as of `Negatives`.
    """

    def __init__(
        self,
        shares: Shares,
        blocks: list[Block],
        alike: list[Block],
        absent: Absent,
        shape: tuple[int, int],
        tau: float | Tensor,
        minimum: float,
    ) -> None:
        self.shares, self.shape = shares, shape

        def part(block: Block, first: int) -> tuple[Block, Negatives]:
            place = Part(block.side, first, shape[1], block.met)
            sides = shape[0]
            own = Negatives(block.rows, block.columns, absent, sides, tau, minimum, place)
            return block, own

        self.own = [part(block, block.first + shares.own.start) for block in blocks]
        self.alike = [part(block, block.first) for block in alike if block.rows.shape[0]]

    def log_sums(self) -> tuple[Tensor, Tensor]:
        """As `Negatives.log_sums`."""
        found = [_sums(part) for _, part in self.own]
        log_sum, count = self._together(found)
        for block, part in self.alike:
            places = block.side, slice(block.first, block.first + block.rows.shape[0])
            for whole, own in zip((log_sum, count), _sums(part), strict=True):
                whole[places] = own[places]
        return log_sum, count

    def gradients(
        self, log_sum: Tensor, weight: Tensor, means: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As `Negatives.gradients`, by this process's rows, `(blocks, n, d)`."""
        found = [part.gradients(log_sum, weight, means) for _, part in self.own]
        rows = torch.cat([by_rows for by_rows, _ in found])
        if not means:
            return rows, None
        (mean,) = self._together([own[None] for _, own in found if own is not None])
        return rows, mean

    def _together(self, found: list[Tensor]) -> Tensor:
        """Of each block `(k, S, M)`, of which this process's share is right, `(k, S, M)` of all."""
        here, count = self.shares.own, self.shares.total
        own = [
            totals[:, block.side, block.first + here.start : block.first + here.stop]
            for totals, (block, _) in zip(found, self.own, strict=True)
        ]
        gathered = self.shares.gather(torch.stack(own), dim=2)  # (blocks, k, N)
        whole = torch.zeros_like(found[0])
        for numbers, (block, _) in zip(gathered, self.own, strict=True):
            whole[:, block.side, block.first : block.first + count] = numbers
        return whole


def _sums(part: Negatives) -> Tensor:
    """`(2, S, M)`: log_sum, and how many negatives."""
    log_sum, count = part.log_sums()
    assert isinstance(count, Tensor)
    return torch.stack([log_sum, count])
