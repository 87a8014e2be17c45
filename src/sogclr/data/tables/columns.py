"""Choose the two columns of a table that hold the pairs, and tell images from texts."""

import os
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from ...common.errors import UserError
from ...common.options import split_names
from ..decode import SUFFIXES
from .table import Table

__all__ = ["choose_columns", "find_columns", "holds_images"]

# Usual names of columns, in lower case; the first that the table has is taken.
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
USUAL_COLUMNS = {*IMAGE_COLUMNS, *TEXT_COLUMNS, *(name for pair in TEXT_PAIRS for name in pair)}
# Suffixes of image files, also of those that are not decoded.
IMAGE_SUFFIXES = (
    *SUFFIXES,
    *(".jfif", ".jpe", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".pbm", ".tga"),
    *(".ico", ".psd", ".svg", ".eps", ".dng", ".cr2", ".nef"),
)
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")
# Starts of images that are written into the table: data URLs, JPEG, PNG and WebP in base64.
ENCODED = ("data:image/", "/9j/", "iVBORw0KGgo", "UklGR")
SHOWN = 60  # characters of a value in a message
LOOKED_AT = 200  # values of a column, from all parts of the table


def choose_columns(table: Table, requested: str | Sequence[str] | None) -> tuple[str, str]:
    """Return the requested columns, or guess two from their names; images come first.

    Args:
        table: the table.
        requested: names of two columns, in a sequence or with a comma between them.

    Raises:
        UserError: a column is missing, the names do not tell which columns are meant, both columns
            hold images, or it is not clear what a column holds.
    """
    names = find_columns(table, requested)
    holds = [holds_images(table, name) for name in names]
    if all(holds):
        raise UserError(
            f"--columns: {' and '.join(names)} of {table.name} both hold images; one must hold text"
        )
    return (names[1], names[0]) if holds[1] else names


def find_columns(table: Table, requested: str | Sequence[str] | None) -> tuple[str, str]:
    """Return the requested columns, or guess two from their names; needs no rows.

    Args:
        table: the table, or its header.
        requested: as of `choose_columns`.

    Raises:
        UserError: a column is missing, or the names do not tell which columns are meant.
    """
    return _guess(table) if requested is None else _find(table, split_names(requested))


def _find(table: Table, names: tuple[str, ...]) -> tuple[str, str]:
    """Check that the requested columns exist."""
    if len(names) != 2:
        raise UserError(
            f"--columns: give two names with a comma between them, got {','.join(names)!r}"
        )
    for name in names:
        if name not in table.columns:
            raise UserError(
                f"--columns: {table.name} has no column {name!r}; it has {table.list_columns()}"
            )
    if names[0] == names[1]:
        raise UserError(f"--columns: {names[0]} is named twice; a pair needs two columns")
    return names[0], names[1]


def _guess(table: Table) -> tuple[str, str]:
    """Guess two columns from usual names."""
    existing = list(table.columns)
    for first, second in combinations(existing, 2):
        if first.lower() == second.lower() and first.lower() in USUAL_COLUMNS:
            raise UserError(
                f"--columns: {table.name} has the columns {first} and {second}; name the two that "
                f"are the pairs with --columns, it has {table.list_columns()}"
            )
    usual = {name.lower(): name for name in reversed(existing)}
    image = next((c for c in table.images), None)
    image = image or next((usual[c] for c in IMAGE_COLUMNS if c in usual), None)
    text = next((usual[c] for c in TEXT_COLUMNS if c in usual), None)
    if image and text:
        return image, text
    for first, second in TEXT_PAIRS:
        if first in usual and second in usual:
            return usual[first], usual[second]
    if len(existing) != 2:
        raise UserError(
            f"--columns: cannot tell which two columns of {table.name} are the pairs; name them "
            f"with --columns, it has {table.list_columns()}"
        )
    if not (image or text or table.header_is_certain):
        raise UserError(
            f"--columns: the first row of {table.name} ({table.list_columns()}) has no usual name "
            "of a column; if it is a header, repeat its names with --columns A,B; if it is a pair, "
            "put a header above it, such as image,caption"
        )
    return existing[0], existing[1]


def holds_images(table: Table, column: str) -> bool:
    """Tell whether a column holds images or their paths, rather than texts.

    A usual name tells it; else several values tell: their suffixes, and whether such files exist.

    Raises:
        UserError: the values do not tell it, they contradict the name, or they are URLs.
    """
    if column in table.images:
        return True
    values = _look_at(table.values(column))
    if _share(values, lambda value: bool(URL.fullmatch(value)) or value.startswith(ENCODED)) > 0.5:
        raise UserError(
            f"--columns: {column} of {table.name} holds URLs or encoded images (the first: "
            f"{values[0][:SHOWN]!r}); save the images as files, and give their paths"
        )
    if column.lower() in IMAGE_COLUMNS:
        return True
    files = _share(values, lambda value: _is_file(table, value))
    named = _share(values, _is_named_as_image)
    if column.lower() in TEXT_COLUMNS:
        if files >= 0.5:
            raise UserError(
                f"--columns: {column} of {table.name} holds paths of files (the first: "
                f"{values[0][:SHOWN]!r}); name another column, or rename it to image"
            )
        return False
    if files >= 0.5 or named >= 0.5:
        return True
    if files > 0 or named >= 0.1:
        raise UserError(
            f"--columns: some values of {column} of {table.name} are names of images or files, "
            f"others are not (such as {_first_text(table, values)!r}); rename the column to image "
            "or to text to say what it holds"
        )
    return False


def _look_at(values: list[Any]) -> list[str]:
    """Return some values that are not empty, from all parts of a column."""
    filled = [value for value in values if isinstance(value, str) and value.strip()]
    return filled[:: max(1, len(filled) // LOOKED_AT)]


def _share(values: list[str], condition: Callable[[str], bool]) -> float:
    """Return the share of values that meet a condition; 0 of no values."""
    return sum(map(condition, values)) / len(values) if values else 0.0


def _first_text(table: Table, values: list[str]) -> str:
    """Return the first value that is no image."""
    texts = (v for v in values if not (_is_named_as_image(v) or _is_file(table, v)))
    return next(texts, values[0])[:SHOWN]


def _is_file(table: Table, value: str) -> bool:
    return os.path.isfile(os.path.join(table.root, value))


def _is_named_as_image(value: str) -> bool:
    return value.lower().endswith(IMAGE_SUFFIXES)
