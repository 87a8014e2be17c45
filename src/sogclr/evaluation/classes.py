"""Numbers beside an accuracy: the share of the largest class, each class, the standard error."""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["majority_share", "per_class", "standard_error"]


def majority_share(labels: np.ndarray) -> float:
    """Return the share of the most frequent of labels `(m,)`, integers from 0."""
    return float(np.bincount(labels).max() / len(labels))


def per_class(correct: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of each class that has samples, by its name.

    Args:
        correct: `(m,)` bool, whether each sample was assigned to its own class.
        labels: `(m,)` integers from 0.
        names: name of each label.
    """
    return {names[label]: float(correct[labels == label].mean()) for label in np.unique(labels)}


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a share of `count` independent samples."""
    return math.sqrt(share * (1 - share) / count)
