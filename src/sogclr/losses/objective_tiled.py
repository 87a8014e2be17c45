"""Exact log-normalizers and gradients of the global objective, computed tile by tile.

The quantities that `objective.py` defines, for tens of thousands of samples, in O(N M d) time and
O((N + M) d) memory. Gradients are taken with respect to unit vectors.
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
    """Anchors, and the candidates from which their negatives come.

    Attributes:
        vectors, candidates: `(N, d)` and `(M, d)` unit vectors.
        group, candidate_group: `(N,)` and `(M,)` int64; candidates of an anchor's group are none of
            its negatives.
        tau: the temperature: a number for all anchors, or `(N,)`.
    """

    vectors: Tensor
    candidates: Tensor
    group: Tensor
    candidate_group: Tensor
    tau: float | Tensor

    def log_normalizers(self) -> Tensor:
        """Compute log g `(N,)`; g is the mean of exp(s / tau) over an anchor's negatives."""
        log_sum = self.vectors.new_full(self.group.shape, -math.inf)
        for rows, _, logits in self._tiles():
            log_sum[rows] = torch.logaddexp(log_sum[rows], logits.logsumexp(dim=1))
        return log_sum - self._log_count()

    def gradients(self, log_g: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient of sum over i of weight_i tau_i log g_i, for K lists of weights.

        Args:
            log_g: `(N,)`, the result of `log_normalizers`.
            weights: `(K, N)`. An estimator that divides by u instead of g has weights g / u.

        Returns:
            `(K, N, d)` by the anchors and `(K, M, d)` by the candidates. If anchors and candidates
            are the same vectors, the gradient is the sum of both.
        """
        mean = torch.zeros_like(self.vectors)  # (N, d) mean candidate
        by_candidates = self.candidates.new_zeros(len(self.candidates), len(weights), mean.shape[1])
        log_sum = log_g + self._log_count()
        for rows, columns, logits in self._tiles():
            share = (logits - log_sum[rows, None]).exp()  # (n, m) softmax
            mean[rows] += share @ self.candidates[columns]
            weighted = weights[:, rows].T[:, :, None] * self.vectors[rows, None]  # (n, K, d)
            by_candidates[columns] += (share.T @ weighted.flatten(1)).unflatten(
                1, weighted.shape[1:]
            )
        return weights[:, :, None] * mean, by_candidates.transpose(0, 1)

    def _log_count(self) -> Tensor:
        """Compute the log of the number of each anchor's negatives, `(N,)`."""
        # Sort instead of bincount: groups may be large numbers.
        groups = self.candidate_group.sort().values
        first, last = (torch.searchsorted(groups, self.group, right=r) for r in (False, True))
        return (len(groups) - (last - first)).to(self.vectors.dtype).log()

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield anchors, candidates and their logits, -inf where a candidate is no negative."""
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
    """Compute the log of the mean of exp(log_g) over `dim`, expanded to the shape of `log_g`."""
    mean = log_g.logsumexp(dim, keepdim=True) - math.log(log_g.shape[dim])
    return mean.expand_as(log_g)
