"""SCENT's step for SogCLR's table: the more log u, the larger the weight of a new estimate.

    u <- (1 - gamma) u + gamma ĝ,   gamma = sigmoid(log_alpha + log u)

v = log g solves   min over v of   E[ĝ] exp(-v) + v.   SCENT takes a proximal step of size alpha,
whose distance is the Bregman divergence of exp(-v). Its solution is the line above: a moving
average with a gamma for each sample. A gradient step in v would have to be far smaller where u is
small.

Sources: Wei et al., "A Geometry-Aware Efficient Algorithm for Compositional Entropic Risk
Minimization", arXiv 2602.02877; the authors' code, https://github.com/Optimization-AI/SCENT
(contrastive/scent.patch, with gamma there for log_alpha here). As there, a sample's first estimate
is taken as it is. Their u is relative to the positive, the mean of exp((s - positive) / tau), so a
published log_alpha is to be reduced by the positives' usual s / tau: by about 8 for 0.6 and 0.07.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .normalizer_table import NormalizerTable

__all__ = ["ScentNormalizerTable"]


class ScentNormalizerTable(NormalizerTable):
    """A `NormalizerTable` whose gamma is a sigmoid of log u.

    Args:
        num_rows: number of rows, of 8 bytes each.
        log_alpha: log of the step size. gamma is a half where log u is -log_alpha.
        dtype: see `NormalizerTable`.

    Example:
        >>> from functools import partial
        >>> from sogclr import GlobalClipLoss
        >>> loss = GlobalClipLoss(50_000, normalizer=partial(ScentNormalizerTable, log_alpha=2.0))
    """

    rule = (*NormalizerTable.rule, "log_alpha")

    def __init__(
        self, num_rows: int, *, log_alpha: float, dtype: torch.dtype = torch.float32
    ) -> None:
        if not math.isfinite(log_alpha):
            raise ValueError(f"log_alpha must be finite, got {log_alpha}")
        super().__init__(num_rows, gamma_min=1.0, dtype=dtype)
        self.log_alpha = log_alpha

    def _average(self, log_u: Tensor, visits: Tensor, estimate: Tensor) -> Tensor:
        log_u = log_u.to(estimate.dtype)
        place = self.log_alpha + log_u  # gamma = sigmoid(place), 1 - gamma = sigmoid(-place)
        new = torch.logaddexp(logsigmoid(-place) + log_u, logsigmoid(place) + estimate)
        return torch.where(visits > 0, new, estimate)

    def extra_repr(self) -> str:
        return f"{self.num_rows}, log_alpha={self.log_alpha}, {self.table.dtype}"
