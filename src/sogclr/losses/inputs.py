"""Gather what a loss is given, of all processes and of the memory: vectors, positives and ids."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distributed.exchange import Shares, agree
from . import torch_versions
from .memory import FeatureMemory
from .sample_ids import SampleIds

__all__ = [
    "Batch",
    "Features",
    "assemble",
    "check_shapes",
    "distinct_ids",
    "normalize_both",
    "receive",
    "stack_wide",
    "through_normalization",
    "without_autocast",
]

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


@dataclass(frozen=True)
class Batch:
    """The samples that a loss compares: N of this batch, then R of earlier batches.

    Attributes:
        features: the features of this process.
        vectors: `(2, N + R, d)` unit vectors of features a and b of all samples, no graph.
        positive: `(N + R,)` similarity of a and b of each sample, no graph.
        ids: the ids of all N + R samples.
        present: `(N + R,)` bool, False for empty places of the memory; None without a memory.
    """

    features: Features
    vectors: Tensor
    positive: Tensor
    ids: SampleIds
    present: Tensor | None

    @property
    def shares(self) -> Shares | None:
        return self.features.shares

    @property
    def fresh(self) -> int:
        """Return N, the number of samples of this batch, on all processes."""
        return self.features.unit.shape[1] if self.shares is None else self.shares.total

    @property
    def alone(self) -> bool:
        """Return whether there are no other processes and no memory."""
        return self.shares is None and self.present is None

    def fresh_first(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate values `(N + R, ...)` of a and of b: those of this batch come first."""
        if len(a) == self.fresh:
            return torch.cat([a, b])
        return torch.cat([a[: self.fresh], b[: self.fresh], a[self.fresh :], b[self.fresh :]])


def assemble(
    a: Tensor, b: Tensor, ids: SampleIds, shares: Shares | None, memory: FeatureMemory | None
) -> Batch:
    """Gather the batch from all processes, append the memory, and store the batch in the memory.

    a and b are `(n, d)` features of any float dtype, `ids` those of their n samples.
    """
    own, length = normalize_both(a, b)  # (2, n, d)
    x, y = own.unbind()
    features = Features((a, b), own, length, (y, x), mutual=True, shares=shares)
    vectors, present = own, None
    if shares is not None or memory is not None:
        stacked = ids.stacked()
        if shares is not None:
            vectors, stacked = shares.gather(own, dim=1), shares.gather(stacked, dim=1)
        if memory is not None:
            latest = vectors, stacked
            vectors, stacked, present = memory.append_to(*latest)
            memory.store(*latest)
        ids = ids.unstacked(stacked)
        x, y = vectors.unbind()
    return Batch(features, vectors, (x * y).sum(dim=1), ids, present)


def normalize_both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Divide features a and b `(n, d)` by their lengths, without graph, in float32 or float64.

    Return unit vectors `(2, n, d)` and lengths `(2, n, 1)`.
    """
    stacked = stack_wide(a.detach(), b.detach())
    length = torch.linalg.vector_norm(stacked, dim=-1, keepdim=True).clamp_(min=EPSILON)
    return stacked.div_(length), length


def through_normalization(by_unit: Tensor, unit: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradient by features from that by unit vectors; `by_unit` is overwritten."""
    radial = (by_unit * unit).sum(dim=-1, keepdim=True)
    by_a, by_b = by_unit.addcmul_(unit, radial, value=-1).div_(length)
    return by_a, by_b


def stack_wide(a: Tensor, b: Tensor) -> Tensor:
    """Stack features a and b, `(n, d)` each, in float64 if both have it, else in float32."""
    double = a.dtype == b.dtype == torch.float64
    return torch.stack([a, b] if double else [a.float(), b.float()])  # (2, n, d)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast, so that losses compute in float32 or float64."""
    if torch_versions.autocasts(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def receive(features: Tensor, process_group: Any) -> tuple[torch.device, Shares | None]:
    """Return the device of features, and the division of the batch among processes."""
    _require_tensor(features)
    return features.device, agree(process_group, features.shape[:1].numel())


def distinct_ids(features: Tensor, shares: Shares | None) -> Tensor:
    """Number the samples of a batch, `(B,)`; numbers differ between processes too."""
    first = 0 if shares is None else shares.own.start
    return torch.arange(first, first + features.shape[:1].numel(), device=features.device)


def check_shapes(a: Tensor, b: Tensor, *ids: Tensor, shares: Shares | None) -> None:
    """Refuse features that are not both real `(B, d)`, ids that are not `(B,)`, and empty batches.

    With several processes, the samples of one may be none.
    """
    for features in (a, b):
        _require_tensor(features)
    if a.ndim != 2 or a.shape != b.shape or any(index.shape != a.shape[:1] for index in ids):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (a, b, *ids))
        raise ValueError(f"expected features (B, d), (B, d) and ids (B,), got {shapes}")
    if a.is_complex() or b.is_complex():
        raise TypeError(f"features must be real numbers, got {a.dtype} and {b.dtype}")
    if not a.shape[0] and shares is None:
        raise ValueError("the batch is empty: a loss needs at least one sample")


def _require_tensor(features: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(
            f"features must be tensors (B, d), got {type(features).__name__}: convert them with "
            "torch.as_tensor"
        )
