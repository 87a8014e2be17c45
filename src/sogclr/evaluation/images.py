"""Measure the encoder of a run on images, beside raw pixels and the untrained encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.options import Augmentation, Protocol
from ..data.image_source import NO_LABEL, ImageSource
from ..distributed.device import loader_workers
from ..models.encoders import EncoderSpec
from .classes import majority_share, per_class
from .embed_images import embed_images
from .knn import knn_predict
from .linear import linear_predict
from .random_views import embed_random_views
from .view_scores import ViewScores, view_recall, view_scores

__all__ = ["Accuracy", "ImageReport", "RandomViews", "measure_images"]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in [0, 1] of one kind of features; None for a protocol that was not requested.

    Attributes:
        knn: of weighted k-nearest-neighbour classification.
        linear: of logistic regression.
        views: R@1, how often a random view of an image is nearest to another view of this image,
            among those of at most 10,000 images. It needs no labels.
    """

    knn: float | None = None
    linear: float | None = None
    views: float | None = None


@dataclass(frozen=True)
class ImageReport:
    """The result of `sogclr.evaluate` for a run of `pretrain`.

    Attributes:
        raw_pixels: accuracy of the standardized pixels, without an encoder.
        untrained: accuracy of the encoder as it was before training.
        trained: accuracy of the trained encoder.
        projections: R@1, F and F2 of the projections of the random views; None if views were not
            requested, or if the run has no checkpoint, which holds its projector.
        images: number of images that knn and linear were tested on; 0 if neither was requested.
        majority: share of the most frequent class among them.
        per_class: accuracy of the trained encoder on each class, by its name.
        compared: number of images whose views were compared; 0 if views were not requested.
    """

    raw_pixels: Accuracy
    untrained: Accuracy
    trained: Accuracy
    projections: ViewScores | None = None
    images: int = 0
    majority: float = 0.0
    per_class: dict[str, Accuracy] = field(default_factory=dict)
    compared: int = 0


@dataclass(frozen=True)
class RandomViews:
    """The views of a run, and what compares them.

    Attributes:
        augmentation: resolved settings of its random views.
        temperature: tau of its loss.
        projector: maps features `(B, width)` to projections `(B, d)`, on the CPU in eval mode;
            None if it is lost.
    """

    augmentation: Augmentation
    temperature: float
    projector: nn.Module | None


def measure_images(
    untrained: nn.Module,
    trained: nn.Module,
    spec: EncoderSpec,
    train: ImageSource,
    test: ImageSource | None,
    protocols: Sequence[Protocol],
    views: RandomViews | None,
    *,
    device: str,
    workers: int | None,
) -> ImageReport:
    """Classify images by frozen features of three kinds, and find a view by another.

    Args:
        untrained: the encoder before training.
        trained: the encoder after training.
        spec: the input that both encoders expect.
        train: images that the classifiers learn from, with labels unless only views are measured.
        test: labelled images with the same classes; None to test on `train` itself, by
            leave-one-out (kNN) and cross-validation (linear). Views are of the tested images.
        protocols: the classifiers to use, or "views".
        views: how the run compares views; None if "views" is not among the protocols.
        device: "cpu", "cuda" or "mps".
        workers: number of loader processes. Default: derived from the source and the device.
    """
    kinds: tuple[nn.Module | None, ...] = (None, untrained.to(device), trained.to(device))
    found: list[dict[str, Any]] = [{} for _ in kinds]
    more: dict[str, Any] = {}
    if classifiers := [protocol for protocol in protocols if protocol != "views"]:
        for encoder, accuracies in zip(kinds, found, strict=True):
            sources = [train] if test is None else [train, test]
            parts = [_embed_with_labels(encoder, each, spec, device, workers) for each in sources]
            correct: dict[Protocol, np.ndarray] = {
                protocol: _classify(protocol, *parts) for protocol in classifiers
            }
            accuracies |= {protocol: float(right.mean()) for protocol, right in correct.items()}
        more = _describe_classes(correct, parts[-1][1], train.classes or [])
    if views is not None:
        seen = train if test is None else test
        processes = loader_workers(seen.local, device, workers)
        for encoder, accuracies in zip(kinds, found, strict=True):
            pair = embed_random_views(
                encoder, seen, spec, views.augmentation, device=device, workers=processes
            )
            accuracies["views"] = view_recall(*pair)
        more["compared"] = len(pair[0])
        if views.projector is not None:  # the last pair is of the trained encoder
            more["projections"] = _score_projections(views.projector, pair, views.temperature)
    raw_pixels, before, after = (Accuracy(**accuracies) for accuracies in found)
    return ImageReport(raw_pixels, before, after, **more)


def _describe_classes(
    correct: Mapping[Protocol, np.ndarray], labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Return the fields of a report that tell of the tested images and their classes.

    Args:
        correct: for each classifier, `(m,)` bool, whether each tested image was recognized.
        labels: `(m,)` integers.
        names: name of each label.
    """
    shares = {protocol: per_class(right, labels, names) for protocol, right in correct.items()}
    present = [names[label] for label in np.unique(labels)]
    return {
        "images": len(labels),
        "majority": majority_share(labels),
        "per_class": {
            name: Accuracy(**{protocol: of[name] for protocol, of in shares.items()})
            for name in present
        },
    }


@torch.no_grad()
def _score_projections(
    projector: nn.Module, features: tuple[Tensor, Tensor], temperature: float
) -> ViewScores:
    first, second = (projector(view) for view in features)
    return view_scores(first, second, temperature)


def _embed_with_labels(
    encoder: nn.Module | None,
    source: ImageSource,
    spec: EncoderSpec,
    device: str,
    workers: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return features `(m, d)` and labels `(m,)` of the readable images that have a label."""
    assert source.labels is not None
    processes = loader_workers(source.local, device, workers)
    rows = np.flatnonzero(source.labels != NO_LABEL)
    embedded = embed_images(encoder, source, spec, rows, device=device, workers=processes)
    return embedded.vectors, source.labels[embedded.indices]


def _classify(
    protocol: Protocol,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return whether one classifier recognizes each tested image, `(m,)` bool."""
    queries, truth = (None, train[1]) if test is None else test
    if protocol == "linear":
        return linear_predict(*train, queries) == truth
    bank, labels = (torch.from_numpy(part) for part in train)
    predicted = knn_predict(bank, labels, None if queries is None else torch.from_numpy(queries))
    return predicted.numpy() == truth
