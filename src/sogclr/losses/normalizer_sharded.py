"""One logical table of normalizers, divided among the K processes that share a batch.

Every process knows log ĝ of all anchors of the batch (see `sogclr.distributed.exchange`), so each
updates its own rows and sends no estimate. Only the resulting log u are added up over processes,
4 bytes an anchor, each known to one process.

Process r mod K holds row r, at place r // K, which spreads the samples of one source. A checkpoint
holds the whole table in the order of rows, whatever the number of processes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .normalizer import MakeNormalizer, NormalizerTable

__all__ = ["COPIED", "ShardedNormalizerTable", "normalizer_table"]

# Rows up to which every process has a copy: 80 MB of a device, for one exchange less a step.
COPIED = 10_000_000


def normalizer_table(
    gamma_min: float, gamma_decay_visits: int | None, dtype: torch.dtype, process_group: Any
) -> MakeNormalizer:
    """Return what makes a loss's table of some number of rows: a copy a process, or a shard."""
    settings: dict[str, Any] = {
        "gamma_min": gamma_min,
        "gamma_decay_visits": gamma_decay_visits,
        "dtype": dtype,
    }

    def make(num_rows: int) -> NormalizerTable:
        if num_rows > COPIED and shards(process_group) > 1:
            return ShardedNormalizerTable(num_rows, process_group=process_group, **settings)
        return NormalizerTable(num_rows, **settings)

    return make


def shards(process_group: Any) -> int:
    """Return the number of processes that share batches."""
    if process_group is None or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(None if isinstance(process_group, str) else process_group)


class ShardedNormalizerTable(NormalizerTable):
    """A shard of the table. All processes make the same calls, with the same rows and log ĝ.

    Args:
        num_rows: number of rows of all shards together.
        process_group: "auto" for the default group, or a group.
        gamma_min, gamma_decay_visits, dtype: as of `NormalizerTable`.

    Attributes:
        table: the rows of this process and the spare one.
    """

    def __init__(self, num_rows: int, *, process_group: Any = "auto", **settings: Any) -> None:
        self.count = shards(process_group)
        super().__init__(max(1, -(-num_rows // self.count)), **settings)
        self.held, self.num_rows = self.num_rows, num_rows
        self.group = None if isinstance(process_group, str) else process_group
        self.rank = dist.get_rank(self.group)

    def _mine(self, rows: Tensor) -> Tensor:
        """Mask the rows that this process holds, `(M,)` bool; no process holds the spare one."""
        return (rows % self.count == self.rank) & (rows < self.num_rows)

    def _places(self, rows: Tensor) -> Tensor:
        # Rows of other processes map to the unused spare place.
        return torch.where(self._mine(rows), rows // self.count, self.held)

    @staticmethod
    def _completed(
        tables: Sequence[NormalizerTable], rows: Sequence[Tensor], log_u: Tensor, estimate: Tensor
    ) -> Tensor:
        own, present, group = [], [], None
        for table, wanted, known in zip(tables, rows, log_u, strict=True):
            assert isinstance(table, ShardedNormalizerTable)
            group = table.group
            own.append(torch.where(table._mine(wanted), known, 0))
            present.append(wanted < table.num_rows)
        whole = torch.stack(own)
        dist.all_reduce(whole, group=group)
        return torch.where(torch.stack(present), whole, estimate)

    # The signatures of the overridden hooks are torch's, which leaves them untyped.
    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        self.raise_for_invalid_ids()
        own = self.table[:-1]
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own, group=self.group)
        rows = torch.stack([part.cpu() for part in parts], dim=1).flatten(0, 1)[: self.num_rows]
        destination[prefix + "table"] = torch.cat([rows, _nothing(rows, 1)])

    def _load_from_state_dict(self, state_dict, prefix, *rest):  # type: ignore[no-untyped-def]
        own, whole = dict(state_dict), state_dict.get(prefix + "table")
        if whole is not None and len(whole) == self.num_rows + 1:
            mine = _nothing(whole, self.held + 1)
            rows = whole[:-1][self.rank :: self.count]
            mine[: len(rows)] = rows
            own[prefix + "table"] = mine
        super()._load_from_state_dict(own, prefix, *rest)


def _nothing(table: Tensor, rows: int) -> Tensor:
    """Make rows without a visit, `(rows, 2)`."""
    return table.new_tensor([-math.inf, 0]).repeat(rows, 1)
