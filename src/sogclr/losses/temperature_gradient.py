"""Derivatives of the losses by tau, for learned and individual temperatures."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .temperature import Tau, Temperature

__all__ = ["slope_by_tau", "temperatures_of", "with_gradient_by_tau"]


def temperatures_of(sides: Sequence[tuple[Temperature, Tensor]]) -> Tau:
    """Return tau of all anchors, with graph: a number, a scalar tensor, `(1, M)` or `(S, M)`.

    Args:
        sides: the temperature of each of S sides, and its rows `(M,)` of that side's anchors.
    """
    first, rows = sides[0]
    if all(temperature is first for temperature, _ in sides):
        tau = first(rows)
        return tau[None] if isinstance(tau, Tensor) and tau.ndim else tau
    return torch.stack([temperature(rows) for temperature, rows in sides])


def with_gradient_by_tau(log_sum: Tensor, tau: Tau, mean: Tensor | None) -> Tensor:
    """Add the gradient by a learned tau to a log-sum-exp of s / tau; its value stays the same.

    Args:
        log_sum: `(S, M)`, differentiable by the features only.
        tau: with graph.
        mean: `(S, M)` mean of s / tau under the softmax, which is -d log_sum / d log tau; None
            to add no gradient.
    """
    if mean is None or not (isinstance(tau, Tensor) and tau.requires_grad):
        return log_sum
    return log_sum + mean * (1 - tau / tau.detach())


def slope_by_tau(
    log_u: Tensor,
    log_g: Tensor,
    mean: Tensor,
    log_positive: Tensor,
    effective_negatives: float | None,
) -> Tensor:
    """Compute dF/dtau of each anchor, `(S, M)`; NaN for anchors without negatives.

    The derivative of tau log ĝ by tau is log ĝ - mean. The estimate from the table replaces log ĝ
    by log u, and multiplies the mean, which comes from this batch, by the weight ĝ / u.

    Args:
        log_u: `(S, M)` estimate of log g from the table.
        log_g: `(S, M)` log ĝ, the estimate from this batch.
        mean: `(S, M)` mean of s / tau over the negatives under the softmax.
        log_positive: `(S, M)` or `(M,)`, s / tau of the positive.
        effective_negatives: see `sogclr.losses.objective.against_candidates`.
    """
    log_g = log_g.detach()
    slope = log_u - (log_g - log_u).exp() * mean
    if effective_negatives is not None:
        log_k, positive = math.log(effective_negatives), log_positive.detach()
        x = log_u - positive + log_k
        slope = softplus(x) - log_k + x.sigmoid() * (slope - log_u + positive)
    return slope.masked_fill(log_g == -math.inf, math.nan)
