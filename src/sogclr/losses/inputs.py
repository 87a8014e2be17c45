"""Assemble a batch: unit vectors, positives and ids, of all processes and of the memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distributed.exchange import Shares
from .features import Features, normalize_both
from .memory import FeatureMemory
from .sample_ids import SampleIds

__all__ = [
    "Batch",
    "assemble",
    "check_shapes",
    "count_of",
    "device_of",
    "distinct_ids",
    "without_autocast",
]


@dataclass(frozen=True)
class Batch:
    """The samples that a loss compares: N of this batch, then R of earlier batches.

    Attributes:
        features: the features of this process.
        vectors: `(2, N + R, d)` unit vectors of features a and b of all samples, no graph.
        positive: `(N + R,)` similarity of a and b of each sample, no graph.
        ids: the ids of all N + R samples.
        present: `(N + R,)` bool, False for empty places of the memory; None without a memory.
        shares: how the N samples are divided among processes; None for one process.
    """

    features: Features
    vectors: Tensor
    positive: Tensor
    ids: SampleIds
    present: Tensor | None
    shares: Shares | None

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

    Args:
        a, b: `(n, d)` features, any float dtype.
        ids: the ids of these n samples.
        shares: see `Batch`.
        memory: the features of earlier batches; None for none.
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
    return Batch(features, vectors, (x * y).sum(dim=1), ids, present, shares)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast, so that losses compute in float32 or float64."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def distinct_ids(features: Tensor, shares: Shares | None) -> Tensor:
    """Number the samples of a batch, `(B,)`; numbers differ between processes too."""
    first = 0 if shares is None else shares.own.start
    return torch.arange(first, first + count_of(features), device=device_of(features))


def device_of(features: Tensor) -> torch.device:
    """Return the device of features; raise TypeError unless they are a tensor."""
    if not isinstance(features, Tensor):
        raise TypeError(
            f"features must be tensors (B, d), got {type(features).__name__}: convert them with "
            "torch.as_tensor"
        )
    return features.device


def count_of(features: Tensor) -> int:
    """Return B, the number of samples; raise TypeError unless the features are a tensor."""
    device_of(features)
    return features.shape[0] if features.ndim else 0


def check_shapes(a: Tensor, b: Tensor, *ids: Tensor, shares: Shares | None) -> None:
    """Check the features and ids of a batch.

    Raises:
        ValueError: features are not both `(B, d)`, ids not `(B,)`, or the batch is empty. With
            several processes, the samples of one may be none.
        TypeError: features are no tensors, or complex.
    """
    for features in (a, b):
        device_of(features)  # raises TypeError
    if a.ndim != 2 or a.shape != b.shape or any(index.shape != a.shape[:1] for index in ids):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (a, b, *ids))
        raise ValueError(f"expected features (B, d), (B, d) and ids (B,), got {shapes}")
    if a.is_complex() or b.is_complex():
        raise TypeError(f"features must be real numbers, got {a.dtype} and {b.dtype}")
    if not a.shape[0] and shares is None:
        raise ValueError("the batch is empty: a loss needs at least one sample")
