"""Classify images by the names of their classes, without training a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from ..common.errors import UserError
from ..data.image_source import NO_LABEL, ImageSource
from ..models.pair_encoder import PairEncoder
from ..models.text_lengths import report_cut
from .classes import majority_share, per_class
from .embed_pairs import embed_side

__all__ = ["TEMPLATES", "ZeroShot", "measure_zero_shot"]

DEPTH = 5
# The seven sentences of CLIP's short list are nearly as accurate as its eighty.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


@dataclass(frozen=True)
class ZeroShot:
    """The result of zero-shot classification.

    Attributes:
        accuracy: share of images assigned to their own class, in [0, 1].
        top5: share of images whose own class is among the nearest five; None with five classes or
            fewer.
        images: number of images that have a label and could be read.
        majority: share of the most frequent class.
        classes: names of the classes, as they stand in the sentences.
        per_class: accuracy of each class that has images, by its name.
    """

    accuracy: float
    top5: float | None
    images: int
    majority: float
    classes: list[str]
    per_class: dict[str, float]


def measure_zero_shot(
    encoder: PairEncoder, source: ImageSource, templates: Sequence[str] = TEMPLATES
) -> ZeroShot:
    """Assign each image to the class with the nearest prototype.

    A prototype is the mean of the unit vectors of one class's sentences (Radford et al., ICML
    2021, section 3.1.4).

    Args:
        encoder: towers for images and texts.
        source: labelled images.
        templates: sentences with {} in the place of the class name.

    Raises:
        UserError: images without labels, or a template without {}.
    """
    if source.labels is None or source.classes is None:
        raise UserError(f"data: {source.describe()}: no labels; put each class in a sub-folder")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"--templates: {template!r} has no {{}} where the name of a class goes")
    names = [name.replace("_", " ") for name in source.classes]
    report_cut(encoder.tokenizer, [t.replace("{}", name) for name in names for t in templates])
    prototypes = torch.stack([_embed_class(encoder, name, templates) for name in names])  # (C, d)
    images = torch.from_numpy(embed_side(encoder, source))  # (n, d)
    labels = torch.from_numpy(source.labels)
    used = ~images[:, 0].isnan() & (labels != NO_LABEL)
    similarity = images[used] @ normalize(prototypes, dim=1).cpu().T  # (m, C)
    if not len(similarity):
        raise UserError(f"data: {source.describe()}: no image with a label can be read")
    own = labels[used, None]
    found = similarity.topk(min(DEPTH, len(names)), dim=1).indices == own  # (m, 5)
    correct = found[:, 0].numpy()
    return ZeroShot(
        float(correct.mean()),
        float(found.any(dim=1).double().mean()) if len(names) > DEPTH else None,
        len(correct),
        majority_share(own[:, 0].numpy()),
        names,
        per_class(correct, own[:, 0].numpy(), names),
    )


def _embed_class(encoder: PairEncoder, name: str, templates: Sequence[str]) -> torch.Tensor:
    """Return the mean vector `(d,)` of a class's sentences."""
    return encoder.encode_text([t.replace("{}", name) for t in templates]).mean(dim=0)
