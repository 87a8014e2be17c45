"""Log-sum-exps over negatives, and their gradient by the features: the interface of all backends.

A softmax contrastive loss depends on the negatives of an anchor through one number,

    log_sum_i = log sum over negatives j of exp(s_ij / tau_i).

The derivative of log_sum_i by s_ij is P_ij / tau_i with P_ij = exp(s_ij / tau_i - log_sum_i). So
the gradient needs no Jacobian of a softmax.

"The matrix" is that of the similarities s of unit vectors x `(M, d)`, its rows, and y `(N, d)`, its
columns. The rows are the anchors of the first side. With two sides, N = M, and the columns are the
anchors of the second side. With two views, x and y are the same, and the matrix is symmetric.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Diagonals",
    "Excluded",
    "LogSumExp",
    "Similarities",
    "add_shifted",
    "needs_shift",
    "scaled_products",
]


class LogSumExp(NamedTuple):
    """Sums over the negatives of M anchors on each of S sides.

    Attributes:
        log_sum: `(S, M)` log of the sum of exp(s / tau), -inf without negatives.
        number: `(S, M)` number of negatives; an int above 0 if it is equal for all anchors.
        mean: `(S, M)` mean of s / tau under P, 0 without negatives; None if it was not requested.
    """

    log_sum: Tensor
    number: Tensor | int
    mean: Tensor | None


@dataclass(frozen=True)
class Diagonals:
    """Diagonals of the matrix that are no negatives, in place of a mask: for ids that all differ.

    Attributes:
        offsets: entry (i, j) is no negative if j - i is one of these.
        per_row: number of such entries in every row and column, which have at least one negative.
    """

    offsets: tuple[int, ...]
    per_row: int


# The entries of the matrix that are no negatives: diagonals, or a function from slices of n rows
# and m columns to their mask `(n, m)`.
Excluded: TypeAlias = Callable[[slice, slice], Tensor] | Diagonals


class Similarities(ABC):
    """The interface of a backend: similarities of a batch, computed when they are needed."""

    @abstractmethod
    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        """Compute log-sum-exps over the negatives of each anchor.

        Args:
            tau: a number, a scalar tensor, or `(S, M)`; no graph.
            means: whether to compute the means of s / tau as well.
        """

    @abstractmethod
    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        """Compute the gradient of `(weight * tau * log_sum).sum()` by the unit vectors of anchors.

        Args:
            log_sum: `(S, M)` from `sums`, which must be called before.
            weight: `(S, M)`, 0 for an anchor without negatives.

        Returns:
            `(S, M, d)`, or `(2, n, d)` for the n samples of this process.
        """


def needs_shift(per_sample: bool, minimum: float, dtype: torch.dtype) -> bool:
    """Return whether exp(s / tau) needs a shift for each anchor.

    It does if anchors have different tau, `per_sample`. It does at a small tau, of which `minimum`
    is a bound: exponentials in `dtype` overflow, or vanish for all negatives of an anchor.
    """
    # 0.8 leaves room for the sum of the exponentials.
    return per_sample or 1 / minimum >= 0.8 * math.log(torch.finfo(dtype).max)


def add_shifted(
    log_sum: Tensor, mean: Tensor | None, logs: Tensor, weighted: Tensor, dim: int
) -> None:
    """Add entries exp(logs) `(n, m)` along `dim` to running log-sum-exps and means, in place.

    An entry contributes `weighted` exp(logs) to the mean, whose weights are the exponentials.
    """
    after = torch.logaddexp(log_sum, logs.logsumexp(dim))
    if mean is not None:
        finite = after.masked_fill(after == -math.inf, 0)
        share = (logs - finite.unsqueeze(dim)).exp()
        mean.mul_((log_sum - finite).exp()).add_((share * weighted).sum(dim))
    log_sum.copy_(after)


def scaled_products(x: Tensor, y: Tensor, tau: float | Tensor) -> Tensor:
    """Compute s / tau `(n, m)` of x `(n, d)` and y `(m, d)`, with one tau for all anchors."""
    if isinstance(tau, Tensor):
        return (x / tau) @ y.T
    return torch.addmm(x.new_zeros(()), x, y.T, beta=0, alpha=1 / tau)
