"""Find outliers: samples that are far from all others."""

import numpy as np

from .neighbours import Neighbours

__all__ = ["far_above", "measure_distance"]

FAR = 3.5  # robust standard deviations above the median (Iglewicz and Hoaglin, 1993)


def measure_distance(neighbours: Neighbours) -> np.ndarray:
    """Return the mean cosine distance of each sample to its nearest neighbours, `(n,)` float64.

    Args:
        neighbours: the k nearest neighbours of each of n samples.
    """
    if not neighbours.similarity.shape[1]:
        return np.zeros(len(neighbours.similarity))
    return 1 - neighbours.similarity.mean(axis=1, dtype=np.float64)


def far_above(values: np.ndarray) -> np.ndarray:
    """List the values that are far above the others, the largest first.

    Far is 3.5 standard deviations above the median, estimated from the median distance to it, on
    which the outliers themselves have no influence.

    Args:
        values: `(n,)`; values that are not finite take no part.

    Returns:
        `(m,)` int64 positions; empty if all values are usual ones.
    """
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return known
    middle = np.median(values[known])
    spread = np.median(np.abs(values[known] - middle)) / 0.6745
    above = known[values[known] > middle + FAR * max(spread, 1e-9)]
    return above[np.argsort(-values[above], kind="stable")]
