"""Exact search agrees with a loop over all samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sogclr.evaluation.searching import exact_index
from sogclr.evaluation.searching.exact_index import ExactIndex


def _search_by_loop(vectors, query, count, rows):
    found = []
    for row in rows:
        if np.isnan(vectors[row]).any():
            continue
        length = float(np.linalg.norm(vectors[row]))
        found.append((float(vectors[row] @ query) / length if length else 0.0, row))
    return sorted(found, key=lambda hit: (-hit[0], hit[1]))[:count]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    size=st.integers(1, 60),
    count=st.integers(1, 70),
    share=st.sampled_from([None, 0.0, 0.3, 1.0]),
)
def test_the_nearest_are_those_of_a_loop(seed, size, count, share):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(size, 5)).astype(np.float32) * rng.uniform(0.1, 9, (size, 1))
    vectors = vectors.astype(np.float32)
    vectors[rng.random(size) < 0.1] = np.nan
    vectors[rng.random(size) < 0.1] = 0
    query = rng.normal(size=5).astype(np.float32)
    query /= np.linalg.norm(query)
    rows = None if share is None else np.flatnonzero(rng.random(size) < share)
    hits = ExactIndex(vectors).nearest(query, count, rows)
    expected = _search_by_loop(vectors, query, count, range(size) if rows is None else rows)
    assert len(hits.rows) == len(expected)
    np.testing.assert_allclose(hits.similarity, [value for value, _ in expected], atol=1e-5)
    assert (np.diff(hits.similarity) <= 0).all()
    for row, value in zip(hits.rows, hits.similarity, strict=True):
        assert (value, row) == pytest.approx(_search_by_loop(vectors, query, 1, [row])[0], abs=1e-5)
    assert len(set(hits.rows.tolist())) == len(hits.rows)


def test_of_equal_samples_the_first_are_found():
    vectors = np.ones((50, 3), dtype=np.float32)
    query = np.ones(3, dtype=np.float32) / 3**0.5
    assert set(ExactIndex(vectors).nearest(query, 50).rows.tolist()) == set(range(50))


def test_vectors_in_a_file_are_searched_in_parts(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    whole = ExactIndex(vectors).nearest(vectors[3] / np.linalg.norm(vectors[3]), 9)
    monkeypatch.setattr(exact_index, "BLOCK", 7)
    index = ExactIndex(np.load(tmp_path / "x.npy", mmap_mode="r"))
    hits = index.nearest(index.unit(3), 9, np.arange(40))
    np.testing.assert_array_equal(hits.rows, whole.rows)
    np.testing.assert_allclose(hits.similarity, whole.similarity, atol=1e-6)


def test_a_sample_that_could_not_be_read_has_no_unit_vector():
    vectors = np.array([[3, 4], [np.nan, np.nan]], dtype=np.float32)
    index = ExactIndex(vectors)
    np.testing.assert_allclose(index.unit(0), [0.6, 0.8], atol=1e-6)
    assert index.unit(1) is None
