"""Pairs from the columns of a table: choose two columns, read both sides, leave out broken rows."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np

from ...common.errors import UserError
from ..image_source import ImageSource
from ..images.files import ImageFiles
from ..images.hub import HubImages
from ..pair_source import PairSource
from ..randomness import stable_id
from ..texts import Texts, has_halves, tidy
from .columns import choose_columns, holds_images
from .table import Table

__all__ = ["table_pairs"]

SHOWN = 5  # rows named in a message
DAMAGED_ROWS = "rows that cannot be read"
DAMAGED_IMAGES = "rows whose image cannot be read"

# `(row number, reason)` of rows that are left out, by kind of problem.
Problems: TypeAlias = dict[str, list[tuple[int, str]]]


def table_pairs(table: Table, columns: str | Sequence[str] | None = None) -> PairSource:
    """Make pairs of two columns of a table.

    Args:
        table: the table.
        columns: names of the two columns, as `sogclr.data.open_pairs.open_pairs` takes them.

    Raises:
        UserError: a column is missing, no row is usable, captions are not text, or most images
            cannot be read.
    """
    names = choose_columns(table, columns)
    problems: Problems = defaultdict(list)
    problems[DAMAGED_ROWS].extend(table.broken)
    notes = list(table.notes)
    texts = _read_texts(table, names[1], problems, notes)
    a: ImageSource | None = None
    keys: Sequence[Any]  # of each row: its image's row, or its texts on side a
    if holds_images(table, names[0]):
        a, keys = _read_images(table, names[0], problems)
    else:
        keys = _read_texts(table, names[0], problems, notes)
    pairs: dict[Any, dict[str, None]] = {}  # partners of each sample of side a, in order
    copies = 0
    for key, partners in zip(keys, texts, strict=True):
        if key is None or not partners:
            continue
        for sample in key if isinstance(key, list) else [key]:
            earlier = pairs.setdefault(sample, {})
            copies += sum(partner in earlier for partner in partners)
            earlier.update(dict.fromkeys(partners))
    if not pairs:
        raise UserError(f"data: {table.name} has no usable pair; " + _describe(problems)[0])
    source = _assemble(table.name, names, a, pairs, _describe(problems, copies))
    damaged = _describe({kind: problems[kind] for kind in (DAMAGED_ROWS, DAMAGED_IMAGES)})
    damaged = [f"{source.name}: {text}" for text in damaged]
    return replace(source, damaged=damaged, notes=notes)


def _assemble(
    name: str,
    columns: tuple[str, str],
    images: ImageSource | None,
    pairs: dict[Any, dict[str, None]],
    left_out: list[str],
) -> PairSource:
    """Number the texts of side b, and sort the partners of each sample by id."""
    samples = list(pairs) if images is None else sorted(pairs)
    a = Texts(samples) if images is None else _Selection(images, samples)
    b = {text: i for i, text in enumerate(dict.fromkeys(t for key in samples for t in pairs[key]))}
    counts = [len(pairs[key]) for key in samples]
    partners = [b[text] for key in samples for text in sorted(pairs[key], key=stable_id)]
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return PairSource(name, columns, a, Texts(list(b)), start, np.array(partners), left_out)


class _Selection(ImageSource):
    """The rows of another source that have a partner."""

    def __init__(self, source: ImageSource, rows: list[int]) -> None:
        self._source, self._rows = source, rows
        self.ids, self.marks = source.ids[rows], source.marks[rows]
        self.names = [source.names[row] for row in rows]
        self.image_size, self.left_out, self.local = source.image_size, [], source.local

    def image(self, row: int) -> Any:
        return self._source.image(self._rows[row])

    def file(self, row: int) -> Path | None:
        return self._source.file(self._rows[row])

    def describe(self) -> str:
        return self._source.describe()


def _read_texts(
    table: Table, column: str, problems: Problems, notes: list[str]
) -> list[list[str] | None]:
    """Return the texts of each row, or None for a row that has none; record the problems."""
    all_values = table.values(column)
    texts: list[list[str] | None] = []
    wrong = 0
    halved: list[tuple[int, str]] = []  # rows with lone surrogates, which JSON may contain
    for row, value in zip(table.rows, all_values, strict=True):
        values = value if isinstance(value, list) else [value]
        if any(v is not None and not isinstance(v, str) for v in values):
            wrong += 1
            problems[f"rows whose {column} is not text"].append((row, repr(value)[:40]))
            texts.append(None)
            continue
        if any("\0" in v for v in values if v):
            problems[DAMAGED_ROWS].append((row, f"a NUL character in {column}"))
            texts.append(None)
            continue
        if any(has_halves(v) for v in values if v):
            halved.append((row, ""))
        kept = [tidy(v) for v in values if v and v.strip()]
        if not kept:
            problems[f"rows with an empty {column}"].append((row, ""))
        texts.append(kept or None)
    if halved:
        what = f"rows whose {column} has half a character, read as ?"
        notes.append(f"{len(halved):,} {what} ({_first_of(halved)})")
    if wrong == len(texts):
        raise UserError(
            f"--columns: {column} of {table.name} does not hold text but "
            f"{type(all_values[0]).__name__} values (the first: {repr(all_values[0])[:40]})"
        )
    return texts


def _read_images(
    table: Table, column: str, problems: Problems
) -> tuple[ImageSource, list[int | None]]:
    """Return the images, and for each row of the table its image's row, or None if it has none."""
    if column in table.images:
        images = HubImages(table.dataset, column, table.name)
        reasons = zip(table.rows, images.reasons, strict=True)
        _leave_out(table, [(row, reason) for row, reason in reasons if reason], problems)
        return images, images.row_of
    names, missing = _read_paths(table, column)
    source = ImageFiles(table.root, list(dict.fromkeys(name for name in names if name)))
    row_of = {name: row for row, name in enumerate(source.names)}
    reason_of = dict(source.left_out)
    missing += [
        (row, f"{name}: {reason_of[name]}")
        for row, name in zip(table.rows, names, strict=True)
        if name in reason_of
    ]
    where = f", searched from {table.root.resolve()}"
    _leave_out(table, sorted(missing), problems, where)
    return source, [row_of.get(name) for name in names]


def _read_paths(table: Table, column: str) -> tuple[list[str], list[tuple[int, str]]]:
    """Return the path of each row's image, or "" without one, and why rows have none."""
    values = table.values(column)
    if all(value is not None and not isinstance(value, str) for value in values):
        raise UserError(
            f"--columns: {column} of {table.name} does not hold paths of images (the first: "
            f"{repr(values[0])[:40]})"
        )
    names: list[str] = []
    missing: list[tuple[int, str]] = []
    for row, value in zip(table.rows, values, strict=True):
        reason = _find_fault(value)
        if reason:
            missing.append((row, reason))
        names.append("" if reason else str(PurePosixPath(value)))
    return names, missing


def _find_fault(path: Any) -> str:
    """Say why a value cannot be the path of a file, or return ""."""
    if path is None or path == "":
        return "no image"
    if not isinstance(path, str):
        return f"no path but {repr(path)[:40]}"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return f"half a character in {path!r}"
    return f"a NUL character in {path!r}" if "\0" in path else ""


def _leave_out(
    table: Table, missing: list[tuple[int, str]], problems: Problems, where: str = ""
) -> None:
    """Record rows without an image; refuse the table if more than half of its rows have none."""
    problems[DAMAGED_IMAGES].extend(missing)
    if 2 * len(missing) > len(table.rows):
        raise UserError(
            f"data: {len(missing):,} of {len(table.rows):,} images of {table.name} cannot be "
            f"read{where} ({_first_of(missing)})"
        )


def _describe(problems: Problems, copies: int = 0) -> list[str]:
    """Describe each kind of problem, and how many rows repeat others."""
    lines = [f"{len(rows):,} {kind} ({_first_of(rows)})" for kind, rows in problems.items() if rows]
    return [*lines, f"{copies:,} copies of other rows"] if copies else lines


def _first_of(rows: list[tuple[int, str]]) -> str:
    named = [f"row {row}: {reason}" if reason else f"row {row}" for row, reason in rows[:SHOWN]]
    return "; ".join(named) + ("; ..." if len(rows) > SHOWN else "")
