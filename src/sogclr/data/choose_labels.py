"""Choose labelled images: a share of each class to train on, and other images to test on."""

from dataclasses import dataclass

import numpy as np

from ..common.errors import UserError
from .image_source import NO_LABEL, ImageSource
from .randomness import shuffled

__all__ = [
    "LabelledImages",
    "choose_of_each_class",
    "divide_labelled",
    "hold_out",
    "require_labels",
    "require_same_classes",
]

HELD_OUT = 0.2


@dataclass(frozen=True)
class LabelledImages:
    """The images of a classifier.

    Attributes:
        source: the images to train on, with labels.
        rows: `(m,)` its rows that are trained on.
        available: number of its labelled images that could be trained on.
        tested: the images to test on; may be `source`.
        tested_rows: `(k,)` its rows that are tested on.
    """

    source: ImageSource
    rows: np.ndarray
    available: int
    tested: ImageSource
    tested_rows: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Return the labels of `source`, `(n,)`."""
        assert self.source.labels is not None
        return self.source.labels

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes."""
        assert self.source.classes is not None
        return self.source.classes


def divide_labelled(
    source: ImageSource, test: ImageSource | None, share: float, seed: int
) -> LabelledImages:
    """Choose the images of a classifier.

    Args:
        source: labelled images.
        test: other labelled images to test on; None to hold out a fifth of each class.
        share: the share of the training labels that is used.
        seed: seed of the choice of labels.

    Raises:
        UserError: labels are missing or differ, there is one class, or nothing to test on.
    """
    labels = require_labels(source)
    rows = np.flatnonzero(labels != NO_LABEL)
    if test is None:
        tested = source
        rows, tested_rows = hold_out(source.ids, labels, rows)
    else:
        tested, tested_rows = test, np.flatnonzero(require_labels(test) != NO_LABEL)
        require_same_classes(source, test)
    if len(np.unique(labels[rows])) < 2:
        raise UserError("data: its images are of one class; a classifier needs at least two")
    if not len(tested_rows):
        raise UserError("data: no class has two images, one of them to test on; give --test")
    chosen = choose_of_each_class(source.ids, labels, rows, share, seed)
    return LabelledImages(source, chosen, len(rows), tested, tested_rows)


def require_labels(source: ImageSource, advice: str = "") -> np.ndarray:
    """Return the labels of images, `(n,)`; refuse images without labels.

    Args:
        source: the images.
        advice: what else the user can do, for the end of the message.

    Raises:
        UserError: there are none.
    """
    if source.labels is None:
        raise UserError(
            f"data: {source.describe()}: no labels; put each class in a sub-folder, or give every "
            f"sample of shards a part cls{advice}"
        )
    return source.labels


def require_same_classes(train: ImageSource, test: ImageSource) -> None:
    """Refuse images to test on whose classes have other names.

    Raises:
        UserError: a class is on one side only.
    """
    if train.classes != test.classes:
        unknown = sorted(set(test.classes or []) ^ set(train.classes or []))
        raise UserError(
            "--test: its classes differ from those of the data: "
            f"{', '.join(unknown[:5])} on one side only"
        )


def choose_of_each_class(
    ids: np.ndarray, labels: np.ndarray, rows: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """Choose a share of the images of each class, at least one.

    The choice depends on the seed, the ids and the labels, not on the order of the rows. A larger
    share of the same seed includes a smaller one.

    Args:
        ids: `(n,)` uint64 sample ids.
        labels: `(n,)` integers.
        rows: `(m,)` the rows to choose from.
        share: above 0 and at most 1.
        seed: any integer.

    Returns:
        The chosen rows, in increasing order.
    """
    order = rows[shuffled(seed, 0, ids[rows])]
    # A stable sort by label keeps the random order within each class.
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.unique(labels[order], return_counts=True)[1]
    parts = np.split(by_class, np.cumsum(counts)[:-1])
    return np.sort(np.concatenate([part[: max(1, round(share * len(part)))] for part in parts]))


def hold_out(
    ids: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into those to train on and a fifth of each class to test on.

    The division is the same for every seed, so that all classifiers are tested on the same images.
    A class of one image has none to test on.

    Args:
        ids, labels, rows: see `choose_of_each_class`.

    Returns:
        The rows to train on and the rows to test on, in increasing order.
    """
    tested = choose_of_each_class(ids, labels, rows, HELD_OUT, seed=0)
    classes, counts = np.unique(labels[rows], return_counts=True)
    tested = tested[~np.isin(labels[tested], classes[counts == 1])]
    return np.setdiff1d(rows, tested), tested
