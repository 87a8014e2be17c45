"""Read CSV and TSV files: every value as text, broken rows by their numbers.

A quote that never closes would swallow the rows behind it. Python's `csv` in strict mode reports
such a quote; then the rows behind the broken one are read again, line by line.
"""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeAlias

from ...common.errors import UserError
from ..decode import SUFFIXES
from .table import BrokenRows, Table, require_distinct

__all__ = ["read_delimited", "read_delimited_header"]

LONGEST_VALUE = 1 << 24  # characters; a longer value is taken for a quote that never closes
PROVING_LINES = 3  # lines with the fields of a row, which prove that a quote swallowed rows
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
QUOTED_VALUE = re.compile(r'(?:(?<=,)|^)"(?:[^"]|"")*"(?=[,\r\n]|$)')
UTF_16 = (b"\xff\xfe", b"\xfe\xff")

Fields: TypeAlias = list[str]


def read_delimited(path: Path) -> Table:
    """Read a CSV file, or a TSV file without quoting, as text.

    Args:
        path: the file, in UTF-8. Its first row is the header; columns without a name are called
            `column 3` after their position.

    Raises:
        UserError: the file has no header with two columns and distinct names, or most rows are
            broken.
    """
    with _open_rows(path) as rows:
        names = _read_header(rows, path)
        values: list[Fields] = []
        numbers: list[int] = []
        broken: BrokenRows = []
        for number, fields, reason in rows.read(len(names)):
            # Files that were joined by `cat` repeat the header, behind a byte order mark.
            if not reason and [field.strip("\ufeff ") for field in fields] == names:
                reason = "the header again"
            if reason:
                broken.append((number, reason))
            else:
                values.append(fields)
                numbers.append(number)
    columns = {name: [row[i] for row in values] for i, name in enumerate(names)}
    notes = _note_quotes(values, numbers, _delimiter_of(path))
    if several := rows.of_several_lines:
        notes += [
            f"{len(several):,} rows have values of several lines (the first: row {several[0]})"
        ]
    return Table(
        str(path), path.parent, columns, numbers, broken, header_is_certain=False, notes=notes
    )


def read_delimited_header(path: Path) -> Table:
    """Read the header of a CSV or TSV file: the table without its rows.

    Args:
        path: the file, as of `read_delimited`.

    Raises:
        UserError: the file has no header with two columns and distinct names.
    """
    with _open_rows(path) as rows:
        names = _read_header(rows, path)
    return Table(str(path), path.parent, {n: [] for n in names}, [], header_is_certain=False)


@contextmanager
def _open_rows(path: Path) -> Iterator["_Rows"]:
    # Bytes that are no UTF-8 become lone surrogates, so that their row can be named.
    with (
        open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        _long_values(),
    ):
        yield _Rows(file, _delimiter_of(path))


def _delimiter_of(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _note_quotes(rows: list[Fields], numbers: list[int], delimiter: str) -> list[str]:
    """Count the rows with quotes around a value that are read as a part of it."""
    start = '"' if delimiter == "\t" else ' "'  # in CSV, a blank in front makes a quote plain text
    found = [
        number
        for number, fields in zip(numbers, rows, strict=True)
        if any(v.startswith(start) and v.endswith('"') and len(v) > len(start) for v in fields)
    ]
    if not found:
        return []
    why = "TSV knows no quotes" if delimiter == "\t" else "there is a blank in front of them"
    return [
        f"{len(found):,} rows have quotes around a value, which are read as a part of it, since "
        f"{why} (the first: row {found[0]})"
    ]


def _read_header(rows: "_Rows", path: Path) -> Fields:
    """Return the names in the first row that is not blank."""
    with open(path, "rb") as file:
        if file.read(2) in UTF_16:
            raise UserError(f"data: {path} is UTF-16; save it as UTF-8")
    header = next(rows.read(None), None)
    if header is None:
        raise UserError(f"data: {path} is empty; its first row must name the columns")
    number, fields, reason = header
    if not reason and any("\0" in name for name in fields):
        reason = "a NUL character"
    if reason:
        raise UserError(f"data: {path}: row {number}, the header, cannot be read ({reason})")
    names = [name.strip() or f"column {i}" for i, name in enumerate(fields, start=1)]
    if len(names) == 1:
        found = [word for mark, word in OTHER_DELIMITERS.items() if mark in names[0]]
        hint = f"; {found[0]} separate its values, but {path.suffix} needs " if found else ""
        hint += OTHER_DELIMITERS[_delimiter_of(path)] if found else ""
        raise UserError(f"data: {path} has one column, {names[0][:60]!r}; two are needed{hint}")
    require_distinct(names, path)
    return names


class _Rows:
    """Reads rows, and goes back to the line behind a row whose quote swallowed others."""

    def __init__(self, file: TextIO, delimiter: str) -> None:
        self._file, self._delimiter = file, delimiter
        self._again: list[str] = []  # lines to read again, the next one last
        self._taken: list[str] = []  # lines of the present row
        self._doubtful = 0  # number of lines ahead that lie inside of a doubtful quote
        self._number = 0
        self.of_several_lines: list[int] = []  # rows that are whole, with line breaks in a value
        self._reader = self._parse(self)

    def __iter__(self) -> "_Rows":
        return self

    def __next__(self) -> str:
        """Return the next line to the CSV reader."""
        line = self._again.pop() if self._again else next(self._file)
        self._taken.append(line)
        return line

    def read(self, width: int | None) -> Iterator[tuple[int, Fields, str]]:
        """Read the rows that are left.

        Args:
            width: number of fields that a row must have, or None for any.

        Yields:
            The number of the row, counted from 1; its fields; why it is broken, or "".
        """
        while True:
            self._taken = []
            try:
                fields, reason = next(self._reader), ""
            except StopIteration:
                return
            except csv.Error as error:
                fields, reason = [], _explain(str(error), len(self._taken))
            self._number += 1
            blank = not reason and len(fields) < 2 and not "".join(fields).strip()
            reason = reason or self._find_fault(fields, width)
            self._doubtful = max(0, self._doubtful - len(self._taken))
            if len(self._taken) > 1:
                reason = self._judge_lines(reason, width)
            if not blank:
                yield self._number, fields, reason

    def _judge_lines(self, reason: str, width: int | None) -> str:
        """Go back to the second line of a row, unless its lines are parts of a value.

        Returns:
            Why the row is broken, or "".
        """
        behind = len(self._taken) - 1
        if self._swallows_rows(reason, width):
            self._doubtful += behind
            self._again += reversed(self._taken[1:])
            return reason or f"a quote that opens here closes in row {self._number + behind}"
        if reason:
            return f"{reason}, over {behind + 1} lines"
        self.of_several_lines.append(self._number)
        return ""

    def _parse(self, lines: Iterator[str]) -> Iterator[Fields]:
        return csv.reader(
            lines,
            delimiter=self._delimiter,
            quoting=csv.QUOTE_NONE if self._delimiter == "\t" else csv.QUOTE_MINIMAL,
            strict=True,
        )

    def _find_fault(self, fields: Fields, width: int | None) -> str:
        if width is not None and len(fields) != width:
            return f"{len(fields)} fields where {width} are expected"
        text = "".join(fields)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return "not UTF-8"
        if self._doubtful and '"' in QUOTED_VALUE.sub("", self._taken[0]):
            return "a quote in the midst of a value"
        return ""

    def _swallows_rows(self, reason: str, width: int | None) -> bool:
        """Tell whether the lines behind the first one are rows, rather than parts of a value."""
        if "quote" in reason:
            return True
        inner = [self._split(line) for line in self._taken[1:]]
        inner = inner[:-1] or inner  # the last line may differ behind the closing quote
        if any(len(fields) != width for fields in inner):
            return False
        # A few lines of a caption may have one comma each. Then two columns prove nothing.
        named = all(fields[0].lower().endswith(SUFFIXES) for fields in inner)
        return named or len(inner[0]) > 2 or len(inner) >= PROVING_LINES

    def _split(self, line: str) -> Fields:
        try:
            return next(self._parse(iter([line])))
        except (csv.Error, StopIteration):
            return []


def _explain(error: str, lines: int) -> str:
    """Say in plain words what `csv` found."""
    if "unexpected end" in error or "field larger" in error:
        return "a quote that never closes"
    if "expected after" in error:
        return "a quote in the midst of a value" + (" of several lines" if lines > 1 else "")
    return error


@contextmanager
def _long_values() -> Iterator[None]:
    """Let `csv` read values of more than 131,072 characters."""
    before = csv.field_size_limit(LONGEST_VALUE)
    try:
        yield
    finally:
        csv.field_size_limit(before)
