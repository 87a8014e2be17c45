"""Pairs: two sides with stable ids, and which rows of one belong to which of the other.

An image, or a text, that occurs in several rows of the table is one sample with several
partners; in an epoch it occurs once, with one of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..common.errors import UserError
from .image_source import ImageSource, stable_id
from .images.folder import SUFFIXES, ImageFiles
from .randomness import uniforms
from .tables.read import Table, is_table, read_table
from .tar.http import require_readable_anywhere
from .tar.images import find_shards
from .tar.index import index_shard
from .texts import Texts, tidy

__all__ = ["PARTNER_STREAM", "PairSource", "Texts", "are_pairs", "open_pairs"]

# What tables of pairs call their columns; the first that is there is taken.
IMAGE_COLUMNS = ("image", "image_path", "filepath", "file_name", "filename", "file", "path", "img")
TEXT_COLUMNS = ("caption", "captions", "text", "title", "sentence", "description")
TEXT_PAIRS = (
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("anchor", "positive"),
    ("query", "answer"),
    ("query", "positive"),
    ("question", "answer"),
    ("source", "target"),
)
LISTED = 5  # rows named in a message
DAMAGED_ROWS = "rows that cannot be read"
DAMAGED_IMAGES = "rows whose image cannot be read"
PARTNER_STREAM = 2  # of `randomness.uniforms`; 0 and 1 are views


@dataclass(frozen=True)
class PairSource:
    """Pairs by row of side `a`.

    Attributes:
        name: of the table.
        columns: the names of both.
        a: images or texts, each with at least one partner.
        b: texts.
        start: `(n_a + 1,)`; `partners[start[i]:start[i + 1]]` are the rows of `b` that belong
            to row i of `a`.
        partners: `(number of pairs,)` rows of `b`; those of a row of `a` in the order of their
            ids, so that what is drawn does not hang on the order of the table.
        left_out: what was found wrong, in words.
        damaged: that of it which was whole once; what `require_whole` refuses.
    """

    name: str
    columns: tuple[str, str]
    a: ImageSource | Texts
    b: Texts
    start: np.ndarray
    partners: np.ndarray
    left_out: list[str]
    damaged: Sequence[str] = ()

    @property
    def kinds(self) -> tuple[str, str]:
        """Of the sides: "image" or "text"."""
        return ("text" if isinstance(self.a, Texts) else "image", "text")

    @property
    def sizes(self) -> tuple[int, int]:
        """How many samples either side has."""
        return len(self.a), len(self.b)

    @property
    def image_size(self) -> int:
        """Of the towers that are made for this data."""
        return getattr(self.a, "image_size", 224)

    @property
    def local(self) -> bool:
        """See `ImageSource`."""
        return getattr(self.a, "local", True)

    def draw(self, seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
        """One partner of each row `(b,)` of `a`, uniformly: rows of `b`."""
        first, count = self.start[rows], np.diff(self.start)[rows]
        uniform = uniforms(seed, epoch, self.a.ids[rows], PARTNER_STREAM, 1)[:, 0]
        return self.partners[first + (uniform * count).astype(np.int64)]

    def owners(self) -> np.ndarray:
        """The row of `a` of every pair, `(number of pairs,)`."""
        return np.repeat(np.arange(len(self.a)), np.diff(self.start))

    def describe(self) -> str:
        """One line for people: what and how many, and what is left out."""
        what = "images" if self.kinds[0] == "image" else "texts"
        text = (
            f"{self.name}: {len(self.a):,} {what} with {len(self.partners):,} texts "
            f"(columns {self.columns[0]}, {self.columns[1]})"
        )
        return text + "".join(f"; left out: {reason}" for reason in self.left_out)


def open_pairs(data: Any, columns: str | None = None) -> PairSource:
    """Pairs of a table, its broken rows left out and told.

    Args:
        data: see `sogclr.data.tables.read.read_table`; tar shards (see
            `sogclr.data.tar.images.find_shards`); or a PairSource.
        columns: of a table: "image,caption" or "text1,text2", the names of both; images are side
            a, in whichever order they are named. Default: guessed.

    Raises:
        UserError: a missing column (those there are are named), no row that can be used,
            captions that are not text, most images missing; or a stream.
    """
    if isinstance(data, PairSource):
        return data
    if (shards := _shards(data)) is not None:
        from .tar.pairs import shard_pairs

        if columns is not None:
            raise UserError(
                "columns: shards have none; a caption is a part txt, or `caption` in json"
            )
        return shard_pairs(shards, str(data))
    table = read_table(data)
    names = _images_first(table, _columns(table, columns))
    problems: dict[str, list[tuple[int, str]]] = defaultdict(list)
    problems[DAMAGED_ROWS].extend(table.broken)
    texts = _texts(table, names[1], problems)
    a: ImageSource | None = None
    keys: Sequence[Any]
    if _holds_images(table, names[0]):
        a, keys = _images(table, names[0], problems)
    else:
        keys = _texts(table, names[0], problems)
    pairs: dict[Any, dict[str, None]] = {}
    copies = 0
    for key, partners in zip(keys, texts, strict=True):
        if key is None or not partners:
            continue
        for own in key if isinstance(key, list) else [key]:
            known = pairs.setdefault(own, {})
            copies += sum(partner in known for partner in partners)
            known.update(dict.fromkeys(partners))
    if not pairs:
        raise UserError(f"data: {table.name} has no usable pair; " + _tell(problems)[0])
    source = _assemble(table.name, names, a, pairs, _tell(problems, copies))
    damaged = _tell({what: problems[what] for what in (DAMAGED_ROWS, DAMAGED_IMAGES)})
    return replace(source, damaged=[f"{source.name}: {told}" for told in damaged])


def are_pairs(data: Any) -> bool:
    """Whether `data` is for `open_pairs`, rather than images for `open_source`.

    Shards are if any sample has a caption.
    """
    if isinstance(data, PairSource) or is_table(data):
        return True
    shards = _shards(data)
    return shards is not None and any(len(index_shard(path).captions) for path in shards)


def _shards(data: Any) -> list[Path] | None:
    require_readable_anywhere(data)
    return find_shards(data) if isinstance(data, str | Path) else None


def _assemble(
    name: str,
    columns: tuple[str, str],
    images: ImageSource | None,
    pairs: dict[Any, dict[str, None]],
    left_out: list[str],
) -> PairSource:
    ordered = list(pairs) if images is None else sorted(pairs)
    a = Texts(ordered) if images is None else _Selection(images, ordered)
    b = {text: i for i, text in enumerate(dict.fromkeys(t for key in ordered for t in pairs[key]))}
    counts = [len(pairs[key]) for key in ordered]
    partners = [b[text] for key in ordered for text in sorted(pairs[key], key=stable_id)]
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return PairSource(name, columns, a, Texts(list(b)), start, np.array(partners), left_out)


class _Selection(ImageSource):
    """Some rows of another source: those that have a partner."""

    def __init__(self, source: ImageSource, rows: list[int]) -> None:
        self._source, self._rows = source, rows
        self.ids, self.marks = source.ids[rows], source.marks[rows]
        self.names = [source.names[row] for row in rows]
        self.image_size, self.left_out, self.local = source.image_size, [], source.local

    def image(self, row: int) -> Any:
        return self._source.image(self._rows[row])

    def describe(self) -> str:
        return self._source.describe()


def _columns(table: Table, asked: str | None) -> tuple[str, str]:
    there = list(table.columns)
    if asked is not None:
        names = [name.strip() for name in asked.split(",")]
        if len(names) != 2:
            raise UserError(f"columns: give two names with a comma between, got {asked!r}")
        for name in names:
            if name not in there:
                raise UserError(
                    f"columns: {table.name} has no column {name!r}; it has {', '.join(there)}"
                )
        return names[0], names[1]
    image = next((c for c in (*table.images, *IMAGE_COLUMNS) if c in there), None)
    text = next((c for c in TEXT_COLUMNS if c in there), None)
    if image and text:
        return image, text
    for first, second in TEXT_PAIRS:
        if first in there and second in there:
            return first, second
    if len(there) == 2:
        return there[0], there[1]
    raise UserError(
        f"columns: cannot tell which two of {table.name} are meant; name them with --columns, "
        f"it has {', '.join(there)}"
    )


def _images_first(table: Table, names: tuple[str, str]) -> tuple[str, str]:
    holds = [_holds_images(table, name) for name in names]
    if all(holds):
        raise UserError(
            f"columns: {' and '.join(names)} of {table.name} both hold images; one must hold text"
        )
    return (names[1], names[0]) if holds[1] else names


def _holds_images(table: Table, column: str) -> bool:
    if column in table.images or column in IMAGE_COLUMNS:
        return True
    if column in TEXT_COLUMNS:  # a caption may end in the name of a file
        return False
    first = next((value for value in table.columns[column] if value), None)
    return isinstance(first, str) and first.lower().endswith(SUFFIXES)


def _texts(
    table: Table, column: str, problems: dict[str, list[tuple[int, str]]]
) -> list[list[str] | None]:
    """The texts of each row; None where there is none."""
    found: list[list[str] | None] = []
    wrong = 0
    for row, value in zip(table.rows, table.columns[column], strict=True):
        values = value if isinstance(value, list) else [value]
        if any(v is not None and not isinstance(v, str) for v in values):
            wrong += 1
            problems[f"rows whose {column} is not text"].append((row, repr(value)[:40]))
            found.append(None)
            continue
        kept = [tidy(v) for v in values if v and v.strip()]
        if not kept:
            problems[f"rows with an empty {column}"].append((row, ""))
        found.append(kept or None)
    if wrong == len(found):
        raise UserError(
            f"columns: {column} of {table.name} does not hold text but "
            f"{type(table.columns[column][0]).__name__} values (the first: "
            f"{table.columns[column][0]!r})"
        )
    return found


def _images(
    table: Table, column: str, problems: dict[str, list[tuple[int, str]]]
) -> tuple[ImageSource, list[int | None]]:
    """The images, and the row of each in them; None where there is none."""
    if column in table.images:
        from .images.hub import HubImages

        held = HubImages(table.dataset, column, table.name)
        reasons = zip(table.rows, held.reasons, strict=True)
        _leave_out(table, [(row, reason) for row, reason in reasons if reason], problems)
        return held, held.row_of
    values = table.columns[column]
    if any(value is not None and not isinstance(value, str) for value in values):
        raise UserError(f"columns: {column} of {table.name} does not hold paths of images")
    names = [str(PurePosixPath(value)) if value else "" for value in values]
    source = ImageFiles(table.root, list(dict.fromkeys(name for name in names if name)))
    position = {name: row for row, name in enumerate(source.names)}
    why = dict(source.left_out)
    missing = [
        (row, f"{name}: {why[name]}" if name else "no image")
        for row, name in zip(table.rows, names, strict=True)
        if name not in position
    ]
    _leave_out(table, missing, problems, f", looked for from {table.root.resolve()}")
    return source, [position.get(name) for name in names]


def _leave_out(
    table: Table,
    missing: list[tuple[int, str]],
    problems: dict[str, list[tuple[int, str]]],
    where: str = "",
) -> None:
    """Take note of rows without an image; if they are most, something else is wrong."""
    problems[DAMAGED_IMAGES].extend(missing)
    if 2 * len(missing) > len(table.rows):
        raise UserError(
            f"data: {len(missing):,} of {len(table.rows):,} images of {table.name} cannot be "
            f"read{where} ({_listed(missing)})"
        )


def _tell(problems: dict[str, list[tuple[int, str]]], copies: int = 0) -> list[str]:
    told = [f"{len(rows):,} {what} ({_listed(rows)})" for what, rows in problems.items() if rows]
    return [*told, f"{copies:,} copies of other rows"] if copies else told


def _listed(rows: list[tuple[int, str]]) -> str:
    named = [f"row {row}: {reason}" if reason else f"row {row}" for row, reason in rows[:LISTED]]
    return "; ".join(named) + ("; ..." if len(rows) > LISTED else "")
