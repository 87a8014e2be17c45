"""Similarities of half-precision features on a GPU, in tiles that never leave it.

`fused_launch` forms similarities once for the sums and once more for the gradient by the inner
products of features, q. q is written in half precision, as many rows at a time as `STRIP` has room
for, and multiplied with the features by cuBLAS. Beside float32's, rounding q is the only rounding;
it differs from entry to entry and averages out.
"""

import torch
from torch import Tensor

from . import fused_launch
from .fused_launch import LOG2E, Operand
from .similarities import LogSumExp, Similarities

__all__ = ["Fused"]

# Entries of q that exist at once, 128 MB.
STRIP = 2**26
# Rows that one launch sums over; the partial sums of its tiles take 1/32 of its matrix.
SUMMED = 2**14
EPSILON = 1e-12  # as torch.nn.functional.normalize


class Fused(Similarities):
    """Tiles formed by Triton kernels from features as they are, before normalization.

    Args:
        units: `(M, d)` float32 unit rows of each side, by which gradients are taken. One for two
            views, whose columns are the rows once more; two for pairs.
        features: the same rows as bfloat16 or float16 features, not normalized.
        identities: `(M,)` int64 each, of rows and columns; entries with an equal one are no
            negatives.
        shift: see `Similarities`.
    """

    def __init__(
        self,
        units: tuple[Tensor, ...],
        features: tuple[Tensor, ...],
        identities: list[Tensor],
        shift: bool,
    ) -> None:
        self.inputs, self.shift = units, shift
        self.sides, self.size, self.symmetric = len(units), len(units[0]), len(units) == 1
        self.features = [each.detach().contiguous() for each in features]
        norms = [torch.linalg.vector_norm(each.float(), dim=1) for each in self.features]
        self.lengths = [norm.clamp(min=EPSILON) for norm in norms]
        self.identities = torch.stack(identities)

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        # A tensor on the device: another number for an exponent would be another kernel.
        one = self.lengths[0].new_full((), 1.0)
        sharpness = (LOG2E / tau * one).expand(self.sides, self.size)
        operands = [
            Operand(features, 1 / length, own, self.identities)
            for features, length, own in zip(self.features, self.lengths, sharpness, strict=True)
        ]
        self.rows, self.columns = operands[0], operands[-1]
        log_sum = one.new_full((self.sides, self.size), -torch.inf if self.shift else 0.0)
        count, mean = torch.zeros_like(log_sum), torch.zeros_like(log_sum) if means else None
        for rows, columns in self._strips(SUMMED):
            parts = fused_launch.sums(
                self.rows[rows], self.columns[columns], self.shift, self.symmetric, means
            )
            for side, places, (values, numbers, *weighed) in (
                (0, rows, parts[0]),
                (-1, columns, parts[1]),
            ):
                count[side, places] += numbers.sum(dim=0)
                self._add(log_sum[side, places], values, mean, (side, places), weighed)
        if mean is not None:
            mean = mean / LOG2E
            mean = mean if self.shift else mean / log_sum.clamp(min=torch.finfo(mean.dtype).tiny)
        return LogSumExp(log_sum if self.shift else log_sum.log(), count, mean)

    def _add(
        self,
        log_sum: Tensor,
        values: Tensor,
        mean: Tensor | None,
        where: tuple[int, slice],
        weighed: list[Tensor],
    ) -> None:
        """Add the parts `(T, m)` of a launch to sums, or to log-sum-exps and running means."""
        if not self.shift:
            log_sum += values.sum(dim=0)
            if mean is not None:
                mean[where] += weighed[0].sum(dim=0)
            return
        after = torch.logaddexp(log_sum, values.logsumexp(dim=0))
        if mean is not None:
            finite = after.masked_fill(after == -torch.inf, 0)
            mean[where] *= (log_sum - finite).exp()
            mean[where] += (weighed[0] * (values - finite).exp()).sum(dim=0)
        log_sum.copy_(after)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, 0)
        scale = self._scale(weight)
        weight = weight if scale is None else weight * scale
        weight = weight if self.shift else weight * (-log_sum).exp()
        logs = log_sum * LOG2E if self.shift else None
        gradients = [torch.zeros_like(unit) for unit in self.inputs]
        for rows, columns in self._strips(STRIP // self.size):
            q = fused_launch.by_products(
                self.rows[rows],
                self.columns[columns],
                (weight[0, rows], weight[-1, columns]),
                None if logs is None else (logs[0, rows], logs[-1, columns]),
            )
            _add_product(gradients[0][rows], q, self.columns.features[columns])
            # Of a symmetric matrix, the columns that are not among the rows of this strip.
            mirrored = rows.stop - rows.start if self.symmetric else 0
            rest = slice(columns.start + mirrored, self.size)
            if rest.start < rest.stop:
                _add_product(gradients[-1][rest], q[:, mirrored:].T, self.rows.features[rows])
        # q is the gradient by products of features: by a unit row it is `length` times as large.
        lengths = self.lengths if scale is None else [length / scale for length in self.lengths]
        return tuple(g.mul_(length[:, None]) for g, length in zip(gradients, lengths, strict=True))

    def _scale(self, weight: Tensor) -> Tensor | None:
        """Compute what brings the largest of q near the top of float16, so that few vanish.

        bfloat16 has the range of float32 and needs no scale.
        """
        if self.rows.features.dtype == torch.bfloat16:
            return None
        largest = weight.amax() * 2 * self.rows.inverse.amax() * self.columns.inverse.amax()
        return 2.0**14 / largest.clamp(min=2.0**-100)

    def _strips(self, height: int) -> list[tuple[slice, slice]]:
        """List the rows and columns of each strip; of a symmetric matrix, from the diagonal on."""
        height = max(fused_launch.ROWS, height // fused_launch.ROWS * fused_launch.ROWS)
        rows = [slice(top, min(top + height, self.size)) for top in range(0, self.size, height)]
        return [(each, slice(each.start if self.symmetric else 0, self.size)) for each in rows]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, of half-precision factors, to the float32 total."""
    if a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:  # the interpreter's tests; a CPU has no product of mixed types
        total += a.float() @ b.float()
