"""The options of `align`, apart from those that `settings.py` defines for `pretrain` too."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from ..common.errors import require
from ..common.options import (
    NormalizerKind,
    PairMethod,
    Precision,
    TowerSettings,
    split_names,
)
from ..common.stored_fields import build_from_json, require_type
from .settings import (
    DataSettings,
    Folder,
    MachineArguments,
    OptimizationSettings,
    TrainSettings,
)
from .settings_run import RunArguments
from .settings_temperature import TemperatureSettings, check_temperature

if TYPE_CHECKING:
    Pairs = Any
    Columns = str | Sequence[str]
    Towers = str | Sequence[str]
else:  # what the command line accepts, and how its help names the value
    Pairs = Annotated[str, "TABLE"]
    Columns = Annotated[str, "A,B"]
    Towers = Annotated[str, "TOWERS"]

__all__ = ["AlignArguments", "PairSettings"]


@dataclass(frozen=True, kw_only=True)
class TableSettings(DataSettings):
    """The columns of a table that are read."""

    columns: Columns | None = None
    """Names of the table's two columns, with a comma between them. From Python also a sequence.
    Default: guessed from the usual names, and printed."""

    def __post_init__(self) -> None:
        if self.columns is not None:
            object.__setattr__(self, "columns", split_names(self.columns))


@dataclass(frozen=True, kw_only=True)
class HeadSettings(OptimizationSettings):
    """The regularization of heads."""

    dropout: float | None = None
    """Probability of dropout in the heads, at least 0 and below 1. Only the heads of named towers
    have a place for it: `text_tower`, and a frozen `image_tower`. Default: 0.3 if both towers are
    frozen and named, else 0."""


@dataclass(frozen=True, kw_only=True)
class PairSettings(TableSettings, TemperatureSettings, HeadSettings, TowerSettings, TrainSettings):
    """The settings of `align` that decide its result."""

    kind: ClassVar[str] = "pairs"

    method: PairMethod = "sogclr"
    """Contrastive method. A normalizer is the mean of exp(similarity / temperature) over a sample's
    negatives. sogclr keeps an estimate of it for each sample of each side; clip and dcl take it
    from the batch. siglip has none: it classifies each pair of a batch by a sigmoid."""

    batch_size: int | None = None
    """Number of pairs in one forward pass, over all processes. Default: 256; for fewer than 8,192
    pairs halved until an epoch has 32 batches, down to 16 pairs."""

    epochs: int = 30
    """Number of passes over the images, each with one of its captions."""

    temperature: float | None = None
    """Temperature of the loss: similarities are divided by it. Default: 0.05; 0.1 for
    siglip."""

    normalizer: NormalizerKind = "table"
    """sogclr: estimator of the samples' normalizers. table is the SogCLR paper's: a moving average
    for each sample, updated only when the sample is visited. level adds one level that all samples
    share, which follows the towers at every step."""

    memory_size: int | None = None
    """sogclr: number of pairs of earlier batches whose features are negatives too. Default: 0,
    since their features come from older weights; if both towers are frozen, 256 minus the
    batch size."""

    learning_rate: float | None = None
    """Highest learning rate, reached after a tenth of the run (at most 10 epochs); a cosine then
    takes it to 0. Default: the square root of the pairs per step, times 2.5e-4 for adamw, 0.0075
    for sgd or 0.075 for lars; an eighth of it if only heads are trained, a hundredth if
    pretrained towers are fine-tuned."""

    precision: Precision = "auto"
    """Number format of the forward pass. auto is bf16-mixed on a GPU or CPU that multiplies
    bfloat16 in hardware, else 32-true; 32-true also if only heads are trained."""

    def __post_init__(self) -> None:
        TableSettings.__post_init__(self)
        TrainSettings.__post_init__(self)
        TowerSettings.__post_init__(self)
        check_temperature(self, self.method)
        dropout = self.dropout
        if dropout is not None:
            message = f"must be at least 0 and below 1, got {dropout:g}"
            require(0 <= dropout < 1, "dropout", message)

    @classmethod
    def from_dict(cls, stored: Any, name: str = "settings") -> Self:
        """Build the settings as `TrainSettings.from_dict` does; the columns are a list in JSON."""
        columns = stored.get("columns") if isinstance(stored, dict) else None
        if columns is None:
            return build_from_json(cls, stored, name)
        require_type(columns, list[str] | tuple[str, ...], f"{name}: columns")
        settings = build_from_json(cls, {**stored, "columns": None}, name)
        return replace(settings, columns=tuple(columns))

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data; an image tower that is a module becomes the name of its class."""
        tower = self.image_tower
        name = (
            tower if tower is None or isinstance(tower, str) else f"custom:{type(tower).__name__}"
        )
        return asdict(replace(self, image_tower=name))


@dataclass(frozen=True)
class AlignArguments(PairSettings, MachineArguments, RunArguments):
    """All arguments of `align`."""

    group: ClassVar[str] = ""

    data: Pairs
    """Pairs to learn from: a table (CSV, TSV, JSONL or Parquet; paths of images are relative to
    it), a folder that Hugging Face datasets saved, hf:owner/name, or webdataset shards with images
    and captions (parts jpg and txt, or json), also as a stream by URL like
    'https://host/pairs-{000..099}.tar'. An image in several rows has several captions. From Python
    also a mapping of column names to lists."""

    out: Folder
    """Folder of the run, which receives checkpoint, towers, metrics and curves."""

    val: Pairs | None = field(default=None, kw_only=True)
    """Held-out pairs in the same form as `data`, but no stream; retrieval on them is reported
    during training. Default: a sample of the training pairs is reported."""

    freeze: Towers = field(default="", kw_only=True)
    """Towers to freeze: image, text, or image,text. From Python also a sequence. Only their
    heads are trained; their features are computed once and stored, or at every step for a stream.
    Default: none."""

    process_timeout: float = field(default=MachineArguments.process_timeout, kw_only=True)
    """Seconds that a process waits for another one, which torchrun started, before it gives up.
    Raise it if the first process takes longer to embed a frozen tower while the others wait."""

    def __post_init__(self) -> None:
        MachineArguments.__post_init__(self)
        RunArguments.__post_init__(self)
        PairSettings.__post_init__(self)
