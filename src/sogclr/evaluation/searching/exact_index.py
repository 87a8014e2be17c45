"""Find the vectors nearest to a query by comparing it with all of them."""

from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["ExactIndex", "Hits"]

BLOCK = 65_536  # vectors at once: what is copied of a mapped file stays small


@dataclass(frozen=True)
class Hits:
    """The samples nearest to a query, nearest first.

    Attributes:
        rows: `(k,)` int64 rows of the samples.
        similarity: `(k,)` float32 cosine similarities with the query.
    """

    rows: np.ndarray
    similarity: np.ndarray


class ExactIndex:
    """Vectors that are compared one by one.

    Args:
        vectors: `(n, d)` float32 of any length, in memory or mapped from a file; NaN in rows of
            samples that could not be read, which are never found.
    """

    is_exact = True

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self._scale = _inverse_lengths(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def unit(self, row: int) -> np.ndarray | None:
        """Return the unit vector `(d,)` of a sample; None if it could not be read."""
        scale = self._scale[row]
        return None if np.isnan(scale) else np.asarray(self.vectors[row]) * scale

    def nearest(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> Hits:
        """Find the samples nearest to a query.

        Args:
            query: unit vector `(d,)`.
            count: number of samples; fewer if there are not as many.
            rows: `(m,)` rows in ascending order, which alone are searched. Default: all.
        """
        if rows is None:
            similarity = self.vectors @ query * self._scale  # (n,)
        else:
            similarity = self._compare(query, rows)  # (m,)
        return _select_best(similarity, count, rows)

    def _compare(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the similarities of some rows with the query, `(m,)`."""
        parts = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        found = [self.vectors[part] @ query * self._scale[part] for part in parts]
        return np.concatenate(found) if found else np.empty(0, dtype=np.float32)


def _inverse_lengths(vectors: np.ndarray) -> np.ndarray:
    """Return what makes unit vectors `(n,)`: NaN for NaN, and 0 for a vector of zeros."""
    lengths = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        lengths[start : start + BLOCK] = np.sqrt(np.einsum("nd,nd->n", block, block))
    return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths != 0)


def _select_best(similarity: np.ndarray, count: int, rows: np.ndarray | None) -> Hits:
    """Select the largest similarities; of equal ones the first; NaN is left out."""
    values = torch.from_numpy(np.nan_to_num(similarity.astype(np.float32), nan=-np.inf))
    best = values.topk(min(count, len(values))).indices.numpy()
    best = best[np.isfinite(values[best].numpy())]
    best = best[np.lexsort((best, -similarity[best]))]
    return Hits(best if rows is None else rows[best], similarity[best].astype(np.float32))
