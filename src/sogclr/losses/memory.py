"""The features of the last few batches, as further anchors and negatives of the next one.

With known normalizers, every pair of one feature of the batch and one of an earlier batch gives an
estimate of the gradient by the feature of the batch, as two features of the batch do: as an anchor
it has earlier features among its negatives, and it is a negative of earlier anchors, each with its
own u. So the average gradient of a small batch stays, and the noise of few negatives goes. Earlier
features are a few steps old and take no gradient.

MoCo's queue stands for the normalizer, so it holds thousands of keys and needs a slow encoder. Here
the table is the normalizer, and some dozens suffice.
"""

from typing import Any

import torch
from torch import Tensor

from .per_sample import PerSample

__all__ = ["FeatureMemory"]


class FeatureMemory(PerSample):
    """The features of the last samples, of both sides, with their ids.

    Args:
        size: number of samples. The width of the features and the number of ids of a sample are
            those of the first batch.
        dtype: of the features.

    Attributes:
        vectors: `(2, size, d)` unit rows of either side, latest first.
        ids: `(ids, size)` int64.
        filled: `(size,)` bool, places that hold a sample.

    Raises:
        ValueError: size < 1.
    """

    vectors: Tensor
    ids: Tensor
    filled: Tensor

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory_size must be at least 1, or None for no memory, got {size}")
        self.size = size
        self.register_buffer("vectors", torch.zeros(2, size, 0, dtype=dtype))
        self.register_buffer("ids", torch.zeros(0, size, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))

    def append_to(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Append the memory to a batch.

        Args:
            vectors: `(2, B, d)` unit rows.
            ids: `(ids, B)`.

        Returns:
            The memory's rows `(2, size, d)`; rows `(2, B + size, d)`, ids `(ids, B + size)` and
            which of them exist, `(B + size,)` bool.
        """
        self._fit(vectors, ids)
        earlier = self.vectors.to(vectors.dtype)
        present = torch.ones_like(ids[0], dtype=torch.bool)
        return (
            earlier,
            torch.cat([vectors, earlier], dim=1),
            torch.cat([ids, self.ids], dim=1),
            torch.cat([present, self.filled]),
        )

    @torch.no_grad()
    def store(self, vectors: Tensor, ids: Tensor) -> None:
        """Store a batch, `(2, B, d)` and `(ids, B)`; features that are not finite stay out."""
        self._fit(vectors, ids)
        finite = vectors.isfinite().all(dim=2).all(dim=0)  # (B,)
        kept = torch.where(finite[:, None], vectors, 0).to(self.vectors.dtype)
        # In place: a CUDA graph reads and writes the memory with which it was captured.
        self.vectors.copy_(torch.cat([kept, self.vectors], dim=1)[:, : self.size])
        self.ids.copy_(torch.cat([ids, self.ids], dim=1)[:, : self.size])
        self.filled.copy_(torch.cat([finite, self.filled])[: self.size])

    def clear(self) -> None:
        """Forget all samples: for data in which rows belong to other samples."""
        self.filled.zero_()

    def extra_repr(self) -> str:
        return f"{self.size}, {self.vectors.dtype}"

    def _fit(self, vectors: Tensor, ids: Tensor) -> None:
        width = vectors.shape[2]
        if not self.vectors.shape[2]:
            self.vectors = self.vectors.new_zeros(2, self.size, width)
            self.ids = self.ids.new_zeros(len(ids), self.size)
        if len(self.ids) != len(ids):
            raise ValueError("a loss with a memory needs keys with every batch or with none")
        if self.vectors.shape[2] != width:
            raise ValueError(
                f"the features of earlier batches have width {self.vectors.shape[2]}, "
                f"those of this batch {width}"
            )

    # The signature of the overridden hook is torch's.
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        vectors, ids = (state_dict.get(prefix + name) for name in ("vectors", "ids"))
        if vectors is not None and vectors.shape[:2] == self.vectors.shape[:2]:
            self.vectors = self.vectors.new_zeros(vectors.shape)
        if ids is not None and ids.shape[1:] == self.ids.shape[1:]:
            self.ids = self.ids.new_zeros(ids.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
