"""SigLIP's loss, a baseline: every pair of the batch is judged by itself, without a normalizer."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from ..normalizer import move_ids
from .features import check_shapes, distinct, never_negatives

__all__ = ["SigLipLoss"]


class SigLipLoss(nn.Module):
    """Mean over pairs of -sum over the other side of log sigmoid(z (s / tau + bias)).

    z is 1 for partners and -1 for negatives. Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", ICCV 2023, algorithm 1. tau and the bias are parameters: give
    `loss.parameters()` to the optimizer.

    Args:
        temperature: initial tau; 0.1 as published (t = 10).
        bias: initial bias; -10 as published, since negatives outnumber positives.
    """

    def __init__(self, temperature: float = 0.1, *, bias: float = -10.0) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def check(self) -> None:
        """Nothing is kept that an invalid id could hurt."""

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor | None = None,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of pairs; arguments as of `ClipLoss`."""
        index = distinct(a) if index is None else move_ids(index, a.device)
        index_b = index if index_b is None else move_ids(index_b, a.device)
        group = index if group is None else move_ids(group, a.device)
        check_shapes(a, b, index, index_b, group)
        with torch.autocast(a.device.type, enabled=False):
            similarity = _unit(a) @ _unit(b).T  # (B, B)
            logits = similarity * self.log_scale.exp() + self.bias
            own = torch.eye(len(a), dtype=torch.bool, device=a.device)
            terms = logsigmoid(torch.where(own, logits, -logits))
            absent = never_negatives([index, index_b, group]) & ~own
            return -terms.masked_fill(absent, 0.0).sum() / len(a)


def _unit(features: Tensor) -> Tensor:
    return normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)
