"""Compare labels with the votes of neighbours: confusion of classes, and suspected wrong labels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..knn import count_votes
from .misfits import Misfits, find_misfits
from .neighbours import Neighbours

__all__ = [
    "FEWEST",
    "LabelSuspects",
    "LabelVotes",
    "confusion",
    "find_label_suspects",
    "vote_by_neighbours",
]

BLOCK = 1_024  # samples at once, which limits the memory of many classes
FOLDS = 5
FEWEST = 2 * FOLDS  # samples of a class, so that each fold has some
FOREIGN = 5  # labels of others that each sample is compared with


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


@dataclass(frozen=True)
class LabelSuspects:
    """Samples with doubtful labels.

    Attributes:
        positions: `(m,)` int64, the clearest first.
        own: `(n,)` the probability of the label that each sample has; NaN if it was not judged.
        best: `(n,)` int64, the most probable label.
        best_probability: `(n,)` its probability.
        misfits: how well labels fit at all; None if no label was judged.
    """

    positions: np.ndarray
    own: np.ndarray
    best: np.ndarray
    best_probability: np.ndarray
    misfits: Misfits | None = None


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


def find_label_suspects(vectors: np.ndarray, labels: np.ndarray) -> LabelSuspects:
    """Find the samples to which a linear classifier gives their label hardly any probability.

    Linear discriminant analysis is fitted on four fifths of the samples and asked about the others.
    The samples are those that fit their label like the labels of others, see `find_misfits`.
    Samples of classes with fewer than ten samples are not judged.

    Args:
        vectors: `(n, d)` embeddings.
        labels: `(n,)` int64 from 0.
    """
    judged = np.flatnonzero(np.bincount(labels)[labels] >= FEWEST)
    own, best = np.full(len(labels), np.nan), labels.copy()
    best_probability = np.full(len(labels), np.nan)
    suspects = LabelSuspects(np.empty(0, dtype=np.int64), own, best, best_probability)
    if len(np.unique(labels[judged])) < 2:
        return suspects
    mixed = np.stack([np.random.default_rng(i).permutation(labels[judged]) for i in range(FOREIGN)])
    foreign = np.full(mixed.shape, np.nan)  # probabilities of labels of others
    for held_out, classes, probability in _predict_held_out(vectors[judged], labels[judged]):
        rows, samples = np.arange(len(held_out)), judged[held_out]
        own[samples] = probability[rows, np.searchsorted(classes, labels[samples])]
        best[samples] = classes[probability.argmax(axis=1)]
        best_probability[samples] = probability.max(axis=1)
        others = mixed[:, held_out]
        foreign[:, held_out] = np.where(
            others == labels[samples],
            np.nan,
            probability[rows, np.searchsorted(classes, others)],
        )
    found = find_misfits(own[judged], foreign[np.isfinite(foreign)])
    doubted = judged[found.positions]
    positions = doubted[best[doubted] != labels[doubted]]
    return replace(suspects, positions=positions, misfits=found)


def _predict_held_out(
    vectors: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the held-out positions of each fold, the classes, and their probabilities."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for fit, held_out in folds.split(vectors, labels):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        model.fit(vectors[fit].astype(np.float64), labels[fit])
        yield held_out, model.classes_, model.predict_proba(vectors[held_out].astype(np.float64))
