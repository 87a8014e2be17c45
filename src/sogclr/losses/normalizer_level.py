"""SogCLR's table relative to a level, which all samples share and every batch updates.

    log u_i = level + r_i,   r_i = log of a moving average of ĝ_i exp(-level)

log g of all samples changes together while the encoder learns. The plain table learns of a change
only at a sample's next visit, so it lags by the change between visits times the mean age of its
averages: some 0.4 nats on images. Here the level follows the mean of log ĝ over each batch, and the
table averages the rest. The logarithm of the mean would follow the few anchors with large ĝ.

The level is a Kalman filter of a random walk (Harvey, "Forecasting, Structural Time Series Models
and the Kalman Filter", 1989, section 2), whose gain is

    1 - noise / innovation,

where `innovation` is the mean square of (mean of log ĝ) - level, and `noise` the part of it that
comes from drawing a batch: the variance of log ĝ over the batch divided by its number of samples.
Both are measured, so there is nothing to tune: the gain is small for a batch of 16, large for a
batch of 256, and almost 0 while log g does not change.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .normalizer_table import NormalizerTable

__all__ = ["LevelNormalizerTable"]

# Steps over which `innovation` and `noise` are averaged. The gain is off by about the square root
# of 2 / HORIZON, which costs little, since the error of the level is flat around the best gain.
HORIZON = 256


class LevelNormalizerTable(NormalizerTable):
    """A `NormalizerTable` of log u minus a level that all samples share.

    Args:
        num_rows, settings: see `NormalizerTable`.
        anchors_per_sample: number of anchors of each sample that one call passes: 2 for two views,
            1 for a side of pairs. Anchors of one sample are not independent draws.

    Attributes:
        table: `(num_rows + 1, 2)`, log u - level beside the number of visits.
        state: `(1, 4)`: the level, `innovation`, `noise`, and the number of steps.
    """

    rule = (*NormalizerTable.rule, "anchors_per_sample")
    state: Tensor

    def __init__(self, num_rows: int, *, anchors_per_sample: int, **settings: Any) -> None:
        super().__init__(num_rows, **settings)
        self.anchors_per_sample = anchors_per_sample
        self.register_state("state", torch.zeros(1, 4, dtype=self.table.dtype))

    @property
    def log_u(self) -> Tensor:
        """Return log u, `(num_rows + 1,)`, a copy; -inf before the first visit."""
        return self.table.select(1, 0) + self.state[0, 0]

    def _levels(self, tables: Sequence[NormalizerTable], estimate: Tensor, update: bool) -> Tensor:
        before = torch.cat([_state(table) for table in tables])  # (S, 4)
        if not update:
            return before[:, :1]
        variance, mean = torch.var_mean(estimate.to(self.state.dtype), dim=1, correction=0)  # (S,)
        level, innovation, noise, steps = before.unbind(-1)
        batch_noise = variance * (self.anchors_per_sample / estimate.shape[1])
        error, steps = mean - level, steps + 1
        rate = steps.reciprocal().clamp_(min=1 / HORIZON)
        # At the first step there is no level yet, so `error` is not an innovation.
        square = torch.where(steps > 1, error.square(), batch_noise)
        innovation, noise = innovation.lerp(square, rate), noise.lerp(batch_noise, rate)
        smallest = torch.finfo(noise.dtype).tiny
        gain = torch.maximum(1 - noise / innovation.clamp(min=smallest), rate)
        after = torch.stack([level + gain * error, innovation, noise, steps], -1)
        # A batch with a value that is not finite does not move the level.
        after = torch.where(mean.abs()[:, None] < math.inf, after, before)
        for table, own in zip(tables, after.split(1), strict=True):
            _state(table).copy_(own)
        return after[:, :1]


def _state(table: NormalizerTable) -> Tensor:
    assert isinstance(table, LevelNormalizerTable)
    return table.state
