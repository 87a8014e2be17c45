"""Errors that the user can correct: one clear line, exit code 2 on the command line."""

from .printable import printable

__all__ = ["UserError", "flag", "one_line", "require", "shorten"]


class UserError(Exception):
    """Says in one line what was wrong, where, and what to do about it.

    A name in the message may hold line breaks or control characters; they are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def flag(name: str) -> str:
    """Name an option as the command line does: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def require(condition: bool, name: str, message: str) -> None:
    """Raise a UserError that names an option, unless the condition holds."""
    if not condition:
        raise UserError(f"{flag(name)}: {message}")


def one_line(error: BaseException) -> str:
    """Shorten the message of another library's error, to quote it within a line."""
    return shorten(str(error))


def shorten(message: str) -> str:
    """Shorten a message of another library, to quote it within a line."""
    return " ".join(message.split())[:200]
