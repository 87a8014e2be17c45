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
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..distributed.exchange import Shares
from .anchors import Side, look_up_tau, select
from .backends.similarities import Similarities
from .features import Features
from .gradient import Derivatives, with_gradient
from .inputs import distinct_ids
from .memory import FeatureMemory
from .normalizer import Normalizer
from .normalizer_table import NormalizerTable, peek_normalizers, update_normalizers
from .objective import against_candidates
from .temperature import Tau, Temperature, without_graph

__all__ = ["ContrastiveLoss", "Scale"]

Scale = Literal["temperature", "cross-entropy"]


class ContrastiveLoss(nn.Module):
    """The base of all softmax losses: its `contrast` is the method.

    Attributes:
        positive_in_normalizer: whether ĝ counts the positive; True for SimCLR, CLIP and MoCo.
        sums_negatives: whether a cross-entropy has the sum over the terms of ĝ, as published
            losses do. False: their mean, which a moving average estimates.
        effective_negatives: see `against_candidates`.
        memory: features of earlier batches; None for none.
    """

    positive_in_normalizer = False
    sums_negatives = True
    effective_negatives: float | None = None

    def __init__(self, scale: Scale, process_group: Any) -> None:
        super().__init__()
        if scale not in ("temperature", "cross-entropy"):
            raise ValueError(f'scale must be "temperature" or "cross-entropy", got {scale!r}')
        self.scale, self.process_group = scale, process_group
        self.memory: FeatureMemory | None = None

    def sides(self) -> list[tuple[Normalizer, Temperature]]:
        """Return the normalizer and the temperature of each side; not defined for MoCo."""
        raise NotImplementedError

    def identify(self, index: Tensor | None, features: Tensor, shares: Shares | None) -> Tensor:
        """Return the sample ids `(B,)`: `index`, or distinct ids if it is None.

        Raises:
            TypeError: `index` is None, and the loss keeps state per sample.
        """
        if index is not None:
            return index
        if self.memory is not None or any(
            normalizer.needs_ids or temperature.per_sample
            for normalizer, temperature in self.sides()
        ):
            raise TypeError("this loss keeps state per sample: pass `index`, the sample ids")
        return distinct_ids(features, shares)

    def contrast(
        self,
        features: Features,
        sides: tuple[Side, ...],
        positive: Tensor,
        similarities: Similarities,
        fresh: int,
    ) -> Tensor:
        """Compute the mean loss of the anchors of this batch, a scalar.

        Args:
            features: the features of this process, which get the gradient.
            sides: S sides of M anchors.
            positive: `(M,)` similarity of each anchor to its positive, the same on all sides.
            similarities: the similarities of the anchors to their negatives.
            fresh: number of anchors of this batch on each side, which come first. The anchors of
                earlier batches contribute gradient only: they have features of this batch as
                negatives.
        """
        tau = look_up_tau(sides)
        fixed = without_graph(tau)
        learned = sides[0].temperature.learns() or (isinstance(tau, Tensor) and tau.requires_grad)
        sums = similarities.sums(fixed, means=learned)
        if fresh == len(positive):
            loss, derivatives = self._losses(sides, fixed, positive, *sums)
        else:
            new, selected = select(slice(fresh), sides, fixed, positive, *sums)
            loss, derivatives = self._losses(new, *selected)
            old, selected = select(slice(fresh, None), sides, fixed, positive, *sums)
            derivatives = derivatives.append(self._losses(old, *selected, earlier=True)[1])
        return with_gradient(loss, derivatives, features, similarities, sums.log_sum, tau)

    def _losses(
        self,
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
            sides: S sides of M anchors.
            tau: without graph.
            positive: `(M,)` similarity of each anchor to its positive.
            log_sum, number, mean: see `LogSumExp`.
            earlier: whether the anchors are of earlier batches, which update no state.
        """
        temperature = sides[0].temperature  # of the same kind on all sides
        log_positive = positive / tau
        without_negatives = number == 0 if isinstance(number, Tensor) else None
        # Up to the last lines, `loss` is divided by tau. `weight` is its derivative by log_sum,
        # `slope` its derivative by -log_positive.
        slope: Tensor | float = 1.0
        if self.positive_in_normalizer:
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
            if without_negatives is not None:
                log_u = log_u.masked_fill(without_negatives, 0)  # finite, so that weight is 0
            # Clamp: a stored u far below ĝ (in eval mode, at a small tau) would give infinity.
            weight = (log_g - log_u).exp_().clamp_(max=torch.finfo(log_g.dtype).max)
            loss = log_u - log_positive
            if self.effective_negatives is not None:
                slope = (loss + math.log(self.effective_negatives)).sigmoid()
                if without_negatives is not None:
                    slope = slope.masked_fill(without_negatives, 1)
                weight = weight * slope
                loss = against_candidates(loss, 1.0, self.effective_negatives)
        by_log_tau = None if mean is None else slope * log_positive - weight * mean
        if by_log_tau is not None and temperature.learns() and not earlier:
            # dF/dtau; `learn` skips NaN.
            gradient = (loss + by_log_tau).masked_fill(log_sum == -math.inf, math.nan)
            for side, side_gradient in zip(sides, gradient, strict=True):
                side.temperature.learn(side.temperature_rows, side_gradient)
        loss, by_tau = temperature.objective(loss, by_log_tau)
        if without_negatives is not None and not self.positive_in_normalizer:
            # Without negatives, F is -positive, which does not depend on tau.
            loss = torch.where(without_negatives, -log_positive, loss)
            by_tau = None if by_tau is None else by_tau.masked_fill(without_negatives, 0)
        derivatives = Derivatives(weight, -slope, by_tau)
        if self.scale == "temperature":
            return loss * tau, derivatives
        return loss + log_count if self.sums_negatives else loss, derivatives.divide(tau)

    def raise_for_invalid_ids(self) -> None:
        """Raise IndexError if a table met invalid ids on an accelerator. Waits for the device."""
        for module in self.modules():
            if isinstance(module, NormalizerTable):
                module.raise_for_invalid_ids()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _log(number: Tensor | int) -> Tensor | float:
    """Compute the logarithm of a count; 0 for a count of 0."""
    return number.clamp(min=1).log() if isinstance(number, Tensor) else math.log(number)
