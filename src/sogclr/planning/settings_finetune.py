"""The options of `finetune`."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias

from ..common.errors import require
from ..common.options import Device
from .settings import DataSettings, Folder, MachineArguments, PrecisionSettings
from .settings_base import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ..data.open_images import Data

    Run: TypeAlias = str | Path
    OtherData = Data
    OwnModule = nn.Module | None
else:  # what the command line accepts, and how its help names the value
    from tyro.conf import Suppress

    Run = Annotated[str, "RUN"]
    Data = OtherData = Annotated[str, "DATA"]
    OwnModule = Suppress[str | None]

__all__ = ["FinetuneArguments", "FinetuneSettings"]


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(PrecisionSettings, DataSettings, Settings):
    """The settings of `finetune` that decide its result.

    Raises:
        UserError: A value that cannot work with any data.
    """

    group: ClassVar[str] = "optimization"
    kind: ClassVar[str] = "classifier"

    label_share: float = 1.0
    """Share of the training labels that are used, above 0 and at most 1: 0.01 for 1 %. Of each
    class the same share is drawn, at least one image. A larger share includes a smaller one."""

    only_head: bool = False
    """Fit the head alone, on features that stay as they are."""

    initial: bool = False
    """Start from the encoder as it was before `pretrain`, to see what pretraining is worth."""

    epochs: int | None = None
    """Number of passes over the labelled images. Default: 30, as in SimCLR; with fewer labels up to
    100, until the run has 1,000 steps."""

    batch_size: int | None = None
    """Number of images in one step. Default: 256, halved until an epoch has 32 batches, down to
    16 images."""

    learning_rate: float | None = None
    """Highest learning rate of the encoder, by AdamW. Default: the square root of `batch_size`
    times 6e-5; for the initial encoder 2.5e-4, as in `pretrain`."""

    head_learning_rate: float | None = None
    """Highest learning rate of the head. Default: the square root of `batch_size` times 2.5e-4."""

    seed: int = 0
    """Seed of the labels that are drawn, of the order of the images and of their random views."""

    def __post_init__(self) -> None:
        self.check_choices()
        share = self.label_share
        message = f"must be above 0 and at most 1, got {share:g}; 0.01 is 1 %"
        require(0 < share <= 1, "label_share", message)
        for name, least in (("epochs", 1), ("batch_size", 2), ("seed", 0)):
            value = getattr(self, name)
            message = f"must be at least {least} and less than 2**63, got {value}"
            require(value is None or least <= value < 2**63, name, message)
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            message = f"must be above 0 and finite, got {value}"
            require(value is None or 0 < value < math.inf, name, message)
        if self.only_head:
            for name in ("epochs", "batch_size", "learning_rate", "head_learning_rate"):
                message = "has no effect with --only-head, which needs no steps; leave it out"
                require(getattr(self, name) is None, name, message)


@dataclass(frozen=True)
class FinetuneArguments(FinetuneSettings):
    """All arguments of `finetune`."""

    group: ClassVar[str] = ""

    run: Run
    """Folder of a run of `pretrain`."""

    data: Data
    """Labelled images: a folder whose sub-folders are the labels, shards with labels, or `digits`.
    From Python also a tuple (images, labels)."""

    test: OtherData | None = None
    """Other labelled images, with the same labels, to test on. Default: a fifth of the images of
    each class, which are then not trained on."""

    out: Folder | None = None
    """Folder of the classifier. Default: finetuned, in the folder of the run."""

    resume: bool = False
    """Continue in `out`; the result is the same as without an interruption."""

    device: Device = "auto"
    """Device to train on. auto is cuda if there is one, else mps, else cpu."""

    workers: int | None = None
    """Number of processes that load samples. Default: 0 on a CPU and for data in memory, else one
    per CPU core, at most 8."""

    encoder: OwnModule = None
    """An nn.Module of the architecture that was trained, if the run trained your own."""

    def __post_init__(self) -> None:
        MachineArguments(workers=self.workers)
        FinetuneSettings.__post_init__(self)
