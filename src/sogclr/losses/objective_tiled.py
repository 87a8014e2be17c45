"""Exact log-normalizers and gradients of the global objective, by tiles.

What `objective.py` defines, for tens of thousands of samples: O(N M d) time and O((N + M) d)
memory. The gradient is taken with respect to unit vectors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .temperature import column

__all__ = ["Anchors", "log_mean"]

# 32 MB in float32: small enough for any machine, large enough to multiply at full speed.
ROWS, COLUMNS = 1_024, 8_192


@dataclass(frozen=True)
class Anchors:
    """Anchors and the candidates among which their negatives are.

    Attributes:
        vectors: `(N, d)` unit vectors.
        candidates: `(M, d)` unit vectors.
        group: `(N,)` int64; a candidate of the same group is no negative.
        candidate_group: `(M,)` int64.
        tau: the temperature, a number or one an anchor `(N,)`.
    """

    vectors: Tensor
    candidates: Tensor
    group: Tensor
    candidate_group: Tensor
    tau: float | Tensor

    def log_normalizers(self) -> Tensor:
        """log g `(N,)`, g the mean over an anchor's negatives of exp(s / tau)."""
        log_sum = self.vectors.new_full(self.group.shape, -math.inf)
        for rows, _, logits in self._tiles():
            log_sum[rows] = torch.logaddexp(log_sum[rows], logits.logsumexp(dim=1))
        return log_sum - self._log_count()

    def gradients(self, log_g: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of sum over i of weight_i tau_i log g_i, for each of K choices of weights.

        Args:
            log_g: `(N,)` of `log_normalizers`.
            weights: `(K, N)`. An estimator that divides by u instead of g weighs by g/u.

        Returns:
            `(K, N, d)` by the anchors and `(K, M, d)` by the candidates. Where both are the same
            rows, the gradient is their sum.
        """
        mean = torch.zeros_like(self.vectors)  # (N, d), of the candidates, under the softmax
        pulled = self.candidates.new_zeros(len(self.candidates), len(weights), mean.shape[1])
        log_sum = log_g + self._log_count()
        for rows, columns, logits in self._tiles():
            share = (logits - log_sum[rows, None]).exp()  # (n, m), rows sum to 1 over all tiles
            mean[rows] += share @ self.candidates[columns]
            weighed = weights[:, rows].T[:, :, None] * self.vectors[rows, None]  # (n, K, d)
            pulled[columns] += (share.T @ weighed.flatten(1)).unflatten(1, weighed.shape[1:])
        return weights[:, :, None] * mean, pulled.transpose(0, 1)

    def _log_count(self) -> Tensor:
        """log of the number of each anchor's negatives, `(N,)`."""
        # Groups are any numbers: a count for each up to the largest would be a table of its own.
        groups = self.candidate_group.sort().values
        first, last = (torch.searchsorted(groups, self.group, right=r) for r in (False, True))
        return (len(groups) - (last - first)).to(self.vectors.dtype).log()

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns, and their logits, -inf for what is no negative."""
        for top in range(0, len(self.vectors), ROWS):
            rows = slice(top, top + ROWS)
            tau = self.tau[rows] if isinstance(self.tau, Tensor) else self.tau
            scaled = self.vectors[rows] / column(tau)
            for left in range(0, len(self.candidates), COLUMNS):
                columns = slice(left, left + COLUMNS)
                same = self.group[rows, None] == self.candidate_group[None, columns]
                logits = scaled @ self.candidates[columns].T
                yield rows, columns, logits.masked_fill_(same, -math.inf)


def log_mean(log_g: Tensor, dim: int) -> Tensor:
    """log of the mean of exp(log_g) over a dimension, in all its places."""
    mean = log_g.logsumexp(dim, keepdim=True) - math.log(log_g.shape[dim])
    return mean.expand_as(log_g)
