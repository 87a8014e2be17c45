"""The parts of a page: sections of blocks, each of which a template shows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeAlias

from markupsafe import Markup

__all__ = [
    "Block",
    "Code",
    "Facts",
    "Gallery",
    "Legend",
    "Page",
    "Picture",
    "Pictures",
    "Section",
    "Table",
    "Text",
    "Thumbnail",
    "Tile",
    "group_by_reason",
]


@dataclass(frozen=True)
class Thumbnail:
    """A small image.

    Attributes:
        source: a `data:` address; None for a placeholder.
        reason: why there is a placeholder.
        pixelated: whether the image is so small that its pixels are shown as squares.
    """

    source: str | None
    reason: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Facts:
    """Numbers that are worth a glance.

    Attributes:
        items: `(name, value, remark)` of each.
    """

    kind: ClassVar[str] = "facts"
    items: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: names of the columns.
        rows: cells as text, as many in each row as there are columns.
        caption: says what the table shows.
        shades: for each cell a number in [0, 1] that colours its background; None for no colour.
        numeric: whether all columns but the first are aligned to the right.
    """

    kind: ClassVar[str] = "table"
    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    shades: list[list[float]] | None = None
    numeric: bool = True


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        title: a few words above it.
        image: an SVG picture that this package drew, or a `data:` address.
        alternative: what is seen, for those who cannot see it.
        caption: what it means.
    """

    title: str
    image: Markup | str
    alternative: str
    caption: str

    @property
    def is_drawn(self) -> bool:
        """Tell whether the picture is SVG."""
        return isinstance(self.image, Markup)


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, or one below the other where there is no room.

    Attributes:
        items: the pictures.
        wide: whether each picture takes the whole width.
    """

    kind: ClassVar[str] = "pictures"
    items: list[Picture]
    wide: bool = False


@dataclass(frozen=True)
class Legend:
    """The meaning of colours.

    Attributes:
        items: `(colour, text)` of each; the colour as in CSS.
    """

    kind: ClassVar[str] = "legend"
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Tile:
    """A sample.

    Attributes:
        name: path or text of the sample.
        thumbnail: its image; None for a text.
        note: a line below it, such as a similarity.
        mark: "good" or "bad" for a coloured border, "lead" for the sample that others belong to.
    """

    name: str
    thumbnail: Thumbnail | None
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Gallery:
    """Rows of samples.

    Attributes:
        rows: each row is a heading, which may be empty, and its tiles.
        caption: says what is seen.
        beside: whether short rows stand side by side.
    """

    kind: ClassVar[str] = "gallery"
    rows: list[tuple[str, list[Tile]]]
    caption: str = ""
    beside: bool = False


@dataclass(frozen=True)
class Code:
    """Lines of code."""

    kind: ClassVar[str] = "code"
    lines: list[str]


Block: TypeAlias = Text | Facts | Table | Pictures | Legend | Gallery | Code


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        blocks: its contents.
        missing: why it has no contents.
        lines: what is also printed when training ends.
    """

    title: str
    blocks: list[Block] = field(default_factory=list)
    missing: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Return the name by which links find the section."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Page:
    """The page that `sogclr.report` wrote.

    Attributes:
        file: the HTML file.
        shown: titles of the sections that have contents.
        left_out: titles of the other sections, and why each has none.
    """

    file: Path
    shown: list[str]
    left_out: dict[str, str]


def group_by_reason(missing: dict[str, str]) -> list[tuple[str, str]]:
    """Join the titles of sections that are missing for the same reason.

    Args:
        missing: the reason of each title.

    Returns:
        `(titles, reason)` of each reason; commas between the titles.
    """
    groups: dict[str, list[str]] = {}
    for title, reason in missing.items():
        groups.setdefault(reason, []).append(title)
    return [(", ".join(titles), reason) for reason, titles in groups.items()]
