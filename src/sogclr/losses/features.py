"""Unit vectors of the features of one process, and the gradient through the normalization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.exchange import Shares

__all__ = ["Features", "normalize_both", "stack_wide", "through_normalization"]

EPSILON = 1e-12  # as torch.nn.functional.normalize


@dataclass(frozen=True)
class Features:
    """The two features a and b of n samples on this process, and their positives.

    a and b are two views of a sample, or the two samples of a pair.

    Attributes:
        given: a and b, `(n, d)` each, with graph, any float dtype.
        unit: `(2, n, d)` unit vectors of a and b, no graph, float32 or float64.
        length: `(2, n, 1)` lengths, by which a and b were divided.
        partners: unit vectors of the positives of a and of b, `(n, d)` each.
        mutual: whether b is the positive of a and a that of b, so that positives get gradient too.
        shares: how the N samples of the batch are divided among processes; None in one process.
    """

    given: tuple[Tensor, Tensor]
    unit: Tensor
    length: Tensor
    partners: tuple[Tensor, Tensor]
    mutual: bool
    shares: Shares | None

    def gradient(self, by_unit: Tensor, by_positive: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient by a and by b, `(n, d)` each.

        Args:
            by_unit: gradient by unit vectors, through negatives; it is overwritten. `(1, M, d)`
                begins with this process's n vectors a, then its n vectors b. `(2, M, d)` has a and
                b apart, each beginning with this process's n vectors.
            by_positive: derivative by the similarity to the positive, of each anchor of the batch,
                `(1, 2N)` or `(2, N)`; or a scalar, equal for all anchors.
        """
        own = 2 * self.unit.shape[1] // len(by_unit)
        gradient = by_unit[:, :own].reshape(self.unit.shape)
        if self.shares is not None:
            # DistributedDataParallel takes the mean over processes, but the gradient is their sum.
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
        by_a, by_b = through_normalization(gradient, self.unit, self.length)
        a, b = self.given
        return by_a.to(a.dtype), by_b.to(b.dtype)


def normalize_both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize features a and b, `(n, d)` each, without graph, in float32 or float64.

    Returns:
        Unit vectors `(2, n, d)`, and the lengths `(2, n, 1)` by which a and b were divided.
    """
    stacked = stack_wide(a.detach(), b.detach())
    length = torch.linalg.vector_norm(stacked, dim=-1, keepdim=True).clamp_(min=EPSILON)
    return stacked.div_(length), length


def through_normalization(by_unit: Tensor, unit: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradient by features a and b from that by their unit vectors, `(2, n, d)`.

    Args:
        by_unit: gradient by the unit vectors; it is overwritten.
        unit, length: see `normalize_both`.
    """
    radial = (by_unit * unit).sum(dim=-1, keepdim=True)
    by_a, by_b = by_unit.addcmul_(unit, radial, value=-1).div_(length)
    return by_a, by_b


def stack_wide(a: Tensor, b: Tensor) -> Tensor:
    """Stack features a and b, `(n, d)` each, in float64 if both have it, else in float32."""
    double = a.dtype == b.dtype == torch.float64
    return torch.stack([a, b] if double else [a.float(), b.float()])  # (2, n, d)
