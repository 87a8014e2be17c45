"""Choices that Python and the command line share. Light: importing this imports nothing heavy."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from .errors import UserError

__all__ = [
    "Augmentation",
    "ConcretePrecision",
    "Damaged",
    "Device",
    "Method",
    "Optimizer",
    "PairMethod",
    "PairProtocol",
    "Precision",
    "Protocol",
    "Tau",
]

Method = Literal["sogclr", "simclr", "dcl", "moco"]
PairMethod = Literal["sogclr", "clip", "dcl", "siglip"]
Tau = Literal["constant", "learned", "individual"]
Optimizer = Literal["auto", "lars", "sgd", "adamw"]
ConcretePrecision = Literal["32-true", "bf16-mixed"]
Precision = Literal["auto", "32-true", "bf16-mixed"]
Protocol = Literal["knn", "linear"]
PairProtocol = Literal["retrieval", "zero-shot", "sts"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Damaged = Literal["skip", "refuse"]


@dataclass(frozen=True)
class Augmentation:
    """How two random views of an image are drawn: SimCLR's augmentations.

    None means derived from the image size, see `resolved`. Probabilities and shares are in
    [0, 1].

    Attributes:
        crop_min: smallest share of the image's area that a crop keeps.
        flip: probability of a horizontal flip.
        color: strength of the colour jitter: brightness, contrast and saturation change by up
            to 0.8 times this, hue by 0.2 times; applied with probability 0.8.
        gray: probability of turning grey.
        blur: probability of a Gaussian blur, sigma 0.1 to 2 pixels, kernel a tenth of the image.
    """

    crop_min: float | None = None
    flip: float | None = None
    color: float | None = None
    gray: float | None = None
    blur: float | None = None

    def resolved(self, image_size: int) -> "Augmentation":
        """Fill in SimCLR's values: those of its ImageNet runs; to 64 px, of CIFAR-10 runs.

        Crops of small images keep a fifth, as is usual (solo-learn): less of 32 px is a smear.
        """
        small = image_size <= 64
        usual = Augmentation(
            crop_min=0.2 if small else 0.08,
            flip=0.5,
            color=0.5 if small else 1.0,
            gray=0.2,
            blur=0.0 if small else 0.5,
        )
        return self.over(usual)

    def over(self, other: "Augmentation") -> "Augmentation":
        """`other`, with what is set here set here."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(other, **{name: value for name, value in mine.items() if value is not None})

    def __post_init__(self) -> None:
        for name in ("crop_min", "flip", "gray", "blur"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"views: {name} must be between 0 and 1, got {value}")
        if self.color is not None and not 0 <= self.color <= 1.25:
            raise UserError(f"views: color must be between 0 and 1.25, got {self.color}")
