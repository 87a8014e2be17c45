"""Retrieval between the sides of pairs, counted as is customary where captions are several."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from ..data.pair_source import PairSource

__all__ = ["Direction", "Retrieval", "rank_of_first", "retrieval"]

DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Direction:
    """Of one direction: share of queries with a partner among the first k, and the median rank
    of the first partner, from 1."""

    recall: dict[int, float]
    median_rank: float
    queries: int


@dataclass(frozen=True)
class Retrieval:
    """Both directions. `total` is the sum of all six recalls in percent, 600 at best."""

    a_to_b: Direction
    b_to_a: Direction

    @property
    def total(self) -> float:
        both = (self.a_to_b, self.b_to_a)
        return 100 * sum(value for d in both for value in d.recall.values())


def retrieval(
    a: np.ndarray, b: np.ndarray, source: "PairSource", rows: np.ndarray | None = None
) -> Retrieval:
    """Every row of `a` looks for its partners among all pairs' texts, and every text for its row.

    As usual on Flickr and COCO: an image is found where any of its captions is, and every
    caption is a query of its own, with one image to find.

    Args:
        a: `(n_a, d)` embeddings; rows of NaN (unreadable) take no part.
        b: `(n_b, d)` embeddings, likewise.
        source: who belongs to whom.
        rows: rows of `a` that take part, with their partners; all by default.
    """
    rows = np.arange(len(a)) if rows is None else rows
    rows = rows[~np.isnan(a[rows, 0])]
    place = np.full(len(a), -1)
    place[rows] = np.arange(len(rows))
    owner, partner = place[source.owners()], source.partners
    taking_part = (owner >= 0) & ~np.isnan(b[partner, 0])
    owner, partner = owner[taking_part], partner[taking_part]
    queries = normalize(torch.from_numpy(a[rows]).float(), dim=1)
    texts = normalize(torch.from_numpy(np.asarray(b[partner])).float(), dim=1)
    owners = torch.from_numpy(owner)
    return Retrieval(
        _direction(rank_of_first(queries, texts, torch.arange(len(rows)), owners)),
        _direction(rank_of_first(texts, queries, owners, torch.arange(len(rows)))),
    )


def rank_of_first(
    queries: torch.Tensor, items: torch.Tensor, query_of: torch.Tensor, item_of: torch.Tensor
) -> torch.Tensor:
    """The rank, from 1, of the best item that belongs to the same as the query, `(q,)`.

    Items that tie with it and do not belong count as better: a collapsed encoder finds nothing.

    Args:
        queries: `(q, d)` unit vectors.
        items: `(m, d)` unit vectors.
        query_of: `(q,)` whom the queries belong to.
        item_of: `(m,)` whom the items belong to.
    """
    ranks = []
    for start in range(0, len(queries), 512):
        similarity = queries[start : start + 512] @ items.T  # (b, m)
        own = query_of[start : start + 512, None] == item_of[None, :]
        best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(1 + ((similarity >= best) & ~own).sum(dim=1))
    return torch.cat(ranks)


def _direction(ranks: torch.Tensor) -> Direction:
    recall = {k: float((ranks <= k).double().mean()) for k in DEPTHS}
    return Direction(recall, float(np.median(ranks)), len(ranks))
