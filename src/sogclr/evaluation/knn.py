"""Weighted k-nearest-neighbour classification of embeddings."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["count_votes", "knn_accuracy", "knn_predict"]


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor | None = None,
    *,
    k: int = 20,
    temperature: float = 0.1,
) -> Tensor:
    """Classify queries by the votes of their k nearest neighbours in the bank.

    Of equal votes the smallest label wins; see `count_votes`.

    Args:
        bank: `(n, d)` embeddings, normalized here.
        bank_labels: `(n,)` int64 from 0.
        queries: `(m, d)` embeddings; None to classify each element of the bank by the others.
        k: number of neighbours; a smaller bank lowers it. 20 is usual for data of this size.
        temperature: divides the similarities of votes. 0.1 is usual with 20 neighbours.

    Returns:
        `(m,)` int64 labels.
    """
    leave_one_out = queries is None
    bank = normalize(bank.float(), dim=1)
    queries = bank if queries is None else normalize(queries.float(), dim=1)
    classes = int(bank_labels.max()) + 1
    k = min(k, len(bank) - leave_one_out)
    predicted = []
    for start in range(0, len(queries), 1024):
        similarity = queries[start : start + 1024] @ bank.T  # (b, n)
        if leave_one_out:
            similarity.diagonal(start).fill_(-torch.inf)
        nearest, neighbours = similarity.topk(k, dim=1)  # (b, k)
        votes = count_votes(nearest, bank_labels[neighbours], classes, temperature)
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor | None = None,
    query_labels: Tensor | None = None,
    *,
    k: int = 20,
    temperature: float = 0.1,
) -> float:
    """Return the share of queries, in [0, 1], whose label `knn_predict` finds.

    Args:
        bank, bank_labels, queries: see `knn_predict`.
        query_labels: `(m,)` int64; None with `queries`.
        k, temperature: see `knn_predict`.
    """
    truth = bank_labels if query_labels is None else query_labels
    predicted = knn_predict(bank, bank_labels, queries, k=k, temperature=temperature)
    return float((predicted == truth).double().mean())


def count_votes(
    similarity: Tensor, voted: Tensor, classes: int, temperature: float = 0.1
) -> Tensor:
    """Sum the votes of the neighbours of each sample by label.

    A neighbour of cosine similarity s votes with weight exp(s / temperature) (Wu et al.,
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018). The
    weights are relative to the nearest neighbour, so that a low temperature does not overflow.

    Args:
        similarity: `(b, k)` cosine similarities of the neighbours, largest first.
        voted: `(b, k)` int64, the labels of the neighbours, from 0.
        classes: number of labels.
        temperature: divides the similarities.

    Returns:
        `(b, classes)` votes, of the dtype of `similarity`.
    """
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    return weight.new_zeros(len(weight), classes).scatter_add_(1, voted, weight)
