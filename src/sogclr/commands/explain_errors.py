"""Explain in one line what other libraries raise when the user or the machine is at fault."""

import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from .. import __version__
from ..common.environment import processes
from ..common.errors import one_line

__all__ = ["explain", "report_line"]

# Words in messages of torch, for errors that have no class of their own.
LOADER_KILLED = "DataLoader worker"
LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
FULL = ("out of memory", "can't allocate memory", "not enough memory")


def explain(error: BaseException) -> str | None:
    """Explain an error in one line that says what to do; return None for a bug."""
    text = one_line(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in FULL)
    ):
        return f"the memory is full ({text or 'MemoryError'}); try a smaller --batch-size"
    if isinstance(error, RuntimeError) and LOADER_KILLED in text:
        return (
            f"a process that loads samples was killed, usually for lack of memory ({text}); "
            "try fewer --workers, then go on with --resume"
        )
    if processes() > 1 and _is_lost_connection(error, text):
        return (
            f"another process ended or did not answer ({text}); its own message says why; "
            "then go on with --resume"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or text}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"the system refused an operation ({text})"
    return None


def report_line() -> str:
    """Say that an error is a bug, and where to report it."""
    urls: dict[str, str] = {}
    with suppress(PackageNotFoundError):
        listed = metadata("sogclr").get_all("Project-URL") or []
        urls = dict(url.split(", ", 1) for url in listed)
    where = urls.get("Issues")
    place = f"at {where}" if where else "to the people from whom you have sogclr"
    return (
        f"this is a bug of sogclr {__version__}: please report it {place}, "
        "with the lines above and the command"
    )


def _is_lost_connection(error: BaseException, text: str) -> bool:
    distributed: Any = sys.modules.get("torch.distributed")
    lost = distributed is not None and isinstance(error, distributed.DistError)
    return lost or (isinstance(error, RuntimeError) and any(words in text for words in LOST))
