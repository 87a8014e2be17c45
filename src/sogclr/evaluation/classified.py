"""Measure a classifier on labelled images."""

from dataclasses import dataclass

import numpy as np

from ..common.errors import UserError
from ..data.image_source import ImageSource
from ..distributed.device import loader_workers
from ..models.classifier import ImageClassifier
from .classes import majority_share, per_class, standard_error
from .embed_images import embed_images

__all__ = ["Classified", "measure_classifier"]


@dataclass(frozen=True)
class Classified:
    """The accuracy of a classifier on labelled images.

    Attributes:
        accuracy: share of the images whose class was recognized, in [0, 1].
        standard_error: standard error of the accuracy, from the number of images.
        images: number of images that were tested.
        majority: share of the most frequent class among them.
        per_class: accuracy on each class, by its name.
    """

    accuracy: float
    standard_error: float
    images: int
    majority: float
    per_class: dict[str, float]


def measure_classifier(
    classifier: ImageClassifier,
    source: ImageSource,
    rows: np.ndarray,
    *,
    device: str,
    workers: int | None,
) -> Classified:
    """Classify one undistorted view of each image.

    Args:
        classifier: the classifier, on the device.
        source: images with labels; the names of their classes are those of the classifier.
        rows: `(m,)` the rows to test.
        device: "cpu", "cuda" or "mps".
        workers: number of loader processes. Default: derived from the source and the device.

    Raises:
        UserError: no image could be read.
    """
    assert source.labels is not None
    assert source.classes is not None
    processes = loader_workers(source.local, device, workers)
    spec = classifier.spec
    logits = embed_images(classifier, source, spec, rows, device=device, workers=processes)
    if not len(logits.indices):
        raise UserError("data: none of the images to test on can be read")
    # The data may have some of the classes only.
    index = np.array([classifier.classes.index(name) for name in source.classes])
    truth = index[source.labels[logits.indices]]
    correct = logits.vectors.argmax(axis=1) == truth
    accuracy = float(correct.mean())
    return Classified(
        accuracy=accuracy,
        standard_error=standard_error(accuracy, len(truth)),
        images=len(truth),
        majority=majority_share(truth),
        per_class=per_class(correct, truth, classifier.classes),
    )
