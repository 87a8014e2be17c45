"""Similarities of half-precision features on a GPU, by Triton kernels.

The kernels of `fused_launch` compute similarities twice and do not store them: first for the sums,
then for q, the gradient by the inner products of features. q is stored in half precision, in strips
of up to `STRIP` entries, and cuBLAS multiplies each strip with the features. Only q is rounded to
less than float32; its errors vary from entry to entry and average out.
"""

import torch
from torch import Tensor

from . import fused_launch
from .fused_launch import LOG2E, Operand
from .similarities import LogSumExp, Similarities, add_shifted

__all__ = ["Fused"]

# Entries of q that exist at a time, 128 MB.
STRIP = 2**26
# Rows of one launch for sums; the partial sums of its tiles take 1/32 of the size of its matrix.
SUMMED = 2**14


class Fused(Similarities):
    """Similarities, computed by Triton kernels from features before normalization.

    Args:
        features: `(M, d)` bfloat16 or float16 features of each side: two tensors for pairs, one
            for two views.
        lengths: `(M,)` float32 of each side, by which the features are divided.
        identities: `(M,)` int64 each; entries with an equal one are no negatives.
        shift: see `needs_shift`.
    """

    def __init__(
        self,
        features: tuple[Tensor, ...],
        lengths: tuple[Tensor, ...],
        identities: list[Tensor],
        shift: bool,
    ) -> None:
        self.features = [each.detach().contiguous() for each in features]
        self.lengths, self.identities, self.shift = lengths, torch.stack(identities), shift
        self.sides, self.size, self.symmetric = len(features), len(features[0]), len(features) == 1

    def sums(self, tau: float | Tensor, means: bool) -> LogSumExp:
        # Pass tau as a tensor, so that another tau does not compile another kernel.
        one = self.lengths[0].new_full((), 1.0)
        sharpness = (LOG2E / tau * one).expand(self.sides, self.size)
        operands = [
            Operand(features, 1 / length, own, self.identities)
            for features, length, own in zip(self.features, self.lengths, sharpness, strict=True)
        ]
        self.rows, self.columns = operands[0], operands[-1]
        total = one.new_full((self.sides, self.size), -torch.inf if self.shift else 0.0)
        count, mean = torch.zeros_like(total), torch.zeros_like(total) if means else None
        for rows, columns in self._strips(SUMMED):
            parts = fused_launch.sums(
                self.rows[rows], self.columns[columns], self.shift, self.symmetric, means
            )
            for at, (values, counts, *weighted) in zip(
                ((0, rows), (-1, columns)), parts, strict=True
            ):
                count[at] += counts.sum(dim=0)
                own = None if mean is None else mean[at]
                if self.shift:
                    add_shifted(total[at], own, values, weighted[0] if means else values, dim=0)
                    continue
                total[at] += values.sum(dim=0)
                if own is not None:
                    own += weighted[0].sum(dim=0)
        if mean is not None:
            mean = mean / LOG2E
            mean = mean if self.shift else mean / total.clamp(min=torch.finfo(mean.dtype).tiny)
        return LogSumExp(total if self.shift else total.log(), count, mean)

    def gradients(self, log_sum: Tensor, weight: Tensor) -> Tensor:
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, 0)
        scale = self._scale(weight)
        weight = weight if scale is None else weight * scale
        weight = weight if self.shift else weight * (-log_sum).exp()
        logs = log_sum * LOG2E if self.shift else None
        gradients = weight.new_zeros(self.sides, *self.features[0].shape)
        for rows, columns in self._strips(STRIP // self.size):
            q = fused_launch.by_products(
                self.rows[rows],
                self.columns[columns],
                (weight[0, rows], weight[-1, columns]),
                None if logs is None else (logs[0, rows], logs[-1, columns]),
            )
            _add_product(gradients[0][rows], q, self.columns.features[columns])
            # In a symmetric matrix, skip the columns that are rows of this strip.
            mirrored = rows.stop - rows.start if self.symmetric else 0
            rest = slice(columns.start + mirrored, self.size)
            if rest.start < rest.stop:
                _add_product(gradients[-1][rest], q[:, mirrored:].T, self.rows.features[rows])
        # q is the gradient by products of raw features: by a unit vector it is `length` times that.
        lengths = torch.stack(list(self.lengths)).unsqueeze(-1)  # (S, M, 1)
        return gradients.mul_(lengths if scale is None else lengths / scale)

    def _scale(self, weight: Tensor) -> Tensor | None:
        """Compute the factor that brings the largest q near the top of float16's range.

        Without it, many entries would underflow. None for bfloat16, which has float32's range.
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
    """Add a @ b, both in half precision, to the float32 total."""
    if a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:  # tests with Triton's interpreter: on a CPU addmm has no `out_dtype`
        total += a.float() @ b.float()
