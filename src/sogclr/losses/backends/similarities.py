"""What every backend does: log-sum-exps over negatives, differentiable by the features.

A softmax contrastive loss sees the negatives of an anchor through one number,

    log_sum_i = log sum over negatives j of exp(s_ij / tau_i),
    P_ij = exp(s_ij / tau_i - log_sum_i).

Its derivative by a similarity is P_ij / tau_i, so the gradient needs no Jacobian of a softmax.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Absent", "Diagonals", "LogSumExp", "Similarities", "needs_shift"]


class LogSumExp(NamedTuple):
    """The negatives of M anchors on each of S sides.

    Attributes:
        log_sum: `(S, M)` log of the sum of exp(s / tau), -inf without negatives; differentiable by
            the features, not by tau.
        number: of negatives, `(S, M)`; or an int if it is the same for all and not 0.
        mean: `(S, M)` mean of s / tau under P, 0 without negatives, no graph; None if it was not
            requested.
    """

    log_sum: Tensor
    number: Tensor | int
    mean: Tensor | None


@dataclass(frozen=True)
class Diagonals:
    """Entries of the matrix that are no negatives, where all ids differ: no mask is formed.

    Every row and column keeps at least one negative.

    Attributes:
        offsets: entry (i, j) is no negative if j - i is one of these.
        each: number of such entries in every row and column.
    """

    offsets: tuple[int, ...]
    each: int


# Given rows and columns of the matrix, the entries that are no negatives, `(n, m)` bool.
Absent: TypeAlias = Callable[[slice, slice], Tensor] | Diagonals


class Similarities(ABC):
    """The similarities of a batch, formed when they are needed.

    Attributes:
        inputs: unit rows by which `log_sum_exp` is differentiable.
        shift: whether exponentials need a shift of their own for each anchor, see `needs_shift`.
    """

    inputs: tuple[Tensor, ...]
    shift: bool

    @abstractmethod
    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        """Compute `log_sum_exp` without graph."""

    @abstractmethod
    def gradients(self, log_sum: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradient of the sum of weight tau log_sum by each of `inputs`.

        Args:
            log_sum: `(S, M)` of `sums`, which was called before.
            weight: `(S, M)`, 0 for an anchor without negatives.
        """

    def log_sum_exp(self, tau: float | Tensor, means: bool) -> LogSumExp:
        """Compute log-sum-exps over the negatives of each anchor.

        Args:
            tau: a number, a scalar, or `(S, M)`; no graph.
            means: whether to compute the means of s / tau as well.
        """
        with torch.no_grad():
            log_sum, number, mean = self.sums(tau, means)
        return LogSumExp(_Differentiable.apply(log_sum, self, tau, *self.inputs), number, mean)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_sum: Tensor, similarities: Similarities, tau: Any, *inputs: Tensor
    ) -> Tensor:
        ctx.similarities, ctx.tau = similarities, tau
        ctx.save_for_backward(log_sum)
        return log_sum.view_as(log_sum)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (log_sum,) = ctx.saved_tensors
        return None, None, None, *ctx.similarities.gradients(log_sum, gradient / ctx.tau)


def needs_shift(per_sample: bool, minimum: float, dtype: torch.dtype) -> bool:
    """Whether exp(s / tau) as it stands does not serve all anchors.

    Args:
        per_sample: whether anchors have different tau.
        minimum: a number that no tau is below. At a small tau exponentials overflow, or vanish for
            all negatives of an anchor.
        dtype: of the similarities.
    """
    return per_sample or 1 / minimum >= 0.8 * math.log(torch.finfo(dtype).max)
