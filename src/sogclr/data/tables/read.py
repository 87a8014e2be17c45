"""Read tables: CSV, TSV, JSONL, Parquet, columns in memory, Hugging Face data sets.

Rows keep the numbers that a text editor shows (the header of a file is row 1), for messages.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.errors import UserError, one_line

__all__ = ["TABLE_SUFFIXES", "Table", "is_table", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass
class Table:
    """Columns of equal length.

    Attributes:
        name: what messages call the table.
        root: folder that relative paths in the table start from.
        columns: by name, a list of values or a column of a Hugging Face data set.
        rows: the number of each row, for messages.
        broken: `(row number, reason)` of each row that cannot be read at all.
        images: names of the columns that hold images instead of paths.
        dataset: the Hugging Face data set, if the table is one.
    """

    name: str
    root: Path
    columns: Mapping[str, Any]
    rows: list[int]
    broken: list[tuple[int, str]] = field(default_factory=list)
    images: tuple[str, ...] = ()
    dataset: Any = None


def read_table(data: Any) -> Table:
    """Read a table of any kind.

    Args:
        data: a CSV, TSV (without quoting), JSONL or Parquet file; a folder that `datasets` saved;
            `"hf:owner/name"` or `"hf:owner/name:split"` on the Hugging Face hub; in Python also
            a mapping of column names to lists, or a `datasets.Dataset`.

    Raises:
        UserError: the table is missing, empty, of an unknown kind, or unreadable.
    """
    if hasattr(data, "column_names"):  # first, because a DatasetDict is a Mapping too
        table = _from_dataset(data, "data set")
    elif isinstance(data, Mapping):
        table = _from_columns(data)
    elif isinstance(data, str) and data.startswith("hf:"):
        table = _from_hub(data)
    else:
        table = _from_path(Path(data))
    if not table.rows:
        broken = f", and the first broken one is row {table.broken[0][0]}" if table.broken else ""
        raise UserError(f"data: {table.name} has no rows{broken}")
    return table


def is_table(data: Any) -> bool:
    """Tell whether `read_table` reads this kind of data; a file need not exist."""
    if not isinstance(data, str | Path):
        return isinstance(data, Mapping) or hasattr(data, "column_names")
    path = Path(data)
    return path.suffix in TABLE_SUFFIXES or str(data).startswith("hf:") or _is_saved_dataset(path)


def _from_columns(columns: Mapping[str, Any]) -> Table:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"data: columns differ in length: {lengths}")
    count = next(iter(lengths.values()), 0)
    return Table("columns", Path(), columns, list(range(1, count + 1)))


def _from_path(path: Path) -> Table:
    if path.is_dir():
        return _from_folder(path)
    if not path.exists():
        raise UserError(
            f"data: {path} does not exist; give a table ({', '.join(TABLE_SUFFIXES)}), a folder "
            "that datasets saved, or hf:owner/name"
        )
    readers = {
        ".csv": _from_delimited,
        ".tsv": _from_delimited,
        ".jsonl": _from_jsonl,
        ".parquet": _from_parquet,
    }
    if path.suffix not in readers:
        raise UserError(f"data: {path} is not a table; {', '.join(readers)} can be read")
    try:
        return readers[path.suffix](path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"data: {path} cannot be read ({one_line(error)})") from error


def _from_delimited(path: Path) -> Table:
    from pyarrow import csv

    if not path.stat().st_size:
        raise UserError(f"data: {path} is empty")
    broken: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        reason = f"{row.actual_columns} fields where {row.expected_columns} are expected"
        broken.append((row.number, reason))
        return "skip"

    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False),  # with threads, rows have no number
        parse_options=csv.ParseOptions(
            delimiter="\t" if path.suffix == ".tsv" else ",",
            quote_char=False if path.suffix == ".tsv" else '"',
            newlines_in_values=path.suffix != ".tsv",
            invalid_row_handler=skip,
        ),
        convert_options=csv.ConvertOptions(strings_can_be_null=False),
    )
    skipped = {number for number, _ in broken}
    numbers = range(2, 2 + table.num_rows + len(skipped))
    rows = [number for number in numbers if number not in skipped]
    return Table(str(path), path.parent, table.to_pydict(), rows, broken)


def _from_jsonl(path: Path) -> Table:
    records, rows, broken = [], [], []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                broken.append((number, one_line(error)))
                continue
            if not isinstance(record, dict):
                broken.append((number, "not an object"))
                continue
            records.append(record)
            rows.append(number)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [record.get(name) for record in records] for name in names}
    return Table(str(path), path.parent, columns, rows, broken)


def _from_parquet(path: Path) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(path)
    rows = list(range(1, table.num_rows + 1))
    return Table(str(path), path.parent, table.to_pydict(), rows)


def _from_folder(path: Path) -> Table:
    if not _is_saved_dataset(path):
        raise UserError(
            f"data: {path} is a folder that datasets did not save; give a table with a "
            "column of image paths (or use sogclr pretrain for images alone)"
        )
    from datasets import load_from_disk

    return _from_dataset(load_from_disk(str(path)), str(path))


def _is_saved_dataset(folder: Path) -> bool:
    """Tell whether `datasets` saved this folder."""
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))


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
    images = tuple(
        column for column, feature in dataset.features.items() if type(feature).__name__ == "Image"
    )
    columns = {c: dataset[c] if c not in images else None for c in dataset.column_names}
    rows = list(range(1, len(dataset) + 1))
    return Table(name, Path(), columns, rows, images=images, dataset=dataset)
