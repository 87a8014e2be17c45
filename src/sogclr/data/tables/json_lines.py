"""Read JSONL files: one object a line, broken lines by their numbers."""

import json
from pathlib import Path
from typing import Any

from ...common.errors import one_line
from .table import BrokenRows, Table

__all__ = ["read_json_lines"]


def read_json_lines(path: Path) -> Table:
    """Read a JSONL file, one object a line; an object may lack columns.

    Args:
        path: the file, in UTF-8.
    """
    records, rows = [], []
    broken: BrokenRows = []
    # Bytes that are no UTF-8 become lone surrogates, so that their line can be named.
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(_read_object(line))
                rows.append(number)
            except ValueError as error:
                broken.append((number, one_line(error)))
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [record.get(name) for record in records] for name in names}
    return Table(str(path), path.parent, columns, rows, broken)


def _read_object(line: str) -> dict[str, Any]:
    """Read the object in a line.

    Raises:
        ValueError: the line is damaged, or holds something else.
    """
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ValueError("not UTF-8") from None
    try:
        record = json.loads(line, object_pairs_hook=_join)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def _join(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Join the members of an object; refuse equal names, of which one would hide the other."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"the name {twice!r} occurs twice")
    return record
