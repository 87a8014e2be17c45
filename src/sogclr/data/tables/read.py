"""Read tables: CSV, TSV, JSONL, Parquet, columns in memory, Hugging Face data sets.

Rows keep the numbers that a spreadsheet shows (the header of a file is row 1), for messages.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...common.errors import UserError, one_line
from ...common.regular_files import require_regular
from .delimited import read_delimited, read_delimited_header
from .json_lines import read_json_lines
from .parquet import read_parquet, read_parquet_header
from .table import Table

__all__ = ["TABLE_SUFFIXES", "Table", "is_table", "read_header", "read_table"]

READERS = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
TABLE_SUFFIXES = tuple(READERS)
# Objects of JSONL may lack columns, so none of them tells all names.
HEADER_READERS = {
    ".csv": read_delimited_header,
    ".tsv": read_delimited_header,
    ".parquet": read_parquet_header,
}


def read_table(data: Any) -> Table:
    """Read a table of any kind.

    Args:
        data: a CSV, TSV (without quoting), JSONL or Parquet file; a folder that `datasets` saved;
            `"hf:owner/name"` or `"hf:owner/name:split"` on the Hugging Face hub; in Python also
            a mapping of column names to lists, or a `datasets.Dataset`.

    Raises:
        UserError: the table is missing, empty, of an unknown kind, or unreadable; or more than
            half of its rows are broken.
    """
    if _is_dataset(data):  # first, because a DatasetDict is a Mapping too
        table = _from_dataset(data, "data set")
    elif isinstance(data, Mapping):
        table = _from_columns(data)
    elif isinstance(data, str) and data.startswith("hf:"):
        table = _from_hub(data)
    elif isinstance(data, str | Path):
        table = _from_path(Path(data))
    else:
        raise UserError(
            "data: give the path of a table, a mapping of column names to lists, or a data set, "
            f"not {type(data).__name__}"
        )
    _require_rows(table)
    return table


def read_header(data: Any) -> Table | None:
    """Read the header of a table in a file: the table without its rows.

    Args:
        data: as of `read_table`.

    Returns:
        The table; None if `data` is no such file, or has no header.

    Raises:
        UserError: the file is missing or unreadable.
    """
    if not isinstance(data, str | Path) or str(data).startswith("hf:") or os.path.isdir(data):
        return None
    has_header = Path(data).suffix.lower() in HEADER_READERS
    return _read_file(Path(data), HEADER_READERS) if has_header else None


def _require_rows(table: Table) -> None:
    """Refuse a table without rows, and one of which most rows are broken."""
    count, broken = len(table.rows), len(table.broken)
    if broken > count:
        row, reason = table.broken[0]
        raise UserError(
            f"data: {broken:,} of {broken + count:,} rows of {table.name} cannot be read "
            f"(the first: row {row}, {reason}); repair them, or remove them from the table"
        )
    if not count:
        raise UserError(f"data: {table.name} has no rows")


def is_table(data: Any) -> bool:
    """Tell whether `read_table` reads this kind of data; a file need not exist."""
    if not isinstance(data, str | Path):
        return isinstance(data, Mapping) or _is_dataset(data)
    path = Path(data)
    named = path.suffix.lower() in TABLE_SUFFIXES or str(data).startswith("hf:")
    return named or _is_saved_dataset(path)


def _is_dataset(data: Any) -> bool:
    """Tell whether `data` is a data set of Hugging Face, or several of them by split."""
    return hasattr(data, "column_names") and (
        isinstance(data, Mapping) or hasattr(data, "features")
    )


def _from_columns(columns: Mapping[str, Any]) -> Table:
    for name, values in columns.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise UserError(
                f"data: the column {name!r} must be a list, not {type(values).__name__}"
            )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"data: columns differ in length: {lengths}")
    count = next(iter(lengths.values()), 0)
    return Table("columns", Path(), columns, list(range(1, count + 1)))


def _from_path(path: Path) -> Table:
    if os.path.isdir(path):  # unlike Path.is_dir, it raises no error
        return _from_folder(path)
    return _read_file(path, READERS)


def _read_file(path: Path, readers: Mapping[str, Callable[[Path], Table]]) -> Table:
    if not os.path.exists(path):
        raise UserError(
            f"data: {path} does not exist; give a table ({', '.join(TABLE_SUFFIXES)}), a folder "
            "that datasets saved, or hf:owner/name"
        )
    _require_regular(path)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"data: {path} is not a table; {', '.join(READERS)} can be read")
    try:
        return reader(path)
    except (OSError, MemoryError) as error:
        raise UserError(f"data: {path} cannot be read ({one_line(error)})") from error


def _require_regular(path: Path) -> None:
    """Refuse FIFOs and devices: reading them may never end."""
    try:
        require_regular(os.stat(path), path)
    except OSError as error:
        raise UserError(
            f"data: {path} cannot be read ({error.strerror}); save the table to a file on a disk"
        ) from error


def _from_folder(path: Path) -> Table:
    if not _is_saved_dataset(path):
        raise UserError(
            f"data: {path} is a folder that datasets did not save; give a table with a "
            "column of image paths (or use sogclr pretrain for images alone)"
        )
    for file in path.rglob("*"):
        if not file.is_dir():
            _require_regular(file)
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # of many types, by the kind of damage
        raise UserError(f"data: {path} cannot be read ({one_line(error)})") from error
    return _from_dataset(dataset, str(path))


def _is_saved_dataset(folder: Path) -> bool:
    """Tell whether `datasets` saved this folder."""
    return any(os.path.isfile(folder / name) for name in ("state.json", "dataset_dict.json"))


def _from_hub(data: str) -> Table:
    from datasets import load_dataset

    name, _, split = data.removeprefix("hf:").partition(":")
    try:
        loaded = load_dataset(name, split=split or None)
    except Exception as error:
        raise UserError(
            f"data: {name} could not be loaded from the hub ({one_line(error)}); without a "
            "network, save it on another machine with dataset.save_to_disk(FOLDER) and give FOLDER"
        ) from error
    return _from_dataset(loaded, data)


def _from_dataset(dataset: Any, name: str) -> Table:
    if isinstance(dataset, Mapping):  # a DatasetDict, by split
        split = "train" if "train" in dataset else next(iter(dataset))
        dataset, name = dataset[split], f"{name} ({split})"
    if not hasattr(dataset, "__len__"):
        raise UserError(f"data: {name} is read as a stream; load it without streaming=True")
    images = tuple(
        column for column, feature in dataset.features.items() if type(feature).__name__ == "Image"
    )
    columns = {c: dataset[c] if c not in images else None for c in dataset.column_names}
    rows = list(range(1, len(dataset) + 1))
    return Table(name, Path(), columns, rows, images=images, dataset=dataset)
