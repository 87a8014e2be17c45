"""`Table`: what every kind of table becomes when it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.errors import UserError, one_line

__all__ = ["BrokenRows", "Table", "require_distinct"]

SHOWN = 40  # characters of a name in a message

# `(row number, reason)` of each row that cannot be read at all.
BrokenRows = list[tuple[int, str]]


@dataclass
class Table:
    """Columns of equal length.

    Attributes:
        name: what messages call the table.
        root: folder that relative paths in the table start from.
        columns: by name, a list of values or a column of a Hugging Face data set.
        rows: the number of each row, for messages.
        broken: the rows that cannot be read at all.
        images: names of the columns that hold images instead of paths.
        dataset: the Hugging Face data set, if the table is one.
        header_is_certain: whether the names of the columns are certain. The first row of a CSV or
            TSV file may be data instead.
        notes: what is worth a look, though nothing is left out.
    """

    name: str
    root: Path
    columns: Mapping[str, Any]
    rows: list[int]
    broken: BrokenRows = field(default_factory=list)
    images: tuple[str, ...] = ()
    dataset: Any = None
    header_is_certain: bool = True
    notes: list[str] = field(default_factory=list)

    def values(self, column: str) -> list[Any]:
        """Return the values of a column.

        Raises:
            UserError: the file of a data set is damaged.
        """
        try:
            return list(self.columns[column])
        except Exception as error:  # of many types, by the kind of damage
            raise UserError(
                f"data: the column {column} of {self.name} cannot be read ({one_line(error)})"
            ) from error

    def list_columns(self) -> str:
        """List the names of the columns for a message."""
        return ", ".join(
            name if len(name) <= SHOWN else name[: SHOWN - 3] + "..." for name in self.columns
        )


def require_distinct(names: Sequence[str], table: Any) -> None:
    """Refuse columns with equal names: one would hide the other.

    Raises:
        UserError: two columns have the same name.
    """
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(
                f"data: {table} has several columns with the name {name!r}; rename all but one"
            )
