"""SogCLR's table relative to a level, which all samples share and every batch updates.

    log u_i = level + r_i,   r_i = log of a moving average of ĝ_i exp(-level)

log g of all samples changes together while the encoder learns. The plain table learns of a change
only at a sample's next visit, so it lags by the change between visits times the mean age of its
averages: some 0.4 nats on images. Here the level follows the mean of log ĝ over each batch, and the
table averages the rest. The logarithm of the mean would follow the few anchors with large ĝ.

The level is a moving average of these means. A batch of few samples has a noisy mean, which shall
move the level little; while the encoder changes fast, the level shall follow at once. So averages
with several gains are kept, and the level is the one that has predicted the next mean best, by its
mean square error over the latest batches. Batches are drawn independently, so what predicts best is
also nearest to the mean of log g. Nothing is to be tuned. The noise could not be computed instead
from the variance within a batch: its anchors share their negatives, so their errors do not average
out.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .normalizer_table import NormalizerTable

__all__ = ["LevelNormalizerTable"]

GAINS = 9  # of 1, 1/2, 1/4, ..., 1/256
HORIZON = 256  # steps over which errors of predictions are averaged


class LevelNormalizerTable(NormalizerTable):
    """A `NormalizerTable` of log u minus a level that all samples share.

    Args:
        num_rows, settings: see `NormalizerTable`.

    Attributes:
        table: `(num_rows + 1, 2)`, log u - level beside the number of visits.
        state: `(1, 2 + 2 * GAINS)`: the level, the number of steps, the moving average of each
            gain, and the mean square error of its predictions.
    """

    state: Tensor

    def __init__(self, num_rows: int, **settings: Any) -> None:
        super().__init__(num_rows, **settings)
        self.register_state("state", torch.zeros(1, 2 + 2 * GAINS, dtype=self.table.dtype))

    @property
    def log_u(self) -> Tensor:
        """Return log u, `(num_rows + 1,)`, a copy; -inf before the first visit."""
        return self.table.select(1, 0) + self.state[0, 0]

    def fill(self, log_u: Tensor, visits: Tensor) -> None:
        """Replace the table, and the level by the mean of log u over visited rows, as one step."""
        level = log_u[visits > 0].mean()
        super().fill(log_u - level, visits)
        self.state.zero_()
        self.state[0, : 2 + GAINS] = level
        self.state[0, 1] = 1  # step

    def _levels(self, tables: Sequence[NormalizerTable], estimate: Tensor, update: bool) -> Tensor:
        before = torch.cat([_state(table) for table in tables])  # (S, 2 + 2 GAINS)
        if not update:
            return before[:, :1]
        _, steps, averages, errors = before.split([1, 1, GAINS, GAINS], dim=1)
        mean = estimate.to(before.dtype).mean(dim=1, keepdim=True)  # (S, 1)
        gains = torch.arange(GAINS, dtype=before.dtype, device=before.device).neg_().exp2_()
        innovation = mean - averages  # (S, GAINS)
        # The first mean was predicted by nothing. Then both kinds of averages start as plain means.
        share = steps.clamp(min=1).reciprocal_().clamp_(min=1 / HORIZON)
        errors = torch.where(steps > 0, errors.lerp(innovation.square(), share), errors)
        averages = averages + innovation * torch.maximum(gains, 1 / (steps + 1))
        level = averages.gather(1, errors.argmin(dim=1, keepdim=True))
        after = torch.cat([level, steps + 1, averages, errors], dim=1)
        # A batch with a value that is not finite does not move the level.
        after = torch.where(mean.abs() < math.inf, after, before)
        for table, own in zip(tables, after.split(1), strict=True):
            _state(table).copy_(own)
        return after[:, :1]


def _state(table: NormalizerTable) -> Tensor:
    assert isinstance(table, LevelNormalizerTable)
    return table.state
