"""The options of `pretrain`, apart from those that `settings.py` defines for `align` too."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from ..common.errors import require
from ..common.options import Method, Norm
from .settings import (
    Folder,
    MachineArguments,
    MethodSettings,
    TrainSettings,
)
from .settings_run import RunArguments
from .settings_temperature import TemperatureSettings, check_temperature

if TYPE_CHECKING:
    from torch import nn

    from ..data.open_images import Data

    File = str
    Encoder = str | nn.Module
else:  # what the command line accepts, and how its help names the value
    Data = Annotated[str, "DATA"]
    Encoder = Annotated[str, "NAME"]
    File = Annotated[str, "FILE"]

__all__ = ["ImageSettings", "PretrainArguments"]


@dataclass(frozen=True, kw_only=True)
class MoCoSettings(MethodSettings):
    """The options of MoCo alone."""

    queue_size: int | None = None
    """moco: number of features of earlier batches in the queue, the negatives of every anchor.
    Default: a sixteenth of the images, between 4,096 and 65,536, but at most all images."""

    momentum: float | None = None
    """moco: share of its weights that the momentum encoder, a moving average of the encoder, keeps
    in each step, at least 0 and below 1. Default: 0.99; 0.999 if the run has 100,000 steps or
    more."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The initial weights of the encoder, and the size of its images."""

    group: ClassVar[str] = "model"

    pretrained: bool = False
    """Start from timm's pretrained weights, which are downloaded once."""

    weights: File | None = None
    """Start from the weights in this file (safetensors or torch), or from the encoder of a run in
    this folder, which then decides encoder, norm and image size. The table starts anew."""

    norm: Norm = "auto"
    """Normalization inside encoder and projector. batch is batch normalization, which makes the
    samples of a small batch look less alike than they are. group replaces it by group normalization
    in the encoder and by layer normalization in the projector. auto is batch, which was more
    accurate even so (docs/results.md)."""

    image_size: int | None = None
    """Side of the training images in pixels. Default: the usual shorter side of the images."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings(MoCoSettings, TemperatureSettings, TrainSettings, EncoderSettings):
    """The settings of `pretrain` that decide its result."""

    kind: ClassVar[str] = "images"

    method: Method = "sogclr"
    """Contrastive method. A normalizer is the mean of exp(similarity / temperature) over a sample's
    negatives. sogclr keeps an estimate of it for each sample; simclr and dcl take it from the
    batch, moco from a queue of features of earlier batches."""

    encoder: str = "auto"
    """Encoder to train: any timm name, or `small`, which a CPU trains in reasonable time. From
    Python also an nn.Module that maps (B, 3, S, S) to (B, d). auto is small on a CPU, else
    resnet18 for images up to 64 pixels and resnet50 above."""

    batch_size: int | None = None
    """Number of images in one forward pass, over all processes. Default: 256; for fewer than 8,192
    images halved until an epoch has 32 batches, down to 16 images."""

    epochs: int = 100
    """Number of passes over the data."""

    temperature: float | None = None
    """Temperature of the loss: similarities are divided by it. Default: 0.2 for images up to 64
    pixels, 0.1 above, as in SimCLR."""

    memory_size: int | None = None
    """sogclr: number of images of earlier batches whose features are negatives too. Default: 0,
    since their features come from older weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self, self.method)
        for name in ("queue_size", "momentum"):
            given = getattr(self, name) is not None
            require(
                not given or self.method == "moco",
                name,
                f"goes with --method moco, not with {self.method}; leave it out",
            )
        if self.queue_size is not None:
            message = f"must be at least 1, got {self.queue_size}"
            require(self.queue_size >= 1, "queue_size", message)
        if self.momentum is not None:
            message = f"must be at least 0 and below 1, got {self.momentum:g}"
            require(0 <= self.momentum < 1, "momentum", message)
        if self.image_size is not None:
            require(
                self.image_size >= 1, "image_size", f"must be at least 1, got {self.image_size}"
            )
        if self.encoder == "small":
            message = "small has no pretrained weights; leave out --pretrained"
            require(not self.pretrained, "encoder", message)


@dataclass(frozen=True)
class PretrainArguments(ImageSettings, MachineArguments, RunArguments):
    """All arguments of `pretrain`."""

    group: ClassVar[str] = ""

    data: Data
    """Images to learn from: a folder, flat or nested (JPEG, PNG, WebP, BMP, TIFF, GIF), `digits`,
    or webdataset shards. Shards are a .tar file, a folder of such files, a pattern like
    'photos-{000..099}.tar', or a stream by URL like 'https://host/photos-{000..099}.tar'. From
    Python also an array or tensor of images, or a tuple (images, labels). Labels, such as the names
    of sub-folders, serve only to report kNN accuracy."""

    out: Folder
    """Folder of the run, which receives checkpoint, encoder, metrics and curves."""

    encoder: Encoder = field(default="auto", kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        MachineArguments.__post_init__(self)
        RunArguments.__post_init__(self)
        ImageSettings.__post_init__(self)
