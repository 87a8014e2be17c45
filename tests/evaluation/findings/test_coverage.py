"""A selection has the size that was asked for, and covers better than chance."""

import numpy as np
import pytest

from sogclr.evaluation.findings.coverage import choose_covering


def make_vectors():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 8))
    vectors = centres[rng.integers(0, 40, 300)] + 0.3 * rng.normal(size=(300, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cover(vectors, kept):
    return np.array([max(float(v @ vectors[k]) for k in kept) for v in vectors])


@pytest.mark.parametrize("share", [0.99, 0.8, 0.5, 0.1])
def test_each_sample_is_covered_as_the_selection_says(share):
    vectors = make_vectors()
    chosen = choose_covering(vectors, share)
    assert len(chosen.kept) == round(share * 300)
    assert (np.diff(chosen.kept) > 0).all()
    np.testing.assert_allclose(chosen.covered, cover(vectors, chosen.kept), atol=1e-5)
    for seed in range(3):
        random = np.random.default_rng(seed).permutation(300)[: len(chosen.kept)]
        assert chosen.covered.mean() > cover(vectors, random).mean()


def test_copies_go_first_and_one_of_each_stays():
    vectors = make_vectors()[:60]
    copies = np.concatenate([vectors, vectors[:20] + 1e-4])
    kept = set(choose_covering(copies, 60 / 80).kept.tolist())
    assert all((i in kept) != (i + 60 in kept) for i in range(20))
    assert set(range(20, 60)) <= kept


def test_a_rare_sample_stays():
    vectors = np.concatenate([make_vectors(), -make_vectors().mean(axis=0, keepdims=True)])
    assert 300 in choose_covering(vectors, 0.3).kept


def test_a_sample_replaces_only_samples_with_its_label():
    vectors, labels = make_vectors(), np.arange(300) % 7
    chosen = choose_covering(vectors, 0.5, labels=labels)
    for sample in np.setdiff1d(np.arange(300), chosen.kept):
        same = chosen.kept[labels[chosen.kept] == labels[sample]]
        assert len(same)
    few = choose_covering(vectors, 0.01, labels=np.arange(300))
    assert len(few.kept) == 300
