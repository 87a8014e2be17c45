"""Compare labels with the votes of neighbours: confusion of classes, and suspected wrong labels."""

from dataclasses import dataclass

import numpy as np
import torch

from ..knn import count_votes
from .neighbours import Neighbours

__all__ = ["LabelVotes", "confusion", "rank_label_suspects", "vote_by_neighbours"]

BLOCK = 1_024  # samples at once, which limits the memory of many classes


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

    Of equal votes the smallest label wins.

    Args:
        neighbours: the k nearest neighbours of each of n samples, all of which have labels.
        labels: `(n,)` int64 from 0.
        temperature: divides the similarities, see `sogclr.evaluation.knn.count_votes`.
    """
    n, classes = len(labels), int(labels.max(initial=-1)) + 1
    winner = np.empty(n, dtype=np.int64)
    winner_share, given_share = np.empty(n), np.empty(n)
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        similarity = torch.from_numpy(neighbours.similarity[part]).double()
        voted = torch.from_numpy(labels[neighbours.index[part]])
        votes = count_votes(similarity, voted, classes, temperature)  # (b, classes)
        shares = votes / votes.sum(dim=1, keepdim=True)
        winner[part] = shares.argmax(dim=1).numpy()  # the first of equal ones
        winner_share[part] = shares.amax(dim=1).numpy()
        own = torch.from_numpy(labels[part])[:, None]
        given_share[part] = shares.gather(1, own)[:, 0].numpy()
    return LabelVotes(winner, winner_share, given_share)


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
