"""One logical table of normalizers, divided among the K processes that share a batch.

Every process has log ĝ of all anchors of the batch (see `sogclr.distributed.exchange`), so it
updates its own rows without an exchange. Then one all-reduce adds up log u, 4 bytes per anchor, to
which processes without the row contribute 0.

Row r is at place r // K of process r mod K, so that rows of one source are spread over processes. A
checkpoint holds the whole table in the order of rows, for any number of processes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .normalizer import MakeNormalizer
from .normalizer_level import LevelNormalizerTable
from .normalizer_table import NormalizerTable
from .per_sample import append_rows, require_growth

__all__ = ["MAX_COPIED_ROWS", "ShardedNormalizerTable", "choose_table"]

# Up to this many rows, 80 MB, every process has a copy, which saves an exchange per step.
MAX_COPIED_ROWS = 10_000_000


def choose_table(
    level: bool,
    gamma_min: float,
    gamma_decay_visits: int | None,
    dtype: torch.dtype,
    process_group: Any,
) -> MakeNormalizer:
    """Return a function that makes a table from its number of rows.

    A table of more than `MAX_COPIED_ROWS` rows is sharded if several processes share a batch.
    Arguments are as in `GlobalContrastiveLoss`.
    """
    settings: dict[str, Any] = {"gamma_min": gamma_min, "gamma_decay_visits": gamma_decay_visits}
    settings["dtype"] = dtype

    def make(num_rows: int) -> NormalizerTable:
        if num_rows > MAX_COPIED_ROWS and _count_processes(process_group) > 1:
            sharded = ShardedLevelNormalizerTable if level else ShardedNormalizerTable
            return sharded(num_rows, process_group=process_group, **settings)
        return (LevelNormalizerTable if level else NormalizerTable)(num_rows, **settings)

    return make


def _count_processes(process_group: Any) -> int:
    """Count the processes that share a batch."""
    if process_group is None or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(None if isinstance(process_group, str) else process_group)


class ShardedNormalizerTable(NormalizerTable):
    """A shard of the table: `table` has the rows of this process, then the spare row.

    All processes must make equal calls, with equal rows and log ĝ.
    """

    rule = (*NormalizerTable.rule, "group")

    def __init__(self, num_rows: int, *, process_group: Any = "auto", **settings: Any) -> None:
        self.count = _count_processes(process_group)
        super().__init__(max(1, -(-num_rows // self.count)), **settings)
        self.num_held, self.num_rows = self.num_rows, num_rows
        self.group = None if isinstance(process_group, str) else process_group
        self.rank = dist.get_rank(self.group)

    def grow(self, num_rows: int) -> None:
        """Add rows without a visit; all processes call it. Rows that exist stay at their places."""
        require_growth(self.num_rows, num_rows)
        self.num_held = max(1, -(-num_rows // self.count))
        self.table = append_rows(self.table, self.num_held, torch.tensor([-math.inf, 0]))
        self.num_rows = num_rows

    def _mine(self, rows: Tensor) -> Tensor:
        """Mask the rows that this process holds, `(M,)` bool; no process holds the spare row."""
        return (rows % self.count == self.rank) & (rows < self.num_rows)

    def _places(self, rows: Tensor) -> Tensor:
        # Rows of other processes map to the spare row, which nothing reads.
        return torch.where(self._mine(rows), rows // self.count, self.num_held)

    def _complete(
        self,
        tables: Sequence[NormalizerTable],
        rows: Sequence[Tensor],
        log_u: Tensor,
        estimate: Tensor,
    ) -> Tensor:
        own, valid = [], []
        for table, side_rows, side_log_u in zip(tables, rows, log_u, strict=True):
            assert isinstance(table, ShardedNormalizerTable)
            own.append(torch.where(table._mine(side_rows), side_log_u, 0))
            valid.append(side_rows < table.num_rows)
        total = torch.stack(own)
        dist.all_reduce(total, group=self.group)
        return torch.where(torch.stack(valid), total, estimate)

    # torch leaves the overridden hooks untyped.
    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        super()._save_to_state_dict(destination, prefix, keep_vars)
        own = self.table[:-1]
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own, group=self.group)
        rows = torch.stack([part.cpu() for part in parts], dim=1).flatten(0, 1)[: self.num_rows]
        destination[prefix + "table"] = torch.cat([rows, _unvisited(rows, 1)])

    def _load_from_state_dict(self, state_dict, prefix, *rest):  # type: ignore[no-untyped-def]
        own, whole = dict(state_dict), state_dict.get(prefix + "table")
        if whole is not None and len(whole) == self.num_rows + 1:
            mine = _unvisited(whole, self.num_held + 1)
            rows = whole[:-1][self.rank :: self.count]
            mine[: len(rows)] = rows
            own[prefix + "table"] = mine
        super()._load_from_state_dict(own, prefix, *rest)


class ShardedLevelNormalizerTable(LevelNormalizerTable, ShardedNormalizerTable):
    """A shard of a `LevelNormalizerTable`; every process has a copy of the level."""

    rule = (*LevelNormalizerTable.rule, "group")


def _unvisited(table: Tensor, rows: int) -> Tensor:
    """Make rows without a visit, `(rows, 2)`, in the dtype and on the device of `table`."""
    return table.new_tensor([-math.inf, 0]).repeat(rows, 1)
