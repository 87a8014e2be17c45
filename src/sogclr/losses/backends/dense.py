"""The whole matrix of similarities at once, for a small batch."""

import torch
from torch import Tensor

from .. import torch_versions
from .similarities import Diagonals, Excluded, LogSumExp, Similarities, scaled_products

__all__ = ["Dense"]


class Dense(Similarities):
    """One matrix of exponentials, kept for the gradient: the fastest for a small batch.

    It has no shift (see `needs_shift`), so tau must be one number or scalar tensor for all anchors.
    See `Tiled` for the arguments.
    """

    def __init__(self, x: Tensor, y: Tensor | None, excluded: Excluded, sides: int) -> None:
        self.x, self.y = x, x if y is None else y
        self.symmetric, self.sides, self.excluded = y is None, sides, excluded

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        excluded, matrix = self.excluded, scaled_products(self.x, self.y, tau).exp_()
        count: Tensor | int
        if isinstance(excluded, Diagonals):
            count = len(self.y) - excluded.per_row
            for offset in excluded.offsets:
                matrix.diagonal(offset).fill_(0)
        else:
            mask = excluded(slice(None), slice(None))
            matrix.masked_fill_(mask, 0)
            count = torch.stack([(~mask).sum(dim).to(matrix.dtype) for dim in (1, 0)[: self.sides]])
        self.matrix, self.total = matrix, self._along_sides(matrix)  # (S, M)
        mean = None
        if means:
            smallest = torch.finfo(matrix.dtype).tiny
            # matrix.xlogy(matrix) is exp(s / tau) s / tau, and 0 for entries that are no negatives.
            mean = self._along_sides(matrix.xlogy(matrix)) / self.total.clamp(min=smallest)
        return LogSumExp(self.total.log(), count, mean)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        weight = weight / self.total
        if not isinstance(self.excluded, Diagonals):
            weight = weight.masked_fill(self.total == 0, 0)
        row = weight[0, :, None]  # (M, 1)
        if self.symmetric:
            return ((self.matrix * (row + weight[0])) @ self.x)[None]
        if self.sides == 1:
            return ((self.matrix * row) @ self.y)[None]
        matrix = self.matrix * (row + weight[1])
        # Compiled, addmm with beta=0 may multiply the uninitialized buffer by 0, and 0 NaN is NaN.
        empty = self.x.new_zeros if torch_versions.is_compiling() else self.x.new_empty
        gradients = empty(2, *self.x.shape)
        gradients[0].addmm_(matrix, self.y, beta=0)
        gradients[1].addmm_(matrix.T, self.x, beta=0)
        return gradients

    def _along_sides(self, matrix: Tensor) -> Tensor:
        """Sum the matrix over the negatives of each anchor, `(S, M)`."""
        if self.sides == 1:
            return matrix.sum(dim=1)[None]
        return torch.stack([matrix.sum(dim=1), matrix.sum(dim=0)])
