"""The options of `preview`: those of `pretrain` and `align` that decide what a tower receives."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..common.errors import require
from ..common.options import Augmentation, TowerInputSettings
from .settings_images import Encoder, ImageSettings
from .settings_pairs import PairSettings, TableSettings, Towers

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.open_images import Data

    File = str | Path
else:  # what the command line accepts, and how its help names the value
    from ..common.options import File
    from .settings_images import Data

__all__ = ["FOR_IMAGES", "FOR_PAIRS", "PreviewArguments"]

S = TypeVar("S", ImageSettings, PairSettings)

# Options that play a part only for images alone, and only for pairs.
FOR_IMAGES = ("encoder",)
FOR_PAIRS = ("columns", "model", "image_tower", "text_tower", "context_length", "freeze")


@dataclass(frozen=True)
class PreviewArguments(TowerInputSettings, TableSettings):
    """All arguments of `preview`; a test holds their defaults against `pretrain` and `align`."""

    group: ClassVar[str] = ""

    data: Data
    """Images or pairs, as `pretrain` or `align` takes them, but no stream. From Python also an
    array or tensor of images, a tuple (images, labels), or a mapping of column names to lists."""

    out: File = field(default="preview.png", kw_only=True)
    """PNG file to write, or a folder for it."""

    encoder: Encoder = field(default="auto", kw_only=True)
    """Images alone: the encoder, whose patches decide the image size. From Python also an
    nn.Module."""

    image_size: int | None = field(default=None, kw_only=True)
    """Side in pixels of the images that the encoder or image tower receives. Default: as `pretrain`
    or `align` derives it, and printed with the reason."""

    freeze: Towers = field(default="", kw_only=True)
    """Pairs: towers to freeze. The images of a frozen tower are not changed at random."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the order of the samples and of the random views."""

    views: Augmentation = field(default_factory=Augmentation, kw_only=True)
    """Random changes of the training images, each a probability or a strength."""

    def __post_init__(self) -> None:
        TowerInputSettings.__post_init__(self)
        TableSettings.__post_init__(self)
        message = f"must be at least 0 and less than 2**63, got {self.seed}"
        require(0 <= self.seed < 2**63, "seed", message)

    def settings(self, kind: type[S], **others: Any) -> S:
        """Fill these options into the settings of `pretrain` or `align`; the rest has defaults.

        Args:
            kind: `ImageSettings` or `PairSettings`.
            others: values that take the place of the options of their names.
        """
        names = {f.name for f in fields(kind)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}
        return kind(**(own | others))
