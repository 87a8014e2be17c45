"""The index for many vectors: as good as exact search on clusters, kept, and exact where asked."""

import sys

import numpy as np
import pytest

from sogclr.common.cache import cache_folder
from sogclr.evaluation.searching import approximate_index
from sogclr.evaluation.searching.approximate_index import ApproximateIndex, open_index
from sogclr.evaluation.searching.exact_index import ExactIndex

faiss = pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def vectors():
    """Clusters of vectors of many lengths; every fiftieth could not be read."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    vectors = centres[rng.integers(0, 40, 3_000)] + 0.4 * rng.normal(size=(3_000, 16))
    vectors *= rng.uniform(0.5, 5, (3_000, 1))
    vectors[::50] = np.nan
    return vectors.astype(np.float32)


def _queries(vectors):
    index = ExactIndex(vectors)
    return [index.unit(row) for row in range(1, 1_000, 50)]


def test_nearly_all_of_the_nearest_are_found_with_their_exact_similarity(vectors):
    exact, index = ExactIndex(vectors), ApproximateIndex(vectors)
    shares = []
    for query in _queries(vectors):
        expected, hits = exact.nearest(query, 20), index.nearest(query, 20)
        assert len(hits.rows) == 20
        assert hits.rows[0] == expected.rows[0]
        np.testing.assert_allclose(
            hits.similarity,
            vectors[hits.rows]
            @ query
            * np.array([1 / np.linalg.norm(vectors[row]) for row in hits.rows]),
            atol=1e-5,
        )
        shares.append(len(set(hits.rows) & set(expected.rows)) / 20)
    assert np.mean(shares) > 0.9


def test_vectors_that_could_not_be_read_are_never_found(vectors):
    index = ApproximateIndex(vectors)
    found = np.concatenate([index.nearest(query, 100).rows for query in _queries(vectors)])
    assert (found % 50 != 0).all()
    assert (found >= 0).all()


def test_some_rows_alone_are_searched_exactly(vectors):
    rows = np.arange(0, 3_000, 7)
    exact, index = ExactIndex(vectors), ApproximateIndex(vectors)
    for query in _queries(vectors):
        expected, hits = exact.nearest(query, 30, rows), index.nearest(query, 30, rows)
        np.testing.assert_array_equal(hits.rows, expected.rows)


def test_the_index_is_kept_for_these_vectors_alone(vectors, monkeypatch, capsys):
    first = ApproximateIndex(vectors)
    (kept,) = (cache_folder() / "indexes").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(ApproximateIndex, "_build", lambda self: pytest.fail("made again"))
        again = ApproximateIndex(vectors)
    for query in _queries(vectors):
        np.testing.assert_array_equal(first.nearest(query, 9).rows, again.nearest(query, 9).rows)
    changed = vectors.copy()
    changed[1] *= -1
    ApproximateIndex(changed)
    assert len(list((cache_folder() / "indexes").iterdir())) == 2
    assert capsys.readouterr().err.count("making an index") == 2
    assert kept.is_file()


def test_an_index_that_cannot_be_kept_is_used_all_the_same(vectors, capsys):
    cache_folder().mkdir(parents=True)
    (cache_folder() / "indexes").write_text("a file where the folder would be")
    assert len(ApproximateIndex(vectors).nearest(_queries(vectors)[0], 5).rows) == 5
    assert "the index is not kept" in capsys.readouterr().err


def test_fewer_than_a_million_vectors_are_compared_one_by_one(vectors, monkeypatch):
    assert approximate_index.APPROXIMATE_FROM == 1_000_000
    assert open_index(vectors).is_exact
    monkeypatch.setattr(approximate_index, "APPROXIMATE_FROM", 3_000)
    assert not open_index(vectors).is_exact
    assert open_index(vectors[:-1]).is_exact


def test_without_faiss_all_vectors_are_compared_one_by_one(vectors, monkeypatch, capsys):
    monkeypatch.setattr(approximate_index, "APPROXIMATE_FROM", 3_000)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert open_index(vectors).is_exact
    assert "faiss is not installed" in capsys.readouterr().err
