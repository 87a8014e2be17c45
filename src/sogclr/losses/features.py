"""Unit vectors of the features of a process, and the gradient through the normalization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.exchange import Shares

__all__ = ["Features", "unit_rows", "wide_rows"]

EPSILON = 1e-12  # as torch.nn.functional.normalize


@dataclass(frozen=True)
class Features:
    """The features of n samples with two sides each, on this process, and their positives.

    Attributes:
        given: `(n, d)` of either side, with graph, any float dtype.
        unit: `(2, n, d)` unit vectors, no graph, float32 or float64.
        length: `(2, n, 1)`, by which the features were divided.
        partners: `(n, d)` of either side, unit vectors of the positives.
        mutual: whether partners are the unit vectors of the other side and so get gradient too.
        shares: how the N samples of the batch are divided among processes; None in one process.
    """

    given: tuple[Tensor, Tensor]
    unit: Tensor
    length: Tensor
    partners: tuple[Tensor, Tensor]
    mutual: bool
    shares: Shares | None

    def gradient(self, by_rows: Tensor, by_positive: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient by the features of either side, `(n, d)` each.

        Args:
            by_rows: `(1, M, d)` or `(2, M, d)` gradient by all unit vectors, through negatives.
                Those of this process come first, on each side or side after side. It is
                overwritten.
            by_positive: derivative by the similarity to the positive, of each anchor of the batch,
                `(1, 2N)` or `(2, N)`; or a scalar, the same for all.
        """
        sides, n = len(by_rows), self.unit.shape[1]
        gradient = by_rows[:, : 2 * n // sides].reshape(self.unit.shape)
        if self.shares is not None:
            # DistributedDataParallel averages over processes, but this gradient is a sum over them.
            by_positive = by_positive * self.shares.processes
        if by_positive.ndim == 0:
            first = second = 2 * by_positive if self.mutual else by_positive
        else:
            each = by_positive.reshape(2, -1)
            each = each if self.shares is None else each[:, self.shares.own]
            each = each.sum(dim=0).expand(2, -1) if self.mutual else each
            first, second = each.unsqueeze(-1)
        gradient[0].addcmul_(self.partners[0], first)
        gradient[1].addcmul_(self.partners[1], second)
        radial = torch.linalg.vecdot(gradient, self.unit).unsqueeze(-1)
        by_a, by_b = gradient.addcmul_(self.unit, radial, value=-1).div_(self.length)
        a, b = self.given
        return by_a.to(a.dtype), by_b.to(b.dtype)


def unit_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize features `(n, d)` of both sides, without graph, in float32 or float64.

    Returns:
        `(2, n, d)` unit vectors; and `(2, n, 1)`, by which the features were divided.
    """
    rows = wide_rows(a.detach(), b.detach())
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_(min=EPSILON)
    return rows.div_(length), length


def wide_rows(a: Tensor, b: Tensor) -> Tensor:
    """Stack features `(n, d)` of both sides in float64 if both have it, else in float32."""
    double = a.dtype == b.dtype == torch.float64
    return torch.stack([a, b] if double else [a.float(), b.float()])  # (2, n, d)
