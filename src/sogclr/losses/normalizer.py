"""Estimators of the log-normalizer log g of an anchor: from the batch alone, or over time.

A mini-batch offers an unbiased estimate ĝ of g, but log ĝ is biased, and so is its gradient.

    InBatchNormalizer       log u = log ĝ: DCL, and SimCLR, CLIP and MoCo, whose ĝ has the positive
    NormalizerTable         log u = log of a moving average of ĝ per sample: SogCLR
    LevelNormalizerTable    log u = a level that all samples share, plus log of such an average
    ScentNormalizerTable    as NormalizerTable, but the weight of a new ĝ grows with u: SCENT
    ScalarNormalizer        log u = log of one moving average for all samples: SACLR

With u = ĝ the gradient of the loss is the plain one of tau log ĝ. With u = g its expectation over
batches is the gradient of the global objective (Yuan et al., ICML 2022, equation 6).

A new estimator is a subclass of `Normalizer` with `forward`, `peek`, and `resolve` if it has rows.
Losses take a function that makes one, `normalizer=`, see `MakeNormalizer`.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .sample_ids import move_ids

__all__ = ["InBatchNormalizer", "MakeNormalizer", "Normalizer"]


class Normalizer(nn.Module):
    """The interface of an estimator of log g.

    Attributes:
        needs_ids: whether it keeps state per sample, so that a loss needs sample ids.
    """

    needs_ids = True

    def resolve(self, index: Tensor, device: torch.device) -> Tensor:
        """Convert `index` `(B,)`, integers, to the estimator's rows `(B,)`, int64 on `device`."""
        return move_ids(index, device)

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """Update from log ĝ `(M,)` of the anchors in rows `(M,)`; return log u `(M,)`, no graph."""
        raise NotImplementedError

    def peek(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """Return what `forward` would return in training, without changing the estimator."""
        raise NotImplementedError

    def grow(self, num_rows: int) -> None:
        """Add rows, without a visit, until there are `num_rows`."""
        if self.needs_ids:
            raise NotImplementedError(f"{type(self).__name__} does not say how its rows grow")


# A function from the number of rows of a side to its normalizer.
MakeNormalizer: TypeAlias = Callable[[int], Normalizer]


class InBatchNormalizer(Normalizer):
    """The mini-batch estimate, log u = log ĝ. It keeps nothing."""

    needs_ids = False

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return log_g.detach()

    peek = forward
