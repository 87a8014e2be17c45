"""Planted mistakes are counted and listed; data without mistakes gives none."""

import numpy as np
import pytest

from sogclr.evaluation.findings.captions import fit_pairs
from sogclr.evaluation.findings.misfits import find_misfits


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_share_of_mistakes_is_estimated_and_they_are_listed(share):
    rng = np.random.default_rng(0)
    foreign = rng.normal(size=20_000)
    mistakes = round(share * 4_000)
    own = np.concatenate([rng.normal(size=mistakes), rng.normal(7, 1, size=4_000 - mistakes)])
    found = find_misfits(own, foreign)
    assert found.share == pytest.approx(share, abs=0.03)
    right = int((found.positions < mistakes).sum())
    assert right >= 0.95 * mistakes
    assert right >= 0.95 * len(found.positions)
    assert (np.diff(own[found.positions]) >= 0).all()


def test_where_fits_overlap_most_of_the_listed_are_mistakes():
    rng = np.random.default_rng(0)
    own = np.concatenate([rng.normal(size=400), rng.normal(2.5, 1, size=3_600)])
    listed = find_misfits(own, rng.normal(size=20_000)).positions
    assert (listed < 400).mean() > 0.7
    assert (listed < 400).sum() > 200


def test_recognized_is_how_often_a_fit_beats_a_foreign_one():
    rng = np.random.default_rng(0)
    own, foreign = rng.integers(2, 9, 40).astype(float), rng.integers(0, 9, 60).astype(float)
    wins = [(one > other) + (one == other) / 2 for one in own for other in foreign]
    assert find_misfits(own, foreign).recognized == pytest.approx(np.mean(wins))


@pytest.mark.parametrize(
    ("distance", "mistakes", "worthless"),
    [(0, 0, True), (0.5, 0, True), (2.5, 0, False), (7, 0, False), (7, 0.3, False)],
)
def test_a_model_near_chance_is_told_from_wrong_partners(distance, mistakes, worthless):
    rng = np.random.default_rng(0)
    own = rng.normal(distance, 1, size=4_000)
    own[: round(mistakes * 4_000)] -= distance
    assert find_misfits(own, rng.normal(size=20_000)).are_worthless == worthless


def test_without_samples_there_are_no_mistakes():
    assert len(find_misfits(np.empty(0), np.ones(3)).positions) == 0
    assert len(find_misfits(np.ones(3), np.empty(0)).positions) == 0


def make_pairs(texts_each=3, images=60):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(images, 12))
    owner = np.repeat(np.arange(images), texts_each)
    b = 0.6 * a[owner] + 0.1 * rng.normal(size=(len(owner), 12)) + 1  # 1: a gap between the sides
    return a, b, owner, np.arange(len(owner))


@pytest.mark.parametrize("texts_each", [1, 3])
def test_swapped_texts_fit_badly(texts_each):
    a, b, owner, partner = make_pairs(texts_each)
    swapped = [4, 20, 33]
    partner[swapped] = partner[[20, 33, 4]]
    fits = fit_pairs(a, b, owner, partner)
    assert fits.fit[swapped].max() < np.quantile(np.delete(fits.fit, swapped), 0.1)
    assert fits.foreign.mean() == pytest.approx(0, abs=0.1)  # standard scores
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b)]
    expected = (units[0][owner] * units[1][partner]).sum(axis=1)
    np.testing.assert_allclose(fits.similarity, expected, atol=1e-5)


def test_a_fit_is_the_mean_of_standard_scores():
    a, b, owner, partner = make_pairs(texts_each=3, images=5)
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
    fits = fit_pairs(a, b, owner, partner)

    def score(value, others):
        return (value - np.mean(others)) / np.std(others)

    for pair, (image, text) in enumerate(zip(owner, partner, strict=True)):
        own = a[image] @ b[text]
        beside = np.mean([b[text] @ b[other] for other in partner[owner == image] if other != text])
        to_image = (score(own, a[image] @ b.T) + score(own, b[text] @ a.T)) / 2
        expected = (to_image + score(beside, b[text] @ b.T)) / 2
        assert fits.fit[pair] == pytest.approx(expected, abs=1e-4)
