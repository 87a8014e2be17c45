"""The method on one screen: log-sum-exp, log ĝ, table, weight, loss. The rest is autograd.

Algorithm 1 of Yuan et al. (ICML 2022, arXiv 2202.12387), for the anchors of one batch:

    line 4    draw a batch and two augmentations                      your training loop
    line 5    ĝ, the mean of exp(s / tau) over the negatives          `log_g` below
    line 6    u <- (1 - gamma) u + gamma ĝ                            `update_normalizers`
    line 7    gradient -grad s(positive) + tau (ĝ / u) grad log ĝ     `StraightThrough`
    line 8    step of the optimizer                                   your training loop

s is the cosine similarity, tau the temperature. M anchors stand on each of S sides: one side for
two views, two sides for pairs. SimCLR, CLIP, DCL and MoCo are the same lines with u = ĝ.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from .anchors import Side, select
from .backends.similarities import Similarities
from .memory import FeatureMemory
from .normalizer import NormalizerTable, peek_normalizers, update_normalizers
from .objective import against_candidates
from .temperature import Tau, without_graph
from .temperature_gradient import slope_by_tau, temperatures_of, with_gradient_by_tau

__all__ = ["ContrastiveLoss", "Scale"]

Scale = Literal["temperature", "cross-entropy"]


class StraightThrough(torch.autograd.Function):
    """log u, with the gradient (ĝ / u) grad log ĝ: that of the global objective (equation 6)."""

    @staticmethod
    def forward(ctx: Any, log_g: Tensor, log_u: Tensor) -> Tensor:
        # Clamp: a stored u far below ĝ (in eval mode, at a small tau) would give infinity.
        ctx.save_for_backward((log_g - log_u).exp_().clamp_(max=torch.finfo(log_g.dtype).max))
        return log_u.view_as(log_u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradient * weight, None


class ContrastiveLoss(nn.Module):
    """The base of all softmax losses: its `contrast` is the method."""

    positive_in_normalizer = False  # True for SimCLR, CLIP and MoCo
    sums_negatives = True  # False: the cross-entropy scale has means, as a moving average does
    effective_negatives: float | None = None

    def __init__(self, scale: Scale, process_group: Any) -> None:
        super().__init__()
        if scale not in ("temperature", "cross-entropy"):
            raise ValueError(f'scale must be "temperature" or "cross-entropy", got {scale!r}')
        self.scale, self.process_group = scale, process_group
        self.memory: FeatureMemory | None = None

    def contrast(
        self, sides: tuple[Side, ...], positive: Tensor, similarities: Similarities, fresh: int
    ) -> Tensor:
        """Compute the mean loss of the anchors of this batch, a scalar.

        Args:
            sides: S sides of M anchors.
            positive: `(M,)` similarity of each anchor to its positive, the same on all sides.
            similarities: of the anchors to their negatives.
            fresh: number of anchors of this batch, the first ones. The others, of earlier batches,
                contribute gradient only: features of this batch are among their negatives.
        """
        temperature = sides[0].temperature
        tau = temperatures_of([(side.temperature, side.temperature_rows) for side in sides])
        fixed = without_graph(tau)
        means = temperature.learns() or (isinstance(tau, Tensor) and tau.requires_grad)
        negatives = similarities.log_sum_exp(fixed, means)
        if fresh == len(positive):
            return self._losses(sides, tau, positive, *negatives).mean()
        new, numbers = select(slice(fresh), sides, tau, positive, *negatives)
        loss = self._losses(new, *numbers).mean()
        old, numbers = select(slice(fresh, None), sides, fixed, positive, *negatives)
        earlier = self._losses(old, *numbers, earlier=True).sum() / (len(sides) * fresh)
        return loss + (earlier - earlier.detach())

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
    ) -> Tensor:
        """Compute the loss of each anchor, `(S, M)`; `earlier` anchors update no state.

        `log_sum`, `number` and `mean` are those of `LogSumExp`.
        """
        temperature, fixed = sides[0].temperature, without_graph(tau)
        log_sum = with_gradient_by_tau(log_sum, tau, mean)
        log_positive = positive / tau
        if self.positive_in_normalizer:
            log_count = _log(number + 1)
            # softplus: log-sum-exp minus positive would cancel where the positive dominates ĝ.
            loss = softplus(log_sum - log_positive, threshold=40) - log_count
        else:
            log_count = _log(number)
            log_g = log_sum - log_count  # (S, M), -inf without negatives
            estimate = peek_normalizers if earlier else update_normalizers
            log_u = estimate([(side.normalizer, side.rows) for side in sides], log_g.detach())
            if isinstance(number, Tensor):
                log_u = log_u.masked_fill(number == 0, 0.0)
            loss = StraightThrough.apply(log_g, log_u) - log_positive
            if mean is not None and temperature.learns() and not earlier:
                slope = slope_by_tau(log_u, log_g, mean, log_positive, self.effective_negatives)
                for side, own in zip(sides, slope, strict=True):
                    side.temperature.learn(side.temperature_rows, own)
            loss = against_candidates(loss, 1.0, self.effective_negatives)
        loss = temperature.objective(loss, tau)
        if isinstance(number, Tensor) and not self.positive_in_normalizer:
            loss = torch.where(number > 0, loss, -positive / fixed)  # anchors without negatives
        if self.scale == "temperature":
            return loss * fixed
        return loss + log_count if self.sums_negatives else loss

    def raise_for_invalid_ids(self) -> None:
        """Raise IndexError if a table met invalid ids on an accelerator. Waits for the device."""
        for module in self.modules():
            if isinstance(module, NormalizerTable):
                module.raise_for_invalid_ids()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _log(number: Tensor | int) -> Tensor | float:
    """Compute the logarithm of a number of negatives, or 0 if there are none."""
    return number.clamp(min=1).log() if isinstance(number, Tensor) else math.log(number)
