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

from .anchors import Side, learn_temperatures, look_up_tau, select
from .backends.similarities import Similarities
from .base import ContrastiveLoss
from .features import Features
from .gradient import Derivatives, with_gradient
from .normalizer_table import peek_normalizers, update_normalizers
from .objective import against_effective_negatives
from .temperature import Tau, without_graph

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
    tau = look_up_tau(sides)
    fixed = without_graph(tau)
    learned = sides[0].temperature.learns() or (isinstance(tau, Tensor) and tau.requires_grad)
    sums = similarities.sums(fixed, means=learned)
    if fresh == len(positive):
        loss, derivatives = _losses(settings, sides, fixed, positive, *sums)
    else:
        current, selected = select(slice(fresh), sides, fixed, positive, *sums)
        loss, derivatives = _losses(settings, current, *selected)
        before, selected = select(slice(fresh, None), sides, fixed, positive, *sums)
        derivatives = derivatives.append(_losses(settings, before, *selected, earlier=True)[1])
    return with_gradient(loss, derivatives, features, similarities, sums.log_sum, tau)


def _losses(
    settings: ContrastiveLoss,
    sides: tuple[Side, ...],
    tau: Tau,
    positive: Tensor,
    log_sum: Tensor,
    number: Tensor | int,
    mean: Tensor | None,
    *,
    earlier: bool = False,
) -> tuple[Tensor, Derivatives]:
    """Compute the loss of each anchor, `(S, M)`, and its derivatives.

    Args:
        settings: see `contrast`.
        sides: S sides of M anchors.
        tau: see `look_up_tau`; no graph.
        positive: `(M,)` similarity of each anchor to its positive.
        log_sum, number, mean: see `LogSumExp`.
        earlier: whether the anchors are of earlier batches, which update no state.
    """
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
        estimate = peek_normalizers if earlier else update_normalizers
        log_u = estimate([(side.normalizer, side.rows) for side in sides], log_g)
        # Clamp: a stored u far below ĝ (in eval mode, at a small tau) would give infinity.
        weight = (log_g - log_u).exp_().clamp_(max=torch.finfo(log_g.dtype).max)
        loss = log_u - log_positive
        if settings.effective_negatives is not None:
            slope = (loss + math.log(settings.effective_negatives)).sigmoid()
            weight = weight * slope
            loss = against_effective_negatives(loss, 1.0, settings.effective_negatives)
    by_log_tau = None if mean is None else slope * log_positive - weight * mean
    if by_log_tau is not None and temperature.learns() and not earlier:
        # dF/dtau, and NaN, which `learn` skips, for an anchor without negatives.
        gradient = (loss + by_log_tau).masked_fill(log_sum == -math.inf, math.nan)
        learn_temperatures(sides, gradient)
    loss, by_tau = temperature.objective(loss, by_log_tau)
    derivatives = Derivatives(weight, -slope, by_tau)
    if isinstance(number, Tensor) and not settings.positive_in_normalizer:
        # Without negatives, F is -positive.
        loss = torch.where(number > 0, loss, -log_positive)
        derivatives = derivatives.without_negatives(number == 0)
    if settings.scale == "temperature":
        return loss * tau, derivatives
    return loss + log_count if settings.sums_negatives else loss, derivatives.divide(tau)


def _log(number: Tensor | int) -> Tensor | float:
    """Compute the logarithm of a count; 0 where a tensor has a count of 0."""
    return number.clamp(min=1).log() if isinstance(number, Tensor) else math.log(number)
