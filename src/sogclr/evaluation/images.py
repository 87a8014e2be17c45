"""Measure the encoder of a run on labelled images, beside raw pixels and the untrained encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..common.options import Protocol
from ..data.image_source import NO_LABEL, ImageSource
from ..distributed.launch import loader_workers
from ..models.encoders import EncoderSpec
from .embed_images import embed_images
from .knn import knn_accuracy
from .linear import linear_accuracy

__all__ = ["Accuracy", "ImageReport", "measure_images"]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in [0, 1] of one kind of features; None for a protocol that was not requested.

    Attributes:
        knn: of weighted k-nearest-neighbour classification.
        linear: of logistic regression.
    """

    knn: float | None = None
    linear: float | None = None


@dataclass(frozen=True)
class ImageReport:
    """The result of `sogclr.evaluate` for a run of `pretrain`.

    Attributes:
        raw_pixels: accuracy of the standardized pixels, without an encoder.
        untrained: accuracy of the encoder as it was before training.
        trained: accuracy of the trained encoder.
    """

    raw_pixels: Accuracy
    untrained: Accuracy
    trained: Accuracy


def measure_images(
    untrained: nn.Module,
    trained: nn.Module,
    spec: EncoderSpec,
    train: ImageSource,
    test: ImageSource | None,
    protocols: Sequence[Protocol],
    *,
    device: str,
    workers: int | None,
) -> ImageReport:
    """Classify images by frozen features of three kinds.

    Args:
        untrained: the encoder before training.
        trained: the encoder after training.
        spec: the input that both encoders expect.
        train: labelled images that the classifiers learn from.
        test: labelled images with the same classes; None to test on `train` itself, by
            leave-one-out (kNN) and cross-validation (linear).
        protocols: the classifiers to use.
        device: "cpu", "cuda" or "mps".
        workers: number of loader processes. Default: derived from the source and the device.
    """

    def measure(encoder: nn.Module | None) -> Accuracy:
        features = [
            _embed_with_labels(encoder, source, spec, device, workers)
            for source in (train, test)
            if source is not None
        ]
        return Accuracy(**{protocol: _classify(protocol, *features) for protocol in protocols})

    return ImageReport(
        raw_pixels=measure(None), untrained=measure(untrained), trained=measure(trained)
    )


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
    if encoder is not None:
        encoder = encoder.to(device)
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
