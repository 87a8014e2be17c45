"""What a person sees while something long runs: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .environment import rank

__all__ = ["console", "result", "say", "track"]

T = TypeVar("T")

# On stderr, so that what a command prints as its result can be piped.
console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=rank() > 0)
# The first process has a bar on its console, which only that one writes around.
everyone = Console(stderr=True, highlight=False, soft_wrap=True) if rank() > 0 else console


def say(text: str, *, for_all: bool = True) -> None:
    """One line to the person, exactly as it is.

    Args:
        text: the line.
        for_all: whether all processes know as much, so that one of them says it.
    """
    (console if for_all else everyone).print(text, markup=False)


def result(item: Any) -> None:
    """What was asked for, on stdout, where it can be piped."""
    Console(highlight=False).print(item)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar that disappears when done. Nothing is shown off a terminal."""
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
