"""Pairs above a threshold, and the groups that they form, agree with explicit loops."""

from itertools import combinations

import numpy as np
import pytest

from sogclr.evaluation.findings import neighbours
from sogclr.evaluation.findings.duplicates import group_duplicates, similar_pairs


def make_vectors(count=40, copies=((0, 7), (7, 21), (3, 30))):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(count, 16)).astype(np.float32)
    for number, (one, other) in enumerate(copies):
        vectors[other] = vectors[one] + 0.01 * (1 + number) * rng.normal(size=16)
    return vectors


def loop(vectors, threshold):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = combinations(range(len(units)), 2)
    found = [(float(units[i] @ units[j]), i, j) for i, j in pairs]
    return sorted((each for each in found if each[0] >= threshold), reverse=True)


@pytest.mark.parametrize("threshold", [0.99, 0.3, 1.1])
@pytest.mark.parametrize("block", [11, 1024])
def test_pairs_are_those_of_a_loop(monkeypatch, threshold, block):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    vectors = make_vectors()
    similar, expected = similar_pairs(vectors, threshold), loop(vectors, threshold)
    assert similar.found == len(expected)
    assert similar.pairs.tolist() == [[i, j] for _, i, j in expected]
    np.testing.assert_allclose(similar.similarity, [s for s, *_ in expected], atol=1e-6)


def test_only_the_most_similar_pairs_are_kept_but_all_are_counted(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 5)
    vectors = make_vectors()
    expected = loop(vectors, 0.0)
    similar = similar_pairs(vectors, 0.0, most=9)
    assert similar.found == len(expected)
    assert similar.pairs.tolist() == [[i, j] for _, i, j in expected[:9]]


def test_pairs_that_share_a_sample_are_one_group():
    vectors = make_vectors()
    groups = group_duplicates(similar_pairs(vectors, 0.99), len(vectors))
    assert [sorted(group.rows.tolist()) for group in groups] == [[0, 7, 21], [3, 30]]
    assert groups[0].rows[:2].tolist() == [0, 7]  # the most similar pair
    best = {(i, j): s for s, i, j in loop(vectors, 0.99)}
    assert [group.similarity for group in groups] == pytest.approx([best[0, 7], best[3, 30]])


def test_no_pairs_are_no_groups():
    assert group_duplicates(similar_pairs(np.eye(5), 0.5), 5) == []
