"""The sections that need labels: results beside raw pixels, confusion of classes."""

import math

import numpy as np
import torch
from torch import nn

from ...data.image_source import NO_LABEL, ImageSource
from ...models.encoders import EncoderSpec
from ..classes import standard_error
from ..embed_images import embed_images
from ..findings.labels import (
    LabelVotes,
    confusion,
    vote_by_neighbours,
)
from ..findings.neighbours import nearest_neighbours
from ..knn import knn_accuracy
from .page import Block, Section, Table, Text
from .samples import NEIGHBOURS, Samples

__all__ = ["NO_LABELS", "LabelledSamples", "results_section"]

NO_LABELS = "the data has no labels; put each class in a sub-folder"
MOST_COMPARED = 2_000  # images that raw pixels and the untrained encoder are compared on
MOST_CLASSES = 12  # whose confusion is a table; of more, the most confused pairs are listed
SHOWN_CONFUSED = 15


def results_section(
    samples: Samples, untrained: nn.Module | None, spec: EncoderSpec, device: str
) -> Section:
    """Compare the trained encoder with raw pixels and the untrained encoder, by kNN.

    Args:
        samples: embedded images.
        untrained: the encoder before training; None if it is lost.
        spec: the input that it expects.
        device: "cpu", "cuda" or "mps".
    """
    title = "Results"
    if samples.labels is None or not isinstance(samples.source, ImageSource):
        return Section(title, missing=NO_LABELS, lines=[f"no accuracy is measured: {NO_LABELS}"])
    labelled = np.flatnonzero(samples.labels != NO_LABEL)[:: _stride(samples.labels)]
    labels = torch.from_numpy(samples.labels[labelled])
    rows = samples.rows[labelled]
    share = float(labels.bincount().max()) / len(labels)
    found = dict[str, float]()
    kinds: list[tuple[str, nn.Module | None]] = [("raw pixels", None)]
    if untrained is not None:
        kinds.append(("untrained encoder", untrained.to(device)))
    for name, encoder in kinds:
        vectors = embed_images(encoder, samples.source, spec, rows, device=device, quiet=True)
        if np.array_equal(vectors.indices, rows):
            found[name] = knn_accuracy(torch.from_numpy(vectors.vectors), labels)
    found["trained encoder"] = knn_accuracy(torch.from_numpy(samples.vectors[labelled]), labels)
    rows_shown = [["always the largest class", _percent(share), ""]]
    rows_shown += [_line(name, accuracy, rows) for name, accuracy in found.items()]
    seen = " The run was trained on these images, without labels." * samples.were_trained_on
    caption = (
        f"Accuracy of kNN with {NEIGHBOURS} neighbours on {len(labels):,} images, each left out in "
        f"turn, and its standard error.{seen} sogclr evaluate measures more: a linear probe, a "
        "test set."
    )
    table = Table(["features", "kNN accuracy", "standard error"], rows_shown, caption)
    lines = _say_results(found, len(labels))
    blocks: list[Block] = [Text(f"{line[:1].upper()}{line[1:]}.") for line in lines[1:]]
    return Section(title, [*blocks, table], lines=lines)


def _say_results(found: dict[str, float], images: int) -> list[str]:
    """Compare the accuracies of all kinds of features in one line; add what to do if training lost.

    Args:
        found: accuracy of each kind of features, the trained encoder last.
        images: number of images.
    """
    trained = found["trained encoder"]
    error = 100 * standard_error(trained, images)
    parts = [f"{name} {_percent(accuracy)}" for name, accuracy in found.items()]
    lines = [f"kNN accuracy on {images:,} images: {', '.join(parts)} (± {error:.1f})"]
    if trained + error / 100 < max(found.values()):  # a smaller difference may be chance
        lines.append(
            "training has not paid yet: try more --epochs, and look at the augmented views "
            "in the report"
        )
    return lines


def _stride(labels: np.ndarray) -> int:
    """Choose every how many labelled samples are compared."""
    return max(1, math.ceil(int((labels != NO_LABEL).sum()) / MOST_COMPARED))


def _line(name: str, accuracy: float, rows: np.ndarray) -> list[str]:
    return [name, _percent(accuracy), f"± {100 * standard_error(accuracy, len(rows)):.1f}"]


def _percent(share: float) -> str:
    return f"{share:.1%}"


class LabelledSamples:
    """The labelled ones among samples, and the votes of their neighbours.

    Args:
        samples: embedded samples with labels.
    """

    def __init__(self, samples: Samples) -> None:
        assert samples.labels is not None
        self.samples = samples
        self.positions = np.flatnonzero(samples.labels != NO_LABEL)
        self.labels = samples.labels[self.positions]
        near = samples.neighbours
        if len(self.positions) < len(samples):
            near = nearest_neighbours(samples.vectors[self.positions], NEIGHBOURS)
        self.near = near
        self.votes: LabelVotes = vote_by_neighbours(near, self.labels)

    def confusion_section(self) -> Section:
        """Show which classes the neighbours take for which."""
        title = "Confusion of classes"
        classes = self.samples.classes or []
        counts = confusion(self.labels, self.votes.winner, len(classes))
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        accuracy = float((self.votes.winner == self.labels).mean())
        text = Text(
            f"The vote of {self.near.index.shape[1]} neighbours agrees with the label of "
            f"{accuracy:.1%} of the images ({self.samples.describe()})."
        )
        blocks: list[Block] = [text]
        if len(classes) <= MOST_CLASSES:
            caption = "Rows: the label. Columns: what the neighbours say. Percent of the row."
            cells = [[f"{100 * share:.0f}" if share else "" for share in row] for row in shares]
            table = Table(
                ["label", *classes],
                [[name, *row] for name, row in zip(classes, cells, strict=True)],
                caption,
                [[0.0, *row] for row in shares.tolist()],
            )
            blocks.append(table)
        if (confused := self._confused_table(counts, shares)).rows:
            blocks.append(confused)
        return Section(title, blocks)

    def _confused_table(self, counts: np.ndarray, shares: np.ndarray) -> Table:
        others = counts.copy()
        np.fill_diagonal(others, 0)
        order = np.argsort(-others, axis=None, kind="stable")[:SHOWN_CONFUSED]
        rows = []
        for label, winner in zip(*np.unravel_index(order, counts.shape), strict=True):
            if others[label, winner]:
                share = _percent(float(shares[label, winner]))
                names = [self.samples.label_name(label), self.samples.label_name(winner)]
                rows.append([*names, f"{counts[label, winner]:,}", share])
        header = ["label", "neighbours say", "images", "share of the label"]
        return Table(header, rows, "The most frequent confusions.", numeric=False)
