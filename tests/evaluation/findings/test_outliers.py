"""Distances agree with a loop; planted outliers are found, and nothing in ordinary data."""

import numpy as np
import pytest

from sogclr.evaluation.findings.neighbours import nearest_neighbours
from sogclr.evaluation.findings.outliers import far_above, measure_distance


def test_distances_are_those_of_a_loop():
    vectors = np.random.default_rng(0).normal(size=(30, 6))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = measure_distance(nearest_neighbours(vectors, 4))
    for i, unit in enumerate(units):
        nearest = sorted(1 - unit @ other for j, other in enumerate(units) if j != i)[:4]
        assert distance[i] == pytest.approx(np.mean(nearest), abs=1e-6)


def test_planted_outliers_come_first_whatever_their_size():
    values = np.random.default_rng(0).normal(size=500)
    values[[7, 90]] = 50, 1e9
    values[3] = np.nan
    found = far_above(values).tolist()
    assert found[:2] == [90, 7]
    assert far_above(values * 3 + 5).tolist() == found
    assert far_above(-np.abs(values)).tolist() == []


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 9, [np.nan] * 3])
def test_ordinary_values_are_no_outliers(values):
    assert far_above(np.array(values)).tolist() == []


def test_a_single_sample_has_no_distance():
    assert measure_distance(nearest_neighbours(np.ones((1, 3)), 5)).tolist() == [0]
