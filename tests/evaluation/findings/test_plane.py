"""Places in a plane: the same each time, apart for groups that are apart."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sogclr.evaluation.findings import plane as room
from sogclr.evaluation.findings.plane import place_in_plane


def make_groups(count):
    rng = np.random.default_rng(0)
    group = np.arange(count) % 2
    return rng.normal(size=(count, 12)) * 0.1 + 3 * np.eye(2, 12)[group], group


@pytest.fixture(autouse=True)
def _no_umap(monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)


@pytest.mark.parametrize(("count", "method"), [(4, "PCA"), (60, "t-SNE")])
def test_groups_are_apart_and_places_are_the_same_again(count, method):
    vectors, group = make_groups(count)
    plane = place_in_plane(vectors)
    assert plane.method == method
    assert plane.places.shape == (count, 2)
    first, second = plane.places[group == 0], plane.places[group == 1]
    apart = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert apart > first.std() + second.std()
    assert np.array_equal(place_in_plane(vectors).places, plane.places)


@pytest.mark.parametrize(
    "vectors",
    [np.ones((1, 3)), np.ones((40, 3)), np.arange(30.0)[:, None], np.eye(2, 3), np.eye(40)[:, :2]],
)
def test_places_are_finite_whatever_the_vectors(vectors):
    places = place_in_plane(vectors).places
    assert places.shape == (len(vectors), 2)
    assert np.isfinite(places).all()


def test_umap_is_used_where_it_is_installed(monkeypatch):
    class UMAP:
        def __init__(self, **settings):
            assert settings == {"n_neighbors": 11, "metric": "cosine", "random_state": 0}

        def fit_transform(self, vectors):
            return vectors[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    monkeypatch.setattr(room, "find_spec", lambda name: name)
    vectors, _ = make_groups(12)
    plane = place_in_plane(vectors)
    assert plane.method == "UMAP"
    np.testing.assert_allclose(plane.places, vectors[:, :2], rtol=1e-6)


def test_too_many_samples_for_tsne_are_placed_by_pca_with_advice(monkeypatch):
    vectors, _ = make_groups(60)
    assert "UMAP" in place_in_plane(vectors).advice
    monkeypatch.setattr(room, "MOST_BY_TSNE", 59)
    plane = place_in_plane(vectors)
    assert plane.method == "PCA"
    assert "sogclr[map]" in plane.advice
    assert place_in_plane(vectors[:9]).advice == ""
