"""Show progress and results: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .environment import rank
from .printable import printable

__all__ = ["cell", "console", "result", "say", "setting_line", "track"]

T = TypeVar("T")
UNLIMITED = 10_000  # columns of a table that is written to a file

# Progress goes to stderr, so that the result of a command on stdout can be piped.
console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=rank() > 0)
# A bar of the first process is on `console`; only that console can print around the bar.
everyone = Console(stderr=True, highlight=False, soft_wrap=True) if rank() > 0 else console


def say(text: str, *, for_all: bool = True) -> None:
    """Print one line on stderr, as it is: brackets and colons are no markup.

    Args:
        text: the line.
        for_all: whether all processes have the same line, so that only the first prints it.
    """
    target = console if for_all else everyone
    target.print(Text(printable(text, target.encoding)))


def setting_line(name: str, value: object, reason: str) -> str:
    """Format a setting of a run, and how it was chosen, as a line of a table."""
    return f"  {name:<15} {f'{value} ':<12} {reason}"


def result(item: str | Table) -> None:
    """Print the result of a command on stdout: a line as it is, or a table.

    A line is never wrapped. A table is as wide as it needs to be, except on a terminal.
    """
    if isinstance(item, str):
        print(printable(item, sys.stdout.encoding))
        return
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = UNLIMITED
    output.print(item)


def cell(text: str) -> Text:
    """Make a cell of a table that `result` prints: text as it is, without markup."""
    return Text(printable(text, sys.stdout.encoding))


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on a terminal; the bar disappears at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield from bar.track(items, description=what, total=total)
