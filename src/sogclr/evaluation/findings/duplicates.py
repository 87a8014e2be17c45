"""Find near duplicates: samples whose cosine similarity is above a threshold, in groups."""

from dataclasses import dataclass

import numpy as np
import torch

from .neighbours import blocks_of_similarities

__all__ = ["DuplicateGroup", "SimilarPairs", "group_duplicates", "similar_pairs"]

MOST_PAIRS = 200_000  # kept in memory; of a collapsed encoder, all pairs are similar


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of samples above a threshold, most similar first.

    Attributes:
        pairs: `(p, 2)` int64 positions, the smaller one first.
        similarity: `(p,)` float32 cosine similarities.
        found: number of pairs above the threshold; more than p if only the best were kept.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    found: int


@dataclass(frozen=True)
class DuplicateGroup:
    """Samples that are connected by similar pairs.

    Attributes:
        rows: `(m,)` int64 positions, m of at least 2, the most similar pair first.
        similarity: the largest similarity between two of them.
    """

    rows: np.ndarray
    similarity: float


def similar_pairs(vectors: np.ndarray, threshold: float, *, most: int = MOST_PAIRS) -> SimilarPairs:
    """Find all pairs of samples whose cosine similarity is at least the threshold.

    Args:
        vectors: `(n, d)` embeddings, normalized here.
        threshold: the least cosine similarity.
        most: number of pairs that are kept, the most similar ones.
    """
    pairs, similarity = torch.empty(0, 2, dtype=torch.int64), torch.empty(0)
    found = 0
    for start, block in blocks_of_similarities(vectors):
        later = torch.arange(block.shape[1]) > torch.arange(start, start + len(block))[:, None]
        rows, columns = (later & (block >= threshold)).nonzero(as_tuple=True)
        found += len(rows)
        similarity = torch.cat([similarity, block[rows, columns]])
        pairs = torch.cat([pairs, torch.stack([rows + start, columns], dim=1)])
        if len(pairs) > most:
            similarity, order = similarity.topk(most)
            pairs = pairs[order]
    order = similarity.argsort(descending=True, stable=True)
    return SimilarPairs(pairs[order].numpy(), similarity[order].numpy(), found)


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
