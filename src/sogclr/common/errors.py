"""What a person can put right: one clear line, exit code 2 on the command line."""

__all__ = ["UserError", "one_line"]


class UserError(Exception):
    """What was wrong, where, and what to do about it, in one line."""


def one_line(error: BaseException) -> str:
    """What another library says is wrong, to stand within such a line."""
    return " ".join(str(error).split())[:200]
