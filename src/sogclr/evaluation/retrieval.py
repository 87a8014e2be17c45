"""Retrieval between both sides of pairs, counted as is usual for several captions an image."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..data.pair_source import PairSource

__all__ = ["Direction", "Retrieval", "rank_first_match", "retrieval", "summarize_ranks"]

DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Direction:
    """Retrieval of items of one side by queries of the other side.

    Attributes:
        recall: for k of 1, 5 and 10, the share of queries with a match among the first k items.
        median_rank: median over queries of the rank of the first match; ranks start at 1.
        queries: number of queries.
    """

    recall: dict[int, float]
    median_rank: float
    queries: int


@dataclass(frozen=True)
class Retrieval:
    """Retrieval in both directions.

    Attributes:
        a_to_b: samples of side a (images) are queries, samples of side b (texts) are items.
        b_to_a: the reverse.
    """

    a_to_b: Direction
    b_to_a: Direction

    @property
    def total(self) -> float:
        """The sum of all six recalls in percent, at most 600."""
        both = (self.a_to_b, self.b_to_a)
        return 100 * sum(value for d in both for value in d.recall.values())


def retrieval(
    a: np.ndarray, b: np.ndarray, source: PairSource, indices: np.ndarray | None = None
) -> Retrieval:
    """Measure retrieval between the embeddings of both sides.

    As usual on Flickr30k and COCO, an image matches if any of its captions does, and every
    caption is a query of its own with one image to find. A text of several pairs is counted once
    for each pair.

    Args:
        a: `(n_a, d)` embeddings of side a; unreadable samples are NaN and take no part.
        b: `(n_b, d)` embeddings of side b, likewise.
        source: the pairs.
        indices: positions in `a` of the samples that take part. Default: all.
    """
    indices = np.arange(len(a)) if indices is None else indices
    indices = indices[~np.isnan(a[indices, 0])]
    place = np.full(len(a), -1)
    place[indices] = np.arange(len(indices))
    owner, partner = place[source.owners()], source.partners  # (pairs,) positions in a and b
    taking_part = (owner >= 0) & ~np.isnan(b[partner, 0])
    owner, partner = owner[taking_part], partner[taking_part]
    samples = normalize(torch.from_numpy(a[indices]).float(), dim=1)
    texts = normalize(torch.from_numpy(np.asarray(b[partner])).float(), dim=1)
    sample_groups, text_groups = torch.arange(len(indices)), torch.from_numpy(owner)
    return Retrieval(
        summarize_ranks(rank_first_match(samples, texts, sample_groups, text_groups)),
        summarize_ranks(rank_first_match(texts, samples, text_groups, sample_groups)),
    )


def rank_first_match(
    queries: Tensor, items: Tensor, query_groups: Tensor, item_groups: Tensor
) -> Tensor:
    """Return the rank, from 1, of each query's most similar match.

    An item matches a query if both have the same group. Other items that tie with the match
    count as more similar, so that a collapsed encoder finds nothing.

    Args:
        queries: `(q, d)` unit vectors.
        items: `(m, d)` unit vectors.
        query_groups: `(q,)` int64.
        item_groups: `(m,)` int64.

    Returns:
        `(q,)` int64.
    """
    ranks = []
    for start in range(0, len(queries), 512):
        similarity = queries[start : start + 512] @ items.T  # (b, m)
        matches = query_groups[start : start + 512, None] == item_groups[None, :]
        best = similarity.masked_fill(~matches, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(1 + ((similarity >= best) & ~matches).sum(dim=1))
    return torch.cat(ranks)


def summarize_ranks(ranks: Tensor) -> Direction:
    """Summarize the ranks `(q,)` of the first matches of all queries."""
    recall = {k: float((ranks <= k).double().mean()) for k in DEPTHS}
    return Direction(recall, float(np.median(ranks)), len(ranks))
