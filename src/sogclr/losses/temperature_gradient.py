"""Derivatives of the losses by tau: what a learned and an individual temperature need."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .temperature import Tau, Temperature

__all__ = ["slope_by_tau", "temperatures_of", "with_gradient_by_tau"]


def temperatures_of(sides: Sequence[tuple[Temperature, Tensor]]) -> Tau:
    """Return tau of all anchors with its graph: a number, a scalar, or `(S, M)`.

    Args:
        sides: for each of S sides its temperature and its anchors' rows `(M,)` in it.
    """
    first, rows = sides[0]
    if all(temperature is first for temperature, _ in sides):
        tau = first(rows)
        return tau[None] if isinstance(tau, Tensor) and tau.ndim else tau
    return torch.stack([temperature(own) for temperature, own in sides])


def with_gradient_by_tau(log_sum: Tensor, tau: Tau, mean: Tensor | None) -> Tensor:
    """Attach the gradient by a learned tau to a log-sum-exp over s / tau; its value stays.

    Args:
        log_sum: `(S, M)`, differentiable by the features alone.
        tau: with its graph.
        mean: `(S, M)` mean of s / tau under the softmax: minus d log_sum / d log tau.
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
    """Compute dF/dtau of each anchor, `(S, M)`, NaN without negatives.

    The derivative of tau log ĝ is log ĝ - mean. With u in the place of ĝ the first term is that of
    the value, log u; the second comes from this batch, so ĝ / u weighs it.

    Args:
        log_u, log_g: `(S, M)`.
        mean: `(S, M)` mean of s / tau over the negatives under the softmax.
        log_positive: `(S, M)` or `(M,)`, s / tau of the positive.
        effective_negatives: see `sogclr.losses.objective.against_candidates`.
    """
    log_g = log_g.detach()
    slope = log_u - (log_g - log_u).exp() * mean
    if effective_negatives is not None:
        log_k, own = math.log(effective_negatives), log_positive.detach()
        x = log_u - own + log_k
        slope = softplus(x) - log_k + x.sigmoid() * (slope - log_u + own)
    return slope.masked_fill(log_g == -math.inf, math.nan)
