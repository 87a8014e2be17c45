"""Find the nearest neighbours of samples by cosine similarity, exactly, in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["Neighbours", "blocks_of_similarities", "nearest_neighbours"]

BLOCK = 1_024  # rows of similarities at once: 400 MB for 100,000 samples


@dataclass(frozen=True)
class Neighbours:
    """The nearest other samples of each of n samples, nearest first.

    Attributes:
        index: `(n, k)` int64 positions.
        similarity: `(n, k)` float32 cosine similarities.
    """

    index: np.ndarray
    similarity: np.ndarray


def nearest_neighbours(vectors: np.ndarray, k: int) -> Neighbours:
    """Find the k nearest neighbours of each sample among all others.

    Args:
        vectors: `(n, d)` embeddings, normalized here.
        k: number of neighbours; fewer samples lower it to n - 1.
    """
    k = max(0, min(k, len(vectors) - 1))
    index = np.empty((len(vectors), k), dtype=np.int64)
    similarity = np.empty((len(vectors), k), dtype=np.float32)
    for start, block in blocks_of_similarities(vectors):
        block.diagonal(start).fill_(-torch.inf)
        values, places = block.topk(k, dim=1)
        index[start : start + len(block)] = places.numpy()
        similarity[start : start + len(block)] = values.numpy()
    return Neighbours(index, similarity)


def blocks_of_similarities(vectors: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Compute the cosine similarities of all samples, some rows at a time.

    Args:
        vectors: `(n, d)` embeddings, normalized here.

    Yields:
        The first row of a block, and the block `(b, n)`, which the caller may change.
    """
    units = normalize(torch.from_numpy(np.asarray(vectors)).float(), dim=1)
    for start in range(0, len(units), BLOCK):
        yield start, units[start : start + BLOCK] @ units.T
