"""The memory: features of earlier batches that join a batch as negatives and as anchors.

A feature of the batch gets gradient from earlier features in two ways. As an anchor, it has them
among its negatives. As a negative, it is in the log-sum-exps of earlier anchors, each of which has
its own u in the table. Both estimate the same gradient as features of the batch do, so the mean of
the gradient stays, and the noise of few negatives falls. Earlier features are a few steps old and
get no gradient.

MoCo estimates the whole normalizer from its queue, so it needs thousands of keys and an encoder
that changes slowly. Here the table has the normalizers, so dozens of samples suffice.
"""

from typing import Any

import torch
from torch import Tensor

from .per_sample import PerSample, require_forward_pass

__all__ = ["FeatureMemory"]


class FeatureMemory(PerSample):
    """Features a and b of the latest samples (two views, or the two sides of pairs), with ids.

    The first batch sets the width d of the features and the number L of ids per sample.

    Attributes:
        vectors: `(2, size, d)` unit vectors of a and b, latest first.
        ids: `(L, size)` int64, see `SampleIds.stacked`.
        filled: `(size,)` bool, whether a place holds a sample.
    """

    vectors: Tensor
    ids: Tensor
    filled: Tensor

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory_size must be at least 1, or None for no memory, got {size}")
        self.size = size
        self.register_state("vectors", torch.zeros(2, size, 0, dtype=dtype))
        self.register_state("ids", torch.zeros(0, size, dtype=torch.int64))
        self.register_state("filled", torch.zeros(size, dtype=torch.bool))

    def append_to(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append the memory to unit vectors `(2, B, d)` and ids `(L, B)` of a batch.

        Also return whether each sample exists, `(B + size,)` bool.
        """
        require_forward_pass()
        self._fit(vectors, ids)
        earlier = self.vectors.to(vectors.dtype)
        present = torch.ones_like(ids[0], dtype=torch.bool)
        return (
            torch.cat([vectors, earlier], dim=1),
            torch.cat([ids, self.ids], dim=1),
            torch.cat([present, self.filled]),
        )

    @torch.no_grad()
    def store(self, vectors: Tensor, ids: Tensor) -> None:
        """Store unit vectors `(2, B, d)` and ids `(L, B)` over the oldest samples.

        A sample with a value that is not finite leaves its place empty.
        """
        self._fit(vectors, ids)
        finite = vectors.isfinite().all(dim=2).all(dim=0)  # (B,)
        kept = torch.where(finite[:, None], vectors, 0).to(self.vectors.dtype)
        # Copy in place: a captured CUDA graph reads and writes fixed addresses.
        self.vectors.copy_(torch.cat([kept, self.vectors], dim=1)[:, : self.size])
        self.ids.copy_(torch.cat([ids, self.ids], dim=1)[:, : self.size])
        self.filled.copy_(torch.cat([finite, self.filled])[: self.size])

    def clear(self) -> None:
        """Remove all samples, before training on data with other samples in the rows."""
        self.filled.zero_()

    def extra_repr(self) -> str:
        return f"{self.size}, {self.vectors.dtype}"

    def _fit(self, vectors: Tensor, ids: Tensor) -> None:
        """Allocate the tensors at the first batch; raise ValueError if a later one differs."""
        width = vectors.shape[2]
        if not self.vectors.shape[2]:
            self.vectors = self.vectors.new_zeros(2, self.size, width)
            self.ids = self.ids.new_zeros(len(ids), self.size)
        if len(self.ids) != len(ids):
            raise ValueError("with memory_size, pass sample keys with every batch, or none at all")
        if self.vectors.shape[2] != width:
            raise ValueError(
                f"features of earlier batches, in the memory, have width {self.vectors.shape[2]}, "
                f"features of this batch have {width}"
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # torch copies into tensors of equal shape only: take the shape of the saved ones.
        vectors, ids = (state_dict.get(prefix + name) for name in ("vectors", "ids"))
        if vectors is not None and vectors.shape[:2] == self.vectors.shape[:2]:
            self.vectors = self.vectors.new_zeros(vectors.shape)
        if ids is not None and ids.shape[1:] == self.ids.shape[1:]:
            self.ids = self.ids.new_zeros(ids.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
