"""Measure the encoder of a run on images, beside raw pixels and the untrained encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..common.options import Augmentation, Protocol
from ..data.image_source import NO_LABEL, ImageSource
from ..distributed.launch import loader_workers
from ..models.encoders import EncoderSpec
from .embed_images import embed_images
from .knn import knn_accuracy
from .linear import linear_accuracy
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
    """

    raw_pixels: Accuracy
    untrained: Accuracy
    trained: Accuracy
    projections: ViewScores | None = None


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
    found: list[dict[str, float]] = [{} for _ in kinds]
    classifiers = [protocol for protocol in protocols if protocol != "views"]
    for encoder, accuracies in zip(kinds, found, strict=True):
        sources = [source for source in (train, test) if source is not None and classifiers]
        parts = [_embed_with_labels(encoder, each, spec, device, workers) for each in sources]
        accuracies |= {protocol: _classify(protocol, *parts) for protocol in classifiers}
    projections = None
    if views is not None:
        seen = train if test is None else test
        processes = loader_workers(seen.local, device, workers)
        for encoder, accuracies in zip(kinds, found, strict=True):
            pair = embed_random_views(
                encoder, seen, spec, views.augmentation, device=device, workers=processes
            )
            accuracies["views"] = view_recall(*pair)
        if views.projector is not None:  # the last pair is of the trained encoder
            projections = _score_projections(views.projector, pair, views.temperature)
    raw_pixels, before, after = (Accuracy(**accuracies) for accuracies in found)
    return ImageReport(raw_pixels, before, after, projections)


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
) -> float:
    """Return the accuracy of one classifier."""
    if protocol == "linear":
        return linear_accuracy(*train, *(test or (None, None)))
    tensors = [torch.from_numpy(part) for part in (*train, *(test or ()))]
    return knn_accuracy(*tensors)
