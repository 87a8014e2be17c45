"""What `tiled` does, for half-precision features on a GPU: tiles that never leave it.

Similarities are formed by `fused_launch`, once for the sums and once more for the gradient by inner
products of features, q. That is written down in half precision, as many rows at a time as
`STRIP` has room for, and multiplied with the features by cuBLAS. Rounding q is the only rounding
there is beside float32's; it differs from entry to entry, and averages out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import fused_launch
from .fused_launch import LOG2E, Side
from .tiled import one_exponential

__all__ = ["FusedNegatives", "HalfVectors", "compared"]

# Entries of q that there are at once, 128 MB.
STRIP = 2**26
# Rows summed over at once; what tiles leave to be added up takes 1/32 of the matrix.
SUMMED = 2**14
EPSILON = 1e-12  # as torch.nn.functional.normalize


@dataclass(frozen=True)
class HalfVectors:
    """Half-precision features as they are, and their lengths: unit vectors without rounding.

    Attributes:
        features: `(M, d)` bfloat16 or float16.
        inverse: `(M,)` float32, 1 / length.
    """

    features: Tensor
    inverse: Tensor

    def by_features(self, gradient: Tensor, pull: Tensor, partner: "HalfVectors") -> Tensor:
        """The gradient by the features `(M, d)`.

        Args:
            gradient: `(M, d)` float32, at constant length, but for what comes of `pull`.
            pull: `(M,)` minus the gradient by the cosine with the partner.
            partner: of each.
        """
        own, other = (self.features, self.inverse), (partner.features, partner.inverse)
        return fused_launch.projected(gradient, pull, *own, *other)


def compared(a: Tensor, b: Tensor) -> tuple[HalfVectors, HalfVectors, Tensor]:
    """Of features `(M, d)` and their partners, vectors; and the cosine of each pair, `(M,)`."""
    a, b = a.detach().contiguous(), b.detach().contiguous()
    inverse_a, inverse_b, cosine = fused_launch.measured(a, b, EPSILON)
    return HalfVectors(a, inverse_a), HalfVectors(b, inverse_b), cosine


class FusedNegatives:
    """`sogclr.losses.backends.tiled.Negatives` of half-precision features; the same interface.

    Gradients are by features at constant length, as `HalfVectors.by_features` takes them.

    Args:
        a: M rows, anchors.
        b: M columns, anchors of another side. None for those of `a` once more.
        ids: `(M,)` int64 each, of rows and of columns; who shares any is no negative.
        tau: a number, a scalar, or `(S, M)`.
        minimum: a number that no temperature is below, known without asking the device.
    """

    def __init__(
        self,
        a: HalfVectors,
        b: HalfVectors | None,
        ids: list[Tensor],
        tau: float | Tensor,
        minimum: float,
    ) -> None:
        self.symmetric, self.tau = b is None, tau
        self.sides, self.size = 1 if b is None else 2, a.features.shape[0]
        self.one = one_exponential(tau, minimum, torch.float32)
        # A number becomes a tensor on the device, since an exponent must not be a new kernel.
        sharpness = (
            LOG2E / tau if isinstance(tau, Tensor) else a.inverse.new_full((1, 1), LOG2E / tau)
        ).expand(self.sides, self.size)
        who = torch.stack(ids) if len(ids) > 1 else ids[0][None]
        self.rows = Side(a.features, a.inverse, sharpness[0], who)
        self.columns = self.rows if b is None else Side(b.features, b.inverse, sharpness[1], who)

    def log_sums(self) -> tuple[Tensor, Tensor]:
        """log_sum `(S, M)`, -inf without negatives; and how many they are, float32."""
        empty = 0.0 if self.one else -torch.inf
        log_sum = self.rows.inverse.new_full((self.sides, self.size), empty)
        count = torch.zeros_like(log_sum)
        for rows, columns in self._strips(SUMMED):
            anchors = (0, rows), (-1, columns)
            found = fused_launch.sums(
                self.rows[rows], self.columns[columns], self.one, self.symmetric
            )
            for (side, places), (values, numbers) in zip(anchors, found, strict=True):
                count[side, places] += numbers.sum(dim=0)
                own = log_sum[side, places]
                if self.one:
                    own += values.sum(dim=0)
                else:
                    own.copy_(torch.logaddexp(own, values.logsumexp(dim=0)))
        return log_sum.log() if self.one else log_sum, count

    def gradients(
        self, log_sum: Tensor, weight: Tensor, means: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As `Negatives.gradients`, by features at constant length, float32."""
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, 0)
        inverse = (-log_sum).exp() if self.one else None
        scale = self._scale(weight)
        scaled = weight if scale is None else weight * scale
        scaled = scaled if inverse is None else scaled * inverse
        logs = None if self.one else log_sum * LOG2E
        gradient = self.rows.inverse.new_zeros(self.sides, *self.rows.features.shape)
        grad_a, grad_b = gradient[0], gradient[-1]
        mean = torch.zeros_like(log_sum) if means else None
        for rows, columns in self._strips(STRIP // self.size):
            pull, sums = fused_launch.pulls(
                self.rows[rows],
                self.columns[columns],
                (scaled[0, rows], scaled[-1, columns]),
                None if logs is None else (logs[0, rows], logs[-1, columns]),
                means,
            )
            _add_product(grad_a[rows], pull, self.columns.features[columns])
            # Of a symmetric matrix, what is not among the rows met as columns.
            met = rows.stop - rows.start if self.symmetric else 0
            rest = slice(columns.start + met, self.size)
            if rest.start < rest.stop:
                _add_product(grad_b[rest], pull[:, met:].T, self.rows.features[rows])
            if mean is not None and sums is not None:
                by_rows, by_columns = (parts.sum(dim=0) for parts in sums)
                mean[0, rows] += by_rows
                mean[-1, rest] += by_columns[met:]
        if mean is not None:
            mean = (mean if inverse is None else mean * inverse) / LOG2E
        if scale is not None:
            gradient /= scale
        return gradient, mean

    def _scale(self, weight: Tensor) -> Tensor | None:
        """What brings the largest of q near the top of float16, so that few vanish; a scalar.

        bfloat16 has the range of float32.
        """
        if self.rows.features.dtype == torch.bfloat16:
            return None
        largest = weight.amax() * 2 * self.rows.inverse.amax() * self.columns.inverse.amax()
        return 2.0**14 / largest.clamp(min=2.0**-100)

    def _strips(self, height: int) -> list[tuple[slice, slice]]:
        """Rows and columns of each; of a symmetric matrix, from the diagonal on."""
        height = max(fused_launch.ROWS, height // fused_launch.ROWS * fused_launch.ROWS)
        tops = range(0, self.size, height)
        rows = [slice(top, min(top + height, self.size)) for top in tops]
        return [(each, slice(each.start if self.symmetric else 0, self.size)) for each in rows]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, of half-precision factors, to the float32 total."""
    if a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:  # where the tests are; it has no such product
        total += a.float() @ b.float()
