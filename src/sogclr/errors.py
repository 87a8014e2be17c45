"""What a person can put right: one clear line, exit code 2 on the command line."""

__all__ = ["UserError"]


class UserError(Exception):
    """What was wrong, where, and what to do about it, in one line."""
