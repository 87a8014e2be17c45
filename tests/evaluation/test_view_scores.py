"""Scores of two views against the objective in float64 and loops."""

from dataclasses import asdict

import pytest
import torch

from sogclr.evaluation.view_scores import view_recall, view_scores
from sogclr.losses.objective import two_view_objective


@pytest.mark.parametrize("count", [5, 1500])
def test_scores_are_the_objective_and_the_share_of_partners_found(count):
    draw = torch.Generator().manual_seed(count)
    first = torch.randn(count, 6, generator=draw)
    second = first + torch.randn(count, 6, generator=draw)
    scores = view_scores(first, second, 0.2)
    features = torch.stack([first, second], dim=1).double()
    for version, value in (("v1", scores.objective), ("v2", scores.objective2)):
        exact = float(two_view_objective(features, 0.2, version=version))
        assert value == pytest.approx(exact, abs=1e-5)
    similarity = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    hits = [
        float(similarity[i, i] == matrix.max())
        for matrices in (similarity, similarity.T)
        for i, matrix in enumerate(matrices)
    ]
    assert scores.recall == pytest.approx(sum(hits) / len(hits), abs=2 / count)


def test_equal_views_of_different_samples_are_always_found():
    features = torch.eye(7)
    assert view_scores(features, 3 * features, 0.1).recall == 1.0


def test_exchanging_the_views_changes_nothing():
    first, second = torch.randn(2, 40, 6)
    one, other = (asdict(view_scores(*pair, 0.3)) for pair in ((first, second), (second, first)))
    assert one == pytest.approx(other)


def test_a_collapsed_encoder_finds_nothing():
    same = torch.ones(5, 3)
    assert view_recall(same, same) == 0
