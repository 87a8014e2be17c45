import math

import pytest
import torch

from sogclr.evaluation.knn import knn_accuracy


def _by_loops(bank, labels, queries, truth, k, tau, skip_self):
    unit = lambda v: [x / math.sqrt(sum(y * y for y in v)) for x in v]  # noqa: E731 (reads as math)
    bank, queries = [unit(v) for v in bank.tolist()], [unit(v) for v in queries.tolist()]
    correct = 0
    for q, query in enumerate(queries):
        scored = [
            (sum(a * b for a, b in zip(query, v, strict=True)), int(labels[j]))
            for j, v in enumerate(bank)
            if not (skip_self and j == q)
        ]
        votes = {}
        for s, label in sorted(scored, reverse=True)[:k]:
            votes[label] = votes.get(label, 0) + math.exp(s / tau)
        correct += max(votes, key=votes.get) == int(truth[q])
    return correct / len(queries)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_agrees_with_explicit_loops(k):
    g = torch.Generator().manual_seed(0)
    labels, truth = torch.randint(0, 3, (40,), generator=g), torch.randint(0, 3, (30,), generator=g)
    bank = torch.randn(40, 4, generator=g) + 1.5 * torch.eye(4)[labels]
    queries = torch.randn(30, 4, generator=g) + 1.5 * torch.eye(4)[truth]
    ours = knn_accuracy(bank, labels, queries, truth, k=k)
    assert ours == _by_loops(bank, labels, queries, truth, k, 0.1, skip_self=False)
    ours = knn_accuracy(bank, labels, k=k)
    assert ours == _by_loops(bank, labels, bank, labels, k, 0.1, skip_self=True)


def test_scale_of_the_features_does_not_matter():
    g = torch.Generator().manual_seed(1)
    bank, labels = torch.randn(50, 8, generator=g), torch.randint(0, 4, (50,), generator=g)
    scale = torch.rand(50, 1, generator=g) * 100 + 0.01
    assert knn_accuracy(bank, labels) == knn_accuracy(bank * scale, labels)


def test_a_row_is_not_its_own_neighbour_beyond_the_first_tile():
    # Leave-one-out has chance accuracy on random labels; a query that found itself would have 1.
    g = torch.Generator().manual_seed(2)
    bank, labels = torch.randn(2500, 16, generator=g), torch.randint(0, 10, (2500,), generator=g)
    assert knn_accuracy(bank, labels, k=1) < 0.2
