"""Choose the table of normalizers: with or without a level, one copy per process or sharded."""

from typing import Any

import torch

from .normalizer import MakeNormalizer
from .normalizer_level import LevelNormalizerTable, ShardedLevelNormalizerTable
from .normalizer_sharded import ShardedNormalizerTable, count_processes
from .normalizer_table import NormalizerTable

__all__ = ["MAX_COPIED_ROWS", "choose_table"]

# Up to this many rows, 80 MB, every process has a copy, which saves an exchange per step.
MAX_COPIED_ROWS = 10_000_000


def choose_table(
    level: bool,
    anchors_per_sample: int,
    gamma_min: float,
    gamma_decay_visits: int | None,
    dtype: torch.dtype,
    process_group: Any,
) -> MakeNormalizer:
    """Return a function that makes a table from its number of rows.

    A table of more than `MAX_COPIED_ROWS` rows is sharded if several processes share a batch.

    Args:
        anchors_per_sample: see `LevelNormalizerTable`.
        level, gamma_min, gamma_decay_visits, dtype, process_group: see `GlobalContrastiveLoss`.
    """
    settings: dict[str, Any] = {
        "gamma_min": gamma_min,
        "gamma_decay_visits": gamma_decay_visits,
        "dtype": dtype,
    }
    if level:
        settings["anchors_per_sample"] = anchors_per_sample

    def make(num_rows: int) -> NormalizerTable:
        if num_rows > MAX_COPIED_ROWS and count_processes(process_group) > 1:
            sharded = ShardedLevelNormalizerTable if level else ShardedNormalizerTable
            return sharded(num_rows, process_group=process_group, **settings)
        return (LevelNormalizerTable if level else NormalizerTable)(num_rows, **settings)

    return make
