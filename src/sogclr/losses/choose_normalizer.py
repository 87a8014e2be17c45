"""Choose the table of normalizers: with or without a level, copied or divided."""

from typing import Any

import torch

from .normalizer import MakeNormalizer
from .normalizer_level import LevelNormalizerTable, ShardedLevelNormalizerTable
from .normalizer_sharded import ShardedNormalizerTable, shards
from .normalizer_table import NormalizerTable

__all__ = ["COPIED", "normalizer_table"]

# Up to this many rows every process has a copy: 80 MB per device save an exchange per step.
COPIED = 10_000_000


def normalizer_table(
    level: bool,
    gamma_min: float,
    gamma_decay_visits: int | None,
    dtype: torch.dtype,
    process_group: Any,
) -> MakeNormalizer:
    """Return a function that makes a table from its number of rows.

    A table of more than `COPIED` rows is sharded if several processes share a batch. Arguments are
    those of `GlobalContrastiveLoss`.
    """
    settings: dict[str, Any] = {
        "gamma_min": gamma_min,
        "gamma_decay_visits": gamma_decay_visits,
        "dtype": dtype,
    }

    def make(num_rows: int) -> NormalizerTable:
        if num_rows > COPIED and shards(process_group) > 1:
            sharded = ShardedLevelNormalizerTable if level else ShardedNormalizerTable
            return sharded(num_rows, process_group=process_group, **settings)
        return (LevelNormalizerTable if level else NormalizerTable)(num_rows, **settings)

    return make
