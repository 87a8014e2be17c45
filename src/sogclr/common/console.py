"""Show progress and results: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .environment import rank

__all__ = ["console", "result", "say", "setting_line", "track"]

T = TypeVar("T")

# Progress goes to stderr, so that the result of a command on stdout can be piped.
console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=rank() > 0)
# A bar of the first process is on `console`; only that console can print around the bar.
everyone = Console(stderr=True, highlight=False, soft_wrap=True) if rank() > 0 else console


def say(text: str, *, for_all: bool = True) -> None:
    """Print one line on stderr, without markup.

    Args:
        text: the line.
        for_all: whether all processes have the same line, so that only the first prints it.
    """
    (console if for_all else everyone).print(text, markup=False)


def setting_line(name: str, value: object, reason: str) -> str:
    """Format a setting of a run, and how it was chosen, as a line of a table."""
    return f"  {name:<15} {f'{value} ':<12} {reason}"


def result(item: Any) -> None:
    """Print the result of a command on stdout."""
    Console(highlight=False).print(item)


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
