"""The whole matrix of similarities at once: the reference, and the fastest for a small batch."""

import math

import torch
from torch import Tensor

from .similarities import Absent, Diagonals, LogSumExp, Similarities, scaled_products

__all__ = ["Dense", "log_sum_exp"]


def log_sum_exp(x: Tensor, y: Tensor, absent: Tensor, tau: Tensor, sides: int) -> LogSumExp:
    """Compute log-sum-exps in plain torch with autograd: the reference for all backends.

    Args:
        x: `(M, d)` unit vectors, the anchors of the first side.
        y: `(N, d)` unit vectors; the anchors of the second side if there are two.
        absent: `(M, N)` bool, the entries that are no negatives.
        tau: broadcast to `(S, M)`.
        sides: S, 1 or 2.
    """
    similarity, results = x @ y.T, []
    for side in range(sides):
        entries, mask = (similarity.T, absent.T) if side else (similarity, absent)
        logits = (entries / tau.expand(sides, len(x))[side, :, None]).masked_fill(mask, -math.inf)
        count = (~mask).sum(dim=1).to(x.dtype)
        # Without negatives, softmax and its gradient would be NaN: replace the logits by 0.
        logits = logits.where(count[:, None] > 0, 0.0)
        mean = (logits.softmax(dim=1) * logits.masked_fill(mask, 0.0)).sum(dim=1)
        results.append((logits.logsumexp(dim=1).where(count > 0, -math.inf), count, mean.detach()))
    return LogSumExp(*(torch.stack(numbers) for numbers in zip(*results, strict=True)))


class Dense(Similarities):
    """One matrix of exponentials, kept for the gradient.

    Args:
        x: `(M, d)` unit vectors, the anchors in the rows.
        y: `(N, d)` unit vectors in the columns. None for `x`, with a symmetric `absent`.
        absent: entries that are no negatives.
        sides: 2 if columns are anchors of another side; then N = M.
        shift: see `Similarities`. If True, `log_sum_exp` runs in plain torch with autograd.
    """

    def __init__(
        self, x: Tensor, y: Tensor | None, absent: Absent, sides: int, shift: bool
    ) -> None:
        self.shift, self.columns = shift, x if y is None else y
        self.inputs = (x,) if y is None or sides == 1 else (x, y)
        self.x, self.y = x.detach(), x.detach() if y is None else y.detach()
        self.symmetric, self.sides, self.absent = y is None, sides, absent

    def log_sum_exp(self, tau: float | Tensor, means: bool) -> LogSumExp:
        if not self.shift:
            return super().log_sum_exp(tau, means)
        x, y = self.inputs[0], self.columns
        return log_sum_exp(
            x, y, self._mask(), torch.as_tensor(tau, dtype=x.dtype, device=x.device), self.sides
        )

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        x, y, absent = self.x, self.y, self.absent
        matrix = scaled_products(x, y, tau).exp_()
        count: Tensor | int
        if isinstance(absent, Diagonals):
            count = len(y) - absent.each
            for offset in absent.offsets:
                matrix.diagonal(offset).fill_(0)
        else:
            mask = absent(slice(None), slice(None))
            matrix.masked_fill_(mask, 0)
            count = torch.stack([(~mask).sum(dim).to(x.dtype) for dim in (1, 0)[: self.sides]])
        self.matrix = matrix
        self.total = self._along_sides(matrix)  # (S, M)
        mean = None
        if means:
            mean = self._along_sides(matrix.xlogy(matrix)) / self.total.clamp(
                min=torch.finfo(x.dtype).tiny
            )
        return LogSumExp(self.total.log(), count, mean)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        weight = weight / self.total
        if not isinstance(self.absent, Diagonals):
            weight = weight.masked_fill(self.total == 0, 0)
        row = weight[0, :, None]
        if self.symmetric:
            return ((self.matrix * (row + weight[0])) @ self.x,)
        if self.sides == 1:
            return ((self.matrix * row) @ self.y,)
        matrix = self.matrix * (row + weight[1])
        return matrix @ self.y, matrix.T @ self.x

    def _mask(self) -> Tensor:
        """Compute the mask of entries that are no negatives, `(M, N)` bool."""
        if not isinstance(self.absent, Diagonals):
            return self.absent(slice(None), slice(None))
        mask = self.x.new_zeros(len(self.x), len(self.y), dtype=torch.bool)
        for offset in self.absent.offsets:
            mask.diagonal(offset).fill_(True)
        return mask

    def _along_sides(self, matrix: Tensor) -> Tensor:
        """Sum over the negatives of each anchor, `(S, M)`."""
        if self.sides == 1:
            return matrix.sum(dim=1)[None]
        return torch.stack([matrix.sum(dim=1), matrix.sum(dim=0)])
