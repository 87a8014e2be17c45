"""Find near duplicates: neighbours that are the same picture or the same text, in groups."""

from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from .neighbours import Neighbours

__all__ = ["DuplicateGroup", "SimilarPairs", "compare_texts", "group_duplicates", "pair_neighbours"]

NEAREST = 3  # neighbours that may be copies; copies of copies are found through each other


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of samples above a threshold, most similar first.

    Attributes:
        pairs: `(p, 2)` int64 positions, the smaller one first.
        similarity: `(p,)` float32.
    """

    pairs: np.ndarray
    similarity: np.ndarray

    @classmethod
    def above(cls, threshold: float, pairs: np.ndarray, similarity: np.ndarray) -> "SimilarPairs":
        """Take the pairs with at least this similarity, and sort them."""
        chosen = np.flatnonzero(similarity >= threshold)
        order = chosen[np.argsort(-similarity[chosen], kind="stable")]
        return cls(pairs[order], similarity[order])


@dataclass(frozen=True)
class DuplicateGroup:
    """Samples that are connected by similar pairs.

    Attributes:
        rows: `(m,)` int64 positions, m of at least 2, the most similar pair first.
        similarity: the largest similarity between two of them.
    """

    rows: np.ndarray
    similarity: float


def pair_neighbours(neighbours: Neighbours) -> np.ndarray:
    """List each sample with its three nearest neighbours, `(p, 2)` int64, each pair once."""
    near = neighbours.index[:, :NEAREST]
    first = np.repeat(np.arange(len(near)), near.shape[1])
    pairs = np.sort(np.stack([first, near.ravel()], axis=1), axis=1)
    return np.unique(pairs, axis=0) if len(pairs) else pairs


def compare_texts(texts: list[str], pairs: np.ndarray) -> np.ndarray:
    """Compute which share of the words of two texts is the same and in the same order.

    Args:
        texts: n texts; case plays no part.
        pairs: `(p, 2)` int64 positions.

    Returns:
        `(p,)` float32 in [0, 1].
    """
    words = [text.casefold().split() for text in texts]
    ratios = [SequenceMatcher(None, words[i], words[j], autojunk=False).ratio() for i, j in pairs]
    return np.array(ratios, dtype=np.float32)


def group_duplicates(similar: SimilarPairs, samples: int) -> list[DuplicateGroup]:
    """Group samples that similar pairs connect; groups with the most similar pair come first.

    Args:
        similar: pairs above the threshold.
        samples: number of all samples.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(similar.pairs):
        return []
    first, second = similar.pairs.T
    links = coo_array((np.ones(len(first), dtype=bool), (first, second)), (samples, samples))
    _, group = connected_components(links, directed=False)  # (samples,)
    # Pairs are sorted, so members come in the order of their most similar pair.
    found, place = np.unique(similar.pairs.ravel(), return_index=True)
    members = found[np.argsort(place)]
    groups: dict[int, list[int]] = {}
    for member, number in zip(members.tolist(), group[members].tolist(), strict=True):
        groups.setdefault(number, []).append(member)
    best = dict(zip(group[first][::-1].tolist(), similar.similarity[::-1].tolist(), strict=True))
    return [DuplicateGroup(np.array(rows), best[number]) for number, rows in groups.items()]
