"""Nearest neighbours agree with an explicit loop, across the borders of blocks."""

import numpy as np
import pytest

from sogclr.evaluation.findings import neighbours as room
from sogclr.evaluation.findings.neighbours import nearest_neighbours


def loop(vectors, k):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    index, similarity = [], []
    for i, unit in enumerate(units):
        others = sorted((-float(unit @ other), j) for j, other in enumerate(units) if j != i)[:k]
        index.append([j for _, j in others])
        similarity.append([-value for value, _ in others])
    return np.array(index), np.array(similarity)


@pytest.mark.parametrize(("count", "k", "block"), [(30, 5, 7), (30, 5, 99), (9, 20, 4), (2, 1, 1)])
def test_neighbours_are_those_of_a_loop(monkeypatch, count, k, block):
    monkeypatch.setattr(room, "BLOCK", block)
    vectors = np.random.default_rng(count).normal(size=(count, 6))
    found = nearest_neighbours(vectors, k)
    index, similarity = loop(vectors, min(k, count - 1))
    assert found.index.tolist() == index.tolist()
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-6)


def test_a_single_sample_has_no_neighbours():
    assert nearest_neighbours(np.ones((1, 3)), 5).index.shape == (1, 0)
