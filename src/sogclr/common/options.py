"""Options that several layers read. Importing this module imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from .errors import require

if TYPE_CHECKING:
    from torch import nn

    File = str
    Model = str
    Name = str
    Tag = str
    ImageTower = str | nn.Module
else:  # what the command line accepts, and how its help names the value
    File = Annotated[str, "FILE"]
    Model = Annotated[str, "MODEL"]
    Tag = Annotated[str, "TAG"]
    Name = ImageTower = Annotated[str, "NAME"]

__all__ = [
    "REPORT_SAMPLES",
    "Augmentation",
    "ConcreteNorm",
    "ConcretePrecision",
    "Damaged",
    "Device",
    "ExportFormat",
    "File",
    "Method",
    "Norm",
    "NormalizerKind",
    "Optimizer",
    "PairMethod",
    "PairProtocol",
    "Precision",
    "Protocol",
    "TemperatureMode",
    "TowerInputSettings",
    "TowerSettings",
    "TrackerName",
    "split_names",
]

REPORT_SAMPLES = 4_000  # embedded for a report, if nothing else is asked for

Method = Literal["sogclr", "simclr", "dcl", "moco"]
PairMethod = Literal["sogclr", "clip", "dcl", "siglip"]
TemperatureMode = Literal["constant", "learned", "individual"]
Norm = Literal["auto", "batch", "group"]
ConcreteNorm = Literal["batch", "group"]
NormalizerKind = Literal["level", "table"]
Optimizer = Literal["auto", "lars", "sgd", "adamw"]
ConcretePrecision = Literal["32-true", "bf16-mixed"]
Precision = Literal["auto", "32-true", "bf16-mixed"]
Protocol = Literal["knn", "linear", "views"]
PairProtocol = Literal["retrieval", "zero-shot", "sts"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Damaged = Literal["skip", "refuse"]
ExportFormat = Literal["onnx", "torchscript", "openclip", "sentence-transformers", "timm"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


def split_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Split names at commas, as the command line gives them; take a sequence as it is."""
    if not isinstance(names, str):
        return tuple(names)
    return tuple(name.strip() for name in names.split(",") if name.strip())


@dataclass(frozen=True)
class Augmentation:
    """SimCLR's augmentations, which draw the random views of a training image.

    A value that is None is derived, see `resolved`.

    Raises:
        UserError: A value outside its range.
    """

    crop_min: float | None = None
    """Smallest share of an image's area that a random crop keeps, in [0, 1]. Default: 0.9 for
    pairs; for images alone 0.2 up to 64 pixels, 0.08 above."""

    flip: float | None = None
    """Probability of a horizontal flip, in [0, 1]. Default: 0 for pairs; for images alone 0.5."""

    color: float | None = None
    """Strength of color jitter, in [0, 1.25], applied to 80 % of the views. Brightness, contrast
    and saturation change by up to 0.8 times the strength, hue by up to 0.2 times. Default: 0 for
    pairs; for images alone 0.5 up to 64 pixels, 1 above."""

    gray: float | None = None
    """Probability of conversion to gray, in [0, 1]. Default: 0 for pairs; for images alone 0.2."""

    blur: float | None = None
    """Probability of a Gaussian blur, in [0, 1]. Its sigma is 0.1 to 2 pixels. Default: 0 for
    pairs; for images alone 0 up to 64 pixels, 0.5 above."""

    def __post_init__(self) -> None:
        highest = {"crop_min": 1, "flip": 1, "color": 1.25, "gray": 1, "blur": 1}
        for name, most in highest.items():
            value = getattr(self, name)
            if value is not None:
                message = f"must be between 0 and {most:g}, got {value:g}"
                require(0 <= value <= most, f"views.{name}", message)

    def resolved(self, image_size: int) -> "Augmentation":
        """Replace None by SimCLR's values: for ImageNet above 64 pixels, else for CIFAR-10.

        Crops of small images keep a fifth, as in solo-learn: less of 32 pixels is a smear.

        Args:
            image_size: side of the training images in pixels.
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
        """Replace the values of `other` by those that are not None here."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(other, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class TowerInputSettings:
    """The towers of `align`, as far as they decide what the towers receive."""

    group: ClassVar[str] = "model"

    model: Model | None = None
    """open_clip model to train: its name, its folder, or a file with its configuration. Default:
    none; `image_tower` and `text_tower` are joined instead."""

    image_tower: ImageTower | None = None
    """Image tower instead of `model`: a timm name, with its published weights. From Python also an
    nn.Module that maps (B, 3, S, S) to (B, w). Default: a small ResNet with random weights."""

    text_tower: Name | None = None
    """Text tower instead of `model`: a Hugging Face name, or the folder of such a model. Default:
    a small transformer with random weights."""

    image_size: int | None = None
    """Side in pixels of the images that the image tower receives. Default: what the tower was
    trained with; for the small tower that of the data, at most 64."""

    context_length: int | None = None
    """Number of tokens of a text that the text tower receives, at least 3. Longer texts are cut,
    and their share is printed. Default: as many as the text tower takes; 32 for the small one."""

    def __post_init__(self) -> None:
        for name in ("image_tower", "text_tower", "image_size"):
            self._require_joined(name)
        size, length = self.image_size, self.context_length
        require(size is None or size >= 1, "image_size", f"must be at least 1, got {size}")
        message = f"must be at least 3, for a token between the first and the last, got {length}"
        require(length is None or length >= 3, "context_length", message)

    def _require_joined(self, name: str) -> None:
        message = "is for joined towers, but --model brings its own; leave out one of them"
        require(self.model is None or getattr(self, name) is None, name, message)


@dataclass(frozen=True, kw_only=True)
class TowerSettings(TowerInputSettings):
    """The towers of `align`: one open_clip model, or an image tower and a text tower joined."""

    pretrained: Tag | None = None
    """Weights of `model`: a tag of open_clip, or a file. Default: random weights, unless `model`
    is a folder with weights."""

    image_weights: File | None = None
    """Weights of `image_tower` in a file, instead of the published ones."""

    width: int | None = None
    """Dimension of the joint space. Default: that of `model`; 256 for joined towers, 128 if both
    are the small ones."""

    def __post_init__(self) -> None:
        TowerInputSettings.__post_init__(self)
        for name in ("image_weights", "width"):
            self._require_joined(name)
        if self.model is None:
            message = "goes with --model; the weights of an image tower are --image-weights FILE"
            require(self.pretrained is None, "pretrained", message)
        width = self.width
        require(width is None or width >= 1, "width", f"must be at least 1, got {width}")

    def starts_trained(self) -> bool:
        """Tell whether the towers start from trained weights."""
        if self.model is not None:
            published = self.pretrained is not None or ":" in self.model
            return published or Path(self.model).is_dir()
        return self.image_tower is not None or self.text_tower is not None
