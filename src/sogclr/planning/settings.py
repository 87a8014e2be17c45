"""The options that `pretrain` and `align` share, each defined only here.

The docstring under a field is the command's help and Python's documentation. `group` names the
box of the help that shows the fields of a class. Importing this module imports nothing heavy.
"""

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from ..common.errors import require
from ..common.options import Augmentation, Damaged, Device, NormalizerKind, Optimizer, Precision
from .settings_base import Settings

if TYPE_CHECKING:
    from pathlib import Path

    Folder = str | Path
else:  # what the command line accepts, and how its help names the value
    Folder = Annotated[str, "FOLDER"]

__all__ = [
    "GROUPS",
    "Folder",
    "MachineArguments",
    "TrainSettings",
]

# The boxes of the help, in their order; the first one has no title of its own.
GROUPS = ("", "data", "model", "method", "views", "optimization", "machine", "stream", "run")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The choice of samples."""

    group: ClassVar[str] = "data"

    on_damaged: Damaged = "skip"
    """What to do about damaged shards, images and rows of a data table: skip leaves them out and
    names them; refuse ends with an error before training starts."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The choice of the loss."""

    group: ClassVar[str] = "method"

    temperature: float | None = None
    """Temperature of the loss: similarities are divided by it."""

    normalizer: NormalizerKind = "level"
    """sogclr: estimator of the samples' normalizers. table is the SogCLR paper's: a moving average
    for each sample, updated only when the sample is visited. level adds one level that all samples
    share, which follows the encoder at every step."""

    gamma_min: float = 0.2
    """sogclr: smallest weight that a batch's new estimate gets in the moving average of a sample's
    normalizer, above 0 and at most 1. A smaller weight averages over more visits."""

    gamma_decay_visits: int | None = None
    """sogclr: number of visits to a sample over which the weight of a new estimate falls along a
    cosine from 1 to `gamma_min`. Default: the weight is 1/visits until it reaches `gamma_min`."""

    effective_negatives: float | None = None
    """sogclr: number n of negatives that compete with each positive, as in a loss that takes them
    from a batch of n + 1 samples. Default: all samples, as in the SogCLR paper;
    try 255 to fine-tune pretrained weights."""

    memory_size: int | None = None
    """sogclr: number of samples of earlier batches whose features are negatives too."""


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """The optimization of the loss."""

    group: ClassVar[str] = "optimization"

    accumulate: int = 1
    """Number of forward passes, of `batch_size` each, per optimizer step. sogclr and moco then
    optimize the objective of one large batch, other methods that of the small batches."""

    optimizer: Optimizer = "auto"
    """Rule by which gradients change the weights. auto is adamw, which tolerates the widest range
    of learning rates."""

    learning_rate: float | None = None
    """Highest learning rate, reached after a tenth of the run (at most 10 epochs); a cosine then
    takes it to 0. Default: the square root of the samples per step, times 2.5e-4 for adamw, 0.0075
    for sgd or 0.075 for lars."""

    weight_decay: float | None = None
    """Strength of weight decay; biases and normalization layers are exempt. Default: 0.05 for
    adamw, 5e-4 for sgd, 1e-6 for lars."""

    seed: int = 0
    """Seed of the initial weights, the order of the samples and the random views."""


@dataclass(frozen=True, kw_only=True)
class PrecisionSettings:
    """The number format. It is stored with the run, since it changes the result a little."""

    group: ClassVar[str] = "machine"

    precision: Precision = "auto"
    """Number format of the forward pass. auto is bf16-mixed on a GPU or CPU that multiplies
    bfloat16 in hardware, else 32-true."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """The sizes of a stream, which is data that is read by URL during training."""

    group: ClassVar[str] = "stream"

    table_rows: int | None = None
    """Required for a stream with sogclr: number of rows in the table of normalizers, 8 bytes each.
    Samples are hashed to rows; with ten times as many rows as samples, a tenth of the samples share
    a row."""

    epoch_samples: int | None = None
    """Required for a stream: number of samples in one epoch, since a stream has no known length."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(
    StreamSettings,
    PrecisionSettings,
    OptimizationSettings,
    MethodSettings,
    DataSettings,
    Settings,
):
    """The settings that decide the result of a run. A resumed run keeps them.

    Raises:
        UserError: A value that cannot work with any data.
    """

    group: ClassVar[str] = ""

    method: str = "sogclr"
    """Contrastive method."""

    batch_size: int | None = None
    """Number of samples in one forward pass."""

    epochs: int = 100
    """Number of passes over the data."""

    views: Augmentation = field(default_factory=Augmentation)
    """Random changes of the training images, each a probability or a strength."""

    def __post_init__(self) -> None:
        self.check_choices()
        self._check_ranges()
        usual = {field.name: field.default for field in fields(self)}
        for name in ("effective_negatives", "memory_size", "gamma_min", "gamma_decay_visits"):
            require(
                getattr(self, name) in (None, usual[name]) or self.method == "sogclr",
                name,
                f"goes with --method sogclr, not with {self.method}; leave it out",
            )

    def _check_ranges(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int):  # what numpy and torch can hold
                require(
                    abs(value) < 2**63, each.name, f"{value} is too large; give less than 2**63"
                )
        size, rate, decay = self.batch_size, self.learning_rate, self.weight_decay
        if size is not None:
            require(size >= 2, "batch_size", f"{size} leaves no negatives; give at least 2")
        for name in ("epochs", "accumulate", "gamma_decay_visits"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, f"must be at least 1, got {value}")
        for name, advice in (("temperature", "; try 0.1"), ("effective_negatives", "; try 255")):
            value = getattr(self, name)
            if value is not None:
                message = f"must be above 0 and finite, got {value:g}{advice}"
                require(0 < value < math.inf, name, message)
        if rate is not None:
            message = f"must be above 0 and finite, got {rate:g}"
            require(0 < rate < math.inf, "learning_rate", message)
        if decay is not None:
            message = f"must be 0 or above and finite, got {decay:g}"
            require(0 <= decay < math.inf, "weight_decay", message)
        message = f"must be above 0 and at most 1, got {self.gamma_min:g}"
        require(0 < self.gamma_min <= 1, "gamma_min", message)
        for name in ("memory_size", "seed"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, f"must not be negative, got {value}")


MOST_WORKERS = 1_000  # far more would stop the machine


@dataclass(frozen=True, kw_only=True)
class MachineArguments:
    """The machine that computes a run. A resumed run may use another machine."""

    group: ClassVar[str] = "machine"

    device: Device = "auto"
    """Device to train on. auto is cuda if there is one, else mps, else cpu."""

    workers: int | None = None
    """Number of processes that load samples. Default: 0 on a CPU and for data in memory, else one
    per CPU core, at most 8."""

    shard_model: bool = False
    """Divide weights and optimizer state among the processes that torchrun started, for models
    that are too large for one device; otherwise each process holds a copy."""

    checkpoint_activations: bool = False
    """Keep only the inputs of an encoder's blocks, and compute the rest of a block again in the
    backward pass: much less memory for about a third more time, and the same result."""

    process_timeout: float = 1800.0
    """Seconds that a process waits for another one, which torchrun started, before it gives up."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            require(self.workers >= 0, "workers", f"must not be negative, got {self.workers}")
            message = f"must be at most {MOST_WORKERS:,}, got {self.workers}"
            require(self.workers <= MOST_WORKERS, "workers", message)
        message = f"must be above 0 and at most a year, got {self.process_timeout:g}"
        require(0 < self.process_timeout <= 366 * 86_400, "process_timeout", message)
