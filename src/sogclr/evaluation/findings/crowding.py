"""Rank samples by log u: how crowded their neighbourhood was while a run trained."""

import numpy as np

from .neighbours import Neighbours

__all__ = ["join_regions", "rank_crowding"]


def rank_crowding(log_u: np.ndarray) -> np.ndarray:
    """List samples from the most crowded to the loneliest.

    Args:
        log_u: `(n,)`; samples without a visit are not finite and take no part.

    Returns:
        `(m,)` int64 positions of the samples with a finite log u.
    """
    known = np.flatnonzero(np.isfinite(log_u))
    return known[np.argsort(-log_u[known], kind="stable")]


def join_regions(samples: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """Number the regions that samples form: samples with a common region are connected neighbours.

    Args:
        samples: `(m,)` int64 positions among the n samples.
        neighbours: the nearest neighbours of the n samples.

    Returns:
        `(m,)` int64 region of each of them, from 0 in the order of `samples`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    near = neighbours.index[samples]  # (m, k)
    first = np.repeat(np.arange(len(samples)), near.shape[1])
    place = np.full(len(neighbours.index), -1)
    place[samples] = np.arange(len(samples))
    second = place[near.ravel()]
    first, second = first[second >= 0], second[second >= 0]
    size = (len(samples), len(samples))
    links = coo_array((np.ones(len(first), dtype=bool), (first, second)), size)
    _, region = connected_components(links, directed=False)
    _, number = np.unique(region, return_index=True)
    return np.argsort(np.argsort(number))[region]
