"""Votes, confusion and suspects agree with explicit loops; planted wrong labels come first."""

import math

import numpy as np
import pytest
import torch

from sogclr.evaluation.findings.labels import confusion, find_label_suspects, vote_by_neighbours
from sogclr.evaluation.findings.neighbours import nearest_neighbours
from sogclr.evaluation.knn import knn_accuracy


def make_clusters(count=90, classes=3, noise=0.6):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = rng.normal(size=(classes, 8))
    return (centres[labels] + noise * rng.normal(size=(count, 8))).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.1, 0.001])
def test_votes_are_those_of_a_loop(temperature):
    vectors, labels = make_clusters()
    near = nearest_neighbours(vectors, 7)
    votes = vote_by_neighbours(near, labels, temperature=temperature)
    for i in range(len(labels)):
        nearest = float(near.similarity[i, 0])
        share = dict.fromkeys(range(3), 0.0)
        for j, similarity in zip(near.index[i], near.similarity[i], strict=True):
            share[labels[j]] += math.exp((float(similarity) - nearest) / temperature)
        total = sum(share.values())
        winner = max(share, key=lambda label: (share[label], -label))
        assert votes.winner[i] == winner
        assert votes.winner_share[i] == pytest.approx(share[winner] / total)
        assert votes.given_share[i] == pytest.approx(share[labels[i]] / total)


def test_votes_give_the_accuracy_of_knn():
    vectors, labels = make_clusters(noise=1.5)
    votes = vote_by_neighbours(nearest_neighbours(vectors, 20), labels)
    accuracy = knn_accuracy(torch.from_numpy(vectors), torch.from_numpy(labels))
    assert float((votes.winner == labels).mean()) == pytest.approx(accuracy)
    assert 0.5 < accuracy < 1


def test_confusion_counts_labels_against_winners():
    labels, winner = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 0])
    expected = np.zeros((4, 4), dtype=int)
    for label, other in zip(labels, winner, strict=True):
        expected[label, other] += 1
    assert confusion(labels, winner, 4).tolist() == expected.tolist()


def test_planted_wrong_labels_are_the_suspects():
    vectors, labels = make_clusters(count=300, noise=0.4)
    wrong = np.random.default_rng(1).permutation(300)[:15]
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % 3
    suspects = find_label_suspects(vectors, given)
    assert sorted(np.argsort(suspects.own)[:15].tolist()) == sorted(wrong.tolist())
    assert set(suspects.positions.tolist()) <= set(wrong.tolist())
    assert len(suspects.positions) >= 12
    assert (suspects.best[wrong] == labels[wrong]).all()
    assert (np.diff(suspects.own[suspects.positions]) >= 0).all()
    assert (suspects.own <= suspects.best_probability).all()


def test_right_labels_are_not_suspected():
    vectors, labels = make_clusters(count=300, noise=0.4)
    assert len(find_label_suspects(vectors, labels).positions) == 0


def test_vectors_that_hardly_know_the_label_are_not_trusted():
    vectors, labels = make_clusters(count=300, noise=0.4)
    assert not find_label_suspects(vectors, labels).misfits.are_worthless
    noise = np.random.default_rng(1).normal(size=vectors.shape)
    assert find_label_suspects(vectors + 20 * noise, labels).misfits.are_worthless


def test_a_rare_class_is_not_judged():
    vectors, labels = make_clusters(count=90)
    labels[:4] = 3
    suspects = find_label_suspects(vectors, labels)
    assert np.isnan(suspects.own[:4]).all()
    assert np.isfinite(suspects.own[4:]).all()
    assert not {*suspects.positions.tolist()} & {*range(4)}


@pytest.mark.parametrize("labels", [[0] * 30, list(range(30)), [0] * 28 + [1] * 2])
def test_labels_that_cannot_be_judged_give_no_suspects(labels):
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    suspects = find_label_suspects(vectors, np.array(labels))
    assert len(suspects.positions) == 0
    assert suspects.misfits is None
