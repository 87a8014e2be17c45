"""Compare labels with the votes of neighbours: confusion of classes, and suspected wrong labels."""

from dataclasses import dataclass

import numpy as np

from .neighbours import Neighbours

__all__ = ["LabelVotes", "confusion", "rank_label_suspects", "vote_by_neighbours"]


@dataclass(frozen=True)
class LabelVotes:
    """The votes of the neighbours of each of n samples on its label.

    Attributes:
        winner: `(n,)` int64, the label with the most votes.
        winner_share: `(n,)` its share of the votes, in [0, 1].
        given_share: `(n,)` the share of the label that the sample has.
    """

    winner: np.ndarray
    winner_share: np.ndarray
    given_share: np.ndarray


def vote_by_neighbours(
    neighbours: Neighbours, labels: np.ndarray, *, temperature: float = 0.1
) -> LabelVotes:
    """Let the neighbours of each sample vote, as in kNN classification that leaves one out.

    A neighbour of cosine similarity s votes for its label with weight exp(s / temperature), as in
    `sogclr.evaluation.knn`.

    Args:
        neighbours: the k nearest neighbours of each of n samples, all of which have labels.
        labels: `(n,)` int64 from 0.
        temperature: divides the similarities.
    """
    k = neighbours.index.shape[1]
    # Relative to the nearest neighbour, so that a low temperature does not overflow.
    relative = neighbours.similarity - neighbours.similarity[:, :1]
    weight = np.exp(relative.astype(np.float64) / temperature)  # (n, k)
    voted = labels[neighbours.index]  # (n, k)
    # votes[i, j]: the votes of all neighbours of i that have the label of neighbour j.
    votes = np.stack([((voted == voted[:, [j]]) * weight).sum(axis=1) for j in range(k)], axis=1)
    best = votes.max(axis=1, keepdims=True)
    # Of equal votes the smallest label wins.
    winner = np.where(votes >= best, voted, np.iinfo(np.int64).max).min(axis=1)
    total = weight.sum(axis=1)
    given = ((voted == labels[:, None]) * weight).sum(axis=1)
    return LabelVotes(winner, best[:, 0] / total, given / total)


def confusion(labels: np.ndarray, winner: np.ndarray, classes: int) -> np.ndarray:
    """Count samples by label and by winner of the vote, `(classes, classes)` int64.

    Args:
        labels: `(n,)` the labels, rows of the result.
        winner: `(n,)` the winners, columns of the result.
        classes: number of classes.
    """
    counts = np.bincount(labels * classes + winner, minlength=classes * classes)
    return counts.reshape(classes, classes)


def rank_label_suspects(votes: LabelVotes, labels: np.ndarray) -> np.ndarray:
    """List the samples whose neighbours prefer another label, the clearest first.

    Args:
        votes: the votes of the neighbours.
        labels: `(n,)` int64, the labels that the samples have.

    Returns:
        `(m,)` int64 positions, by falling share of the winner minus share of the label.
    """
    margin = votes.winner_share - votes.given_share
    doubted = np.flatnonzero(votes.winner != labels)
    return doubted[np.argsort(-margin[doubted], kind="stable")]
