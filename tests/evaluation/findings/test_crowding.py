"""Ranks by log u, and regions of neighbours."""

import numpy as np

from sogclr.evaluation.findings.crowding import join_regions, rank_crowding
from sogclr.evaluation.findings.neighbours import nearest_neighbours


def test_crowded_samples_come_first_and_unvisited_ones_take_no_part():
    log_u = np.array([0.5, -np.inf, 2.0, np.nan, -1.0])
    assert rank_crowding(log_u).tolist() == [2, 0, 4]


def test_samples_that_are_neighbours_are_one_region():
    """Two clusters; of one sample each in a third and fourth, no other is listed."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(4), 8)
    vectors = np.eye(4)[cluster] + 0.05 * rng.normal(size=(32, 4))
    samples = np.array([9, 1, 2, 30, 10, 3, 17])
    regions = join_regions(samples, nearest_neighbours(vectors, 7))
    assert regions.tolist() == [0, 1, 1, 2, 0, 1, 3]
