"""The features of the last few batches, as further anchors and negatives of the next one.

With the normalizers known, every pair of one row of the batch and one of an earlier batch gives an
estimate of the gradient by the row of the batch, as two rows of the batch do: as anchor it meets
earlier rows as its negatives, and as a negative it meets earlier rows as anchors, each with its own
u. So the average gradient of a small batch stays, and the noise of having met few others goes. What
is earlier is a step or a few old, and takes no gradient itself.

In a queue as MoCo's, which stands for the normalizer, thousands are wanted, and an encoder slow
enough for them. Here the table does that, and some dozens suffice.
"""

from typing import Any

import torch
from torch import Tensor

from .per_sample import PerSample

__all__ = ["FeatureMemory"]


class FeatureMemory(PerSample):
    """The last `size` rows of both sides of earlier batches, and who they are.

    Args:
        size: how many. The width of the vectors, and how many numbers tell who a row is, are
            learned from the first batch.
        dtype: of the vectors.

    Attributes:
        vectors: `(2, size, d)` unit vectors of either side, latest first.
        ids: `(ids, size)` int64.
        filled: `(size,)` bool, which places hold one.

    Raises:
        ValueError: size < 1.
    """

    vectors: Tensor
    ids: Tensor
    filled: Tensor

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"recent must be at least 1 row, or None for none, got {size}")
        self.size = size
        self.register_buffer("vectors", torch.zeros(2, size, 0, dtype=dtype))
        self.register_buffer("ids", torch.zeros(0, size, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))

    def beside(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The batch, then what came before it.

        Args:
            vectors: `(2, B, d)` unit vectors.
            ids: `(ids, B)`.

        Returns:
            `(2, B + size, d)`, `(ids, B + size)`, and which of them there are, `(B + size,)` bool.
        """
        self._fit(vectors, ids)
        here = torch.ones_like(ids[0], dtype=torch.bool)
        return (
            torch.cat([vectors, self.vectors.to(vectors.dtype)], dim=1),
            torch.cat([ids, self.ids], dim=1),
            torch.cat([here, self.filled]),
        )

    @torch.no_grad()
    def put(self, vectors: Tensor, ids: Tensor) -> None:
        """Put a batch in, `(2, B, d)` and `(ids, B)`. What is not finite leaves its place empty."""
        self._fit(vectors, ids)
        finite = vectors.isfinite().all(dim=2).all(dim=0)  # (B,)
        kept = torch.where(finite[:, None], vectors, 0).to(self.vectors.dtype)
        # In place: a CUDA graph reads and writes where it did when it was captured.
        self.vectors.copy_(torch.cat([kept, self.vectors], dim=1)[:, : self.size])
        self.ids.copy_(torch.cat([ids, self.ids], dim=1)[:, : self.size])
        self.filled.copy_(torch.cat([finite, self.filled])[: self.size])

    def _fit(self, vectors: Tensor, ids: Tensor) -> None:
        width = vectors.shape[2]
        if not self.vectors.shape[2]:
            self.vectors = self.vectors.new_zeros(2, self.size, width)
            self.ids = self.ids.new_zeros(len(ids), self.size)
        if len(self.ids) != len(ids):
            raise ValueError("of a loss with recent rows, all batches or none come with keys")
        if self.vectors.shape[2] != width:
            raise ValueError(
                f"the features of earlier batches have width {self.vectors.shape[2]}, "
                f"those of this one {width}"
            )

    def clear(self) -> None:
        """Forget them: where rows are given other numbers."""
        self.filled.zero_()

    def extra_repr(self) -> str:
        return f"{self.size}, {self.vectors.dtype}"

    # The signature of the overridden hook is torch's.
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        vectors, ids = (state_dict.get(prefix + name) for name in ("vectors", "ids"))
        if vectors is not None and vectors.shape[:2] == self.vectors.shape[:2]:
            self.vectors = self.vectors.new_zeros(vectors.shape)
        if ids is not None and ids.shape[1:] == self.ids.shape[1:]:
            self.ids = self.ids.new_zeros(ids.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
