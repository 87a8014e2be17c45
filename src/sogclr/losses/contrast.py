"""The method on one screen: log-sum-exp, log ĝ, table, weight, loss and its derivatives.

Algorithm 1 of Yuan et al. (ICML 2022, arXiv 2202.12387), for the anchors of one batch:

    line 4    draw a batch and two augmentations                      your training loop
    line 5    ĝ, the mean of exp(s / tau) over the negatives          `log_g` below
    line 6    u <- (1 - gamma) u + gamma ĝ                            `update_normalizers`
    line 7    gradient -grad s(positive) + tau (ĝ / u) grad log ĝ     `weight` below
    line 8    step of the optimizer                                   your training loop

s is the cosine similarity, tau the temperature. M anchors stand on each of S sides: one side for
two views, two sides for pairs. DCL is the same with u = ĝ. SimCLR, CLIP and MoCo also count the
positive in ĝ.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .backends.similarities import LogSumExp, Similarities
from .base import ContrastiveLoss, Side
from .gradient import Derivatives, with_gradient
from .inputs import Features
from .normalizer_table import peek_normalizers, update_normalizers
from .objective import against_effective_negatives
from .temperature import Tau

__all__ = ["contrast"]


def contrast(
    settings: ContrastiveLoss,
    features: Features,
    sides: tuple[Side, ...],
    positive: Tensor,
    similarities: Similarities,
    fresh: int,
) -> Tensor:
    """Compute the mean loss of the anchors of this batch, a scalar.

    Args:
        settings: the loss; its attributes choose the formula.
        features: the features of this process, which get the gradient.
        sides: S sides of M anchors.
        positive: `(M,)` similarity of each anchor to its positive, the same on all sides.
        similarities: the similarities of the anchors to their negatives.
        fresh: number of anchors of this batch on each side, which come first. The losses of
            earlier anchors are not in the mean. They add gradient, since features of this batch
            are their negatives.
    """
    tau = _look_up_tau(sides)
    fixed = tau.detach() if isinstance(tau, Tensor) else tau
    learned = sides[0].temperature.learns() or (isinstance(tau, Tensor) and tau.requires_grad)
    sums = similarities.sums(fixed, means=learned)
    loss, derivatives = _losses(settings, sides, fixed, positive, sums, fresh)
    return with_gradient(loss, derivatives, features, similarities, sums.log_sum, tau)


def _losses(
    settings: ContrastiveLoss,
    sides: tuple[Side, ...],
    tau: Tau,
    positive: Tensor,
    sums: LogSumExp,
    fresh: int,
) -> tuple[Tensor, Derivatives]:
    """Compute the losses of the anchors of this batch, `(S, fresh)`, and their derivatives."""
    log_sum, number, mean = sums
    temperature = sides[0].temperature  # of the same kind on all sides
    log_positive = positive / tau
    # Up to the last lines, `loss` is divided by tau. `weight` is its derivative by log_sum,
    # `slope` its derivative by -log_positive.
    slope: Tensor | float = 1.0
    if settings.positive_in_normalizer:
        log_count, excess = _log(number + 1), log_sum - log_positive
        # softplus: logaddexp(log_sum, log_positive) - log_positive would cancel to 0 where the
        # positive dominates ĝ.
        loss = softplus(excess, threshold=40) - log_count
        weight = slope = excess.sigmoid()
    else:
        log_count = _log(number)
        log_g = log_sum - log_count  # (S, M), -inf without negatives
        log_u = _estimate(sides, log_g, fresh)
        # Clamp: a stored u far below ĝ (in eval mode, at a small tau) would give infinity.
        weight = (log_g - log_u).exp_().clamp_(max=torch.finfo(log_g.dtype).max)
        loss = log_u - log_positive
        if settings.effective_negatives is not None:
            slope = (loss + math.log(settings.effective_negatives)).sigmoid()
            weight = weight * slope
            loss = against_effective_negatives(loss, 1.0, settings.effective_negatives)
    by_log_tau = None if mean is None else slope * log_positive - weight * mean
    if by_log_tau is not None and temperature.learns():
        # dF/dtau, and NaN, which `learn` skips, for an anchor without negatives.
        gradient = (loss + by_log_tau).masked_fill(log_sum == -math.inf, math.nan)
        for side, own in zip(sides, gradient, strict=True):
            side.temperature.learn(side.temperature_rows[:fresh], own[:fresh])
    loss, by_tau = temperature.objective(loss, by_log_tau)
    derivatives = Derivatives(weight, -slope, by_tau)
    if isinstance(number, Tensor) and not settings.positive_in_normalizer:
        # Without negatives, F is -positive.
        loss = torch.where(number > 0, loss, -log_positive)
        derivatives = derivatives.without_negatives(number == 0)
    if settings.scale == "temperature":
        loss = loss * tau
    else:
        loss = loss + log_count if settings.sums_negatives else loss
        derivatives = derivatives.divide(tau)
    return loss[:, :fresh], derivatives.of_batch(fresh)


def _look_up_tau(sides: tuple[Side, ...]) -> Tau:
    """Return tau of all anchors, with graph: a number, a scalar tensor, `(1, M)` or `(S, M)`."""
    first = sides[0].temperature
    if all(side.temperature is first for side in sides):
        tau = first(sides[0].temperature_rows)
        return tau[None] if isinstance(tau, Tensor) and tau.ndim else tau
    return torch.stack([side.temperature(side.temperature_rows) for side in sides])


def _estimate(sides: tuple[Side, ...], log_g: Tensor, fresh: int) -> Tensor:
    """Return log u `(S, M)`. Only the anchors of this batch update the normalizers."""
    if fresh == log_g.shape[1]:
        return update_normalizers([(side.normalizer, side.rows) for side in sides], log_g)
    current = [(side.normalizer, side.rows[:fresh]) for side in sides]
    earlier = [(side.normalizer, side.rows[fresh:]) for side in sides]
    log_u = update_normalizers(current, log_g[:, :fresh])
    return torch.cat([log_u, peek_normalizers(earlier, log_g[:, fresh:])], dim=1)


def _log(number: Tensor | int) -> Tensor | float:
    """Compute the logarithm of a count; 0 where a tensor has a count of 0."""
    return number.clamp(min=1).log() if isinstance(number, Tensor) else math.log(number)
