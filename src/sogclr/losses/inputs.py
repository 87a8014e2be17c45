"""Assemble a batch: unit vectors, positives and ids, of all processes and of the memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed.exchange import Shares
from .first_order import first_order_only
from .memory import FeatureMemory
from .sample_ids import SampleIds

__all__ = [
    "Batch",
    "assemble",
    "check_shapes",
    "distinct_ids",
    "unit_rows",
    "without_autocast",
]

EPSILON = 1e-12  # as torch.nn.functional.normalize


@dataclass(frozen=True)
class Batch:
    """The samples that a loss compares: N of this batch, then R of earlier batches.

    Attributes:
        features: `(n, d)` of either side as given, n samples of this process.
        own: `(2, n, d)` unit vectors of this process, with graph.
        rows: `(2, N + R, d)` unit vectors of all samples; with graph in one process.
        positive: `(N + R,)` similarity of the two sides of each sample, with graph.
        ids: of all N + R.
        present: `(N + R,)` bool, samples that exist; None for all.
        shares: how the N samples are divided among processes; None in one process.
    """

    features: tuple[Tensor, Tensor]
    own: Tensor
    rows: Tensor
    positive: Tensor
    ids: SampleIds
    present: Tensor | None
    shares: Shares | None

    @property
    def fresh(self) -> int:
        """N, the number of samples of this batch."""
        return self.own.shape[1] if self.shares is None else self.shares.total

    @property
    def alone(self) -> bool:
        """Return whether there are no other processes and no earlier batches."""
        return self.shares is None and self.present is None

    def fresh_first(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate numbers of both sides `(N + R, ...)`: those of this batch come first."""
        if len(a) == self.fresh:
            return torch.cat([a, b])
        return torch.cat([a[: self.fresh], b[: self.fresh], a[self.fresh :], b[self.fresh :]])


def assemble(
    a: Tensor, b: Tensor, ids: SampleIds, shares: Shares | None, memory: FeatureMemory | None
) -> Batch:
    """Gather the batch from all processes, append the memory, and store the batch in the memory.

    Args:
        a, b: `(n, d)` features of either side, any float dtype.
        ids: of these n samples.
        shares: see `Batch`.
        memory: features of earlier batches; None for none.
    """
    own, positive = unit_rows(a, b)  # (2, n, d), (n,)
    if shares is None and memory is None:
        return Batch((a, b), own, own, positive, ids, None, None)
    rows, stacked, present = own, ids.stacked(), None
    if shares is not None:
        rows, stacked = shares.gather(own, dim=1), shares.gather(stacked, dim=1)
        positive = shares.attach((rows[0] * rows[1]).sum(dim=1), positive)
    if memory is not None:
        latest = rows, stacked
        earlier, rows, stacked, present = memory.append_to(*latest)
        positive = torch.cat([positive, (earlier[0] * earlier[1]).sum(dim=1)])
        memory.store(*latest)
    return Batch((a, b), own, rows, positive, ids.unstacked(stacked), present, shares)


class _UnitRows(torch.autograd.Function):
    """Normalize in fewer operations than torch.nn.functional.normalize, for small batches."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.stack([a, b])  # (2, n, d)
        length = torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp_(min=EPSILON)
        unit = features.div_(length)
        ctx.save_for_backward(unit, length)
        x, y = unit.unbind()
        return unit, (x * y).sum(dim=1)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, by_unit: Tensor, by_positive: Tensor) -> tuple[Tensor, ...]:
        unit, length = ctx.saved_tensors
        x, y = unit.unbind()
        gradient, by_positive = by_unit.clone(), by_positive[:, None]
        gradient[0].addcmul_(y, by_positive)
        gradient[1].addcmul_(x, by_positive)
        radial = torch.linalg.vecdot(gradient, unit).unsqueeze(-1)
        return gradient.addcmul_(unit, radial, value=-1).div_(length).unbind()


def unit_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize the features of both sides, `(n, d)` each, in float32 or float64.

    Returns:
        `(2, n, d)` unit vectors; and `(n,)` the similarity of each row of `a` to that of `b`.
    """
    double = a.dtype == b.dtype == torch.float64
    return _UnitRows.apply(a, b) if double else _UnitRows.apply(a.float(), b.float())


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast, so that losses compute in float32 or float64."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def distinct_ids(features: Tensor, shares: Shares | None) -> Tensor:
    """Number the samples of a batch that has no ids, all different on all processes, `(B,)`."""
    first = 0 if shares is None else shares.own.start
    return torch.arange(first, first + len(features), device=features.device)


def check_shapes(a: Tensor, b: Tensor, *ids: Tensor) -> None:
    """Check the features and ids of a batch.

    Raises:
        ValueError: features are not `(B, d)` twice, ids not `(B,)`, or the batch is empty. A batch
            that processes share may be empty in some of them.
        TypeError: features are complex.
    """
    if a.ndim != 2 or a.shape != b.shape or any(index.shape != a.shape[:1] for index in ids):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (a, b, *ids))
        raise ValueError(f"expected features (B, d), (B, d) and ids (B,), got {shapes}")
    if a.is_complex() or b.is_complex():
        raise TypeError(f"features must be real numbers, got {a.dtype} and {b.dtype}")
    if not a.shape[0] and not (dist.is_available() and dist.is_initialized()):
        raise ValueError("the batch is empty: a loss needs at least one sample")
