"""Weighted k-nearest-neighbour classification of embeddings."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["knn_accuracy"]


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor | None = None,
    query_labels: Tensor | None = None,
    *,
    k: int = 20,
    temperature: float = 0.1,
) -> float:
    """Share of queries whose label their k nearest neighbours vote for.

    Votes are weighted by exp(s / temperature), s the cosine similarity (Wu et al.,
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018).

    Args:
        bank: `(n, d)` embeddings, any scale.
        bank_labels: `(n,)` int64 from 0.
        queries: `(m, d)`; None to classify each row of the bank by the others.
        query_labels: `(m,)` int64.
        k: neighbours; fewer where the bank is smaller.
        temperature: of the votes. 20 and 0.1 are what is customary at this scale.

    Returns:
        Accuracy in [0, 1].
    """
    itself = queries is None
    bank = normalize(bank.float(), dim=1)
    queries = bank if queries is None else normalize(queries.float(), dim=1)
    query_labels = bank_labels if query_labels is None else query_labels
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    k = min(k, len(bank) - itself)
    correct = 0
    for start in range(0, len(queries), 1024):
        similarity = queries[start : start + 1024] @ bank.T  # (b, n)
        if itself:
            similarity.diagonal(start).fill_(-torch.inf)
        nearest, neighbours = similarity.topk(k, dim=1)  # (b, k)
        votes = torch.zeros(len(similarity), classes, device=bank.device)
        votes.scatter_add_(1, bank_labels[neighbours], (nearest / temperature).exp())
        correct += int((votes.argmax(dim=1) == query_labels[start : start + 1024]).sum())
    return correct / len(queries)
