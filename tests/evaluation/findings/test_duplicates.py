"""Candidates, thresholds and the groups that pairs form agree with explicit loops."""

from itertools import combinations

import numpy as np
import pytest

from sogclr.evaluation.findings.duplicates import (
    NEAREST,
    SimilarPairs,
    compare_texts,
    group_duplicates,
    pair_neighbours,
)
from sogclr.evaluation.findings.neighbours import nearest_neighbours


def make_vectors(count=40, copies=((0, 7), (7, 21), (3, 30))):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(count, 16)).astype(np.float32)
    for number, (one, other) in enumerate(copies):
        vectors[other] = vectors[one] + 0.01 * (1 + number) * rng.normal(size=16)
    return vectors


def all_pairs(vectors):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = np.array(list(combinations(range(len(units)), 2)))
    return pairs, (units[pairs[:, 0]] * units[pairs[:, 1]]).sum(axis=1)


def test_candidates_are_each_sample_with_its_nearest_once():
    vectors = make_vectors()
    pairs, similarity = all_pairs(vectors)
    expected = set()
    for sample in range(len(vectors)):
        own = [
            (-s, i, j)
            for s, (i, j) in zip(similarity, pairs.tolist(), strict=True)
            if sample in (i, j)
        ]
        expected |= {(i, j) for _, i, j in sorted(own)[:NEAREST]}
    found = pair_neighbours(nearest_neighbours(vectors, 9)).tolist()
    assert sorted(expected) == [tuple(pair) for pair in found]


@pytest.mark.parametrize("threshold", [0.99, 0.3, 1.1])
def test_pairs_above_a_threshold_come_in_order(threshold):
    pairs, similarity = all_pairs(make_vectors())
    similar = SimilarPairs.above(threshold, pairs, similarity)
    both = zip(similarity.tolist(), pairs.tolist(), strict=True)
    expected = sorted((each for each in both if each[0] >= threshold), reverse=True)
    assert similar.pairs.tolist() == [pair for _, pair in expected]
    assert similar.similarity.tolist() == [value for value, _ in expected]


def test_pairs_that_share_a_sample_are_one_group():
    pairs, similarity = all_pairs(make_vectors())
    groups = group_duplicates(SimilarPairs.above(0.99, pairs, similarity), 40)
    assert [sorted(group.rows.tolist()) for group in groups] == [[0, 7, 21], [3, 30]]
    assert groups[0].rows[:2].tolist() == [0, 7]  # the most similar pair
    best = {tuple(pair): value for pair, value in zip(pairs.tolist(), similarity, strict=True)}
    assert [group.similarity for group in groups] == pytest.approx([best[0, 7], best[3, 30]])


def test_no_pairs_are_no_groups():
    pairs, similarity = all_pairs(np.eye(5))
    assert group_duplicates(SimilarPairs.above(0.5, pairs, similarity), 5) == []
    assert len(pair_neighbours(nearest_neighbours(np.ones((1, 3)), 5))) == 0


def test_texts_are_compared_by_their_words():
    texts = ["A dog runs fast", "a DOG  runs fast", "a dog runs slowly", "two cats", ""]
    pairs = np.array([[0, 1], [0, 2], [0, 3], [2, 0], [3, 4]])
    assert compare_texts(texts, pairs) == pytest.approx([1, 0.75, 0, 0.75, 0])
