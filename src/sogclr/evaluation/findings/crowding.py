"""Rank samples by log u: how crowded their neighbourhood was while a run trained."""

import numpy as np

from .neighbours import Neighbours

__all__ = ["align_by_id", "join_regions", "rank_crowding"]


def rank_crowding(log_u: np.ndarray) -> np.ndarray:
    """List samples from the most crowded to the loneliest.

    Args:
        log_u: `(n,)`; samples without a visit are not finite and take no part.

    Returns:
        `(m,)` int64 positions of the samples with a finite log u.
    """
    known = np.flatnonzero(np.isfinite(log_u))
    return known[np.argsort(-log_u[known], kind="stable")]


def align_by_id(ids: np.ndarray, stored_ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Look up values by sample id.

    Args:
        ids: `(n,)` uint64 ids to look up.
        stored_ids: `(m,)` uint64 distinct ids.
        values: `(m,)` floats of the stored ids.

    Returns:
        `(n,)` float64; NaN for ids that are not stored.
    """
    order = np.argsort(stored_ids)
    if not len(order):
        return np.full(len(ids), np.nan)
    place = order[np.searchsorted(stored_ids[order], ids).clip(max=len(order) - 1)]
    return np.where(stored_ids[place] == ids, values[place].astype(np.float64), np.nan)


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
