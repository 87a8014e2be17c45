"""Read Parquet files; text that is not UTF-8 by its row."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...common.errors import UserError, one_line
from .table import BrokenRows, Table, require_distinct

__all__ = ["read_parquet", "read_parquet_header"]


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or two columns have the same name.
    """
    broken: dict[int, str] = {}
    with _open(path) as file:
        table = file.read()
        columns = {name: _read_column(table[name], broken) for name in table.column_names}
    kept = [row for row in range(table.num_rows) if row + 1 not in broken]
    if broken:
        columns = {name: [values[row] for row in kept] for name, values in columns.items()}
    reasons: BrokenRows = sorted(broken.items())
    return Table(str(path), path.parent, columns, [row + 1 for row in kept], reasons)


def read_parquet_header(path: Path) -> Table:
    """Read the names of the columns of a Parquet file: the table without its rows.

    Raises:
        UserError: as of `read_parquet`.
    """
    with _open(path) as file:
        return Table(str(path), path.parent, {name: [] for name in file.schema_arrow.names}, [])


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a Parquet file; explain what is wrong with it while it is read."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError("data: .parquet needs pyarrow: pip install 'sogclr[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            require_distinct(file.schema_arrow.names, path)
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"data: {path} cannot be read ({one_line(error)})") from error


def _read_column(column: Any, broken: dict[int, str]) -> list[Any]:
    """Return the values of a column; add the rows whose text is not UTF-8 to `broken`."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values: list[Any] = []
        for row, value in enumerate(column, start=1):
            try:
                values.append(value.as_py())
            except UnicodeDecodeError:
                values.append(None)
                broken.setdefault(row, "not UTF-8")
        return values
